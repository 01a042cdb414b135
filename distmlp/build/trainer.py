"""Lightning's Trainer for a configuration: device, strategy, precision."""

import warnings
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from distmlp.config import Config
from distmlp.runtime import World, device_type

LIGHTNING_PRECISION = {"fp32": "32-true", "bf16_mixed": "bf16-mixed"}


def build_trainer(config: Config, world: World, **options: Any) -> lightning.Trainer:
    """Lightning's Trainer on this world, with none of its own files, bars or samplers."""
    kind = device_type(config.trainer.accelerator)
    # The module takes several batches a call on purpose, and leans on none of the hooks that Lightning warns about.
    warnings.filterwarnings("ignore", message=".*`dataloader_iter`")
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=world.local_world_size,
        num_nodes=world.num_nodes,
        strategy=_strategy(config, world, kind),
        # Given, so that Lightning does not look for a launcher of its own: `runtime.py` has done so.
        plugins=[TorchElasticEnvironment() if world.world_size > 1 else LightningEnvironment()],
        precision=LIGHTNING_PRECISION[config.precision.name],  # type: ignore[arg-type]
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _strategy(config: Config, world: World, kind: str) -> Strategy:
    name = config.strategy.name
    if name == "ddp" or (name == "auto" and world.world_size > 1):
        return DDPStrategy(process_group_backend="nccl" if kind == "cuda" else "gloo")
    return SingleDeviceStrategy(device={"cuda": "cuda:0"}.get(kind, kind))
