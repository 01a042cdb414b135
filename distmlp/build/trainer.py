"""Lightning's Trainer for a configuration, on its device."""

import warnings
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import Strategy

from distmlp.config import Config
from distmlp.errors import ConfigError
from distmlp.runtime import World


def device_type(accelerator: str) -> str:
    """``cuda``, ``mps`` or ``cpu``.

    Raises:
        ConfigError: the accelerator is not there; it is never replaced quietly.
    """
    has_mps = torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU here: use trainer.accelerator=cpu or auto")
    if accelerator == "mps" and not has_mps:
        raise ConfigError("trainer.accelerator=mps, but torch sees no Apple GPU: use trainer.accelerator=cpu or auto")
    return {"gpu": "cuda", "mps": "mps", "cpu": "cpu"}[accelerator]


def build_trainer(config: Config, strategy: Strategy, world: World, **options: Any) -> lightning.Trainer:
    """Lightning's Trainer on this world, with none of its own files, bars, samplers or precisions."""
    kind = device_type(config.trainer.accelerator)
    # The module takes several batches a call on purpose, and leans on none of the hooks that Lightning warns about.
    warnings.filterwarnings("ignore", message=".*`dataloader_iter`")
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=world.local_world_size,
        num_nodes=world.num_nodes,
        strategy=strategy,
        # Given, so that Lightning does not look for a launcher of its own: `runtime.py` has done so.
        plugins=[TorchElasticEnvironment() if world.world_size > 1 else LightningEnvironment()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
