"""Lightning's Trainer for a configuration, on its device."""

import warnings
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import Strategy

from distmlp.config import Config
from distmlp.devices import device_type
from distmlp.runtime import World


def build_trainer(config: Config, strategy: Strategy, world: World, **options: Any) -> lightning.Trainer:
    """Lightning's Trainer on this world, with none of its own files, bars, samplers or precisions."""
    kind = device_type(config.trainer.accelerator)
    # Where the launcher has bound one GPU to each process, Lightning would miss the others.
    devices = min(world.local_world_size, torch.cuda.device_count()) if kind == "cuda" else world.local_world_size
    # The module takes several batches a call on purpose, and leans on none of the hooks that Lightning warns about.
    warnings.filterwarnings("ignore", message=".*`dataloader_iter`")
    # Nor does it know that `runtime.py` reads who started the ranks, where SLURM is installed.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=devices,
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
