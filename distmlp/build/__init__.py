"""From a validated configuration to the objects of a run: data, network, module, callbacks, Trainer.

The only package that turns names into code. Objects receive plain keyword arguments, never the configuration.
"""

from distmlp.build.checkpoints import first_epoch_and_sample
from distmlp.build.data import build_data, evaluation_loader, train_loader
from distmlp.build.network import build_network, build_token_network, meta_network
from distmlp.build.run import Run, build_run
from distmlp.build.strategy import build_strategy, choose_strategy
from distmlp.build.trainer import build_trainer
from distmlp.build.training import Horizon, build_module, horizon

__all__ = [
    "Horizon",
    "Run",
    "build_data",
    "build_module",
    "build_network",
    "build_run",
    "build_strategy",
    "build_token_network",
    "build_trainer",
    "choose_strategy",
    "evaluation_loader",
    "first_epoch_and_sample",
    "horizon",
    "meta_network",
    "train_loader",
]
