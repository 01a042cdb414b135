"""What DeepSpeed cannot do: it says so late and with a traceback, or does something else without a word."""

import importlib.util
import sys

from distmlp.config import Config
from distmlp.errors import ConfigError
from distmlp.runtime import World
from distmlp.schema.strategy import DeepSpeedStrategy


def check_deepspeed(config: Config, world: World, device_type: str) -> None:
    """Ends with a `ConfigError` where DeepSpeed cannot do what the configuration asks."""
    strategy = config.strategy
    assert isinstance(strategy, DeepSpeedStrategy)
    if importlib.util.find_spec("deepspeed") is None:
        how = "pip install deepspeed, or " if sys.platform == "linux" else "it runs on Linux only: "
        raise ConfigError(f"strategy={strategy.name} needs DeepSpeed, which is not installed: {how}use strategy=fsdp2")
    _check_training(config, strategy)
    _check_stage(strategy)
    _check_offload(config, strategy)
    _check_disk(config, strategy, device_type)
    _check_quantization(strategy, device_type)
    secondary_shard_size(strategy, world)


def secondary_shard_size(strategy: DeepSpeedStrategy, world: World) -> int:
    """Ranks that hold a second copy of the weights between them."""
    size = world.local_world_size if strategy.secondary_shard_size == "auto" else strategy.secondary_shard_size
    if world.world_size % size:
        fitting = ", ".join(str(n) for n in range(1, world.world_size + 1) if world.world_size % n == 0)
        raise ConfigError(
            f"strategy.secondary_shard_size={size} does not divide the world size {world.world_size}: "
            f"use one of {fitting}"
        )
    return size


def _check_training(config: Config, strategy: DeepSpeedStrategy) -> None:
    name, optimizer = strategy.name, config.optimizer
    if config.trainer.gradient_clip_value is not None:
        raise ConfigError(
            f"trainer.gradient_clip_value does not work with strategy={name}: DeepSpeed clips by the global norm only; "
            "use trainer.gradient_clip_norm, or strategy=fsdp2"
        )
    if config.model.compile and strategy.stage == 3:
        raise ConfigError(
            f"model.compile=true does not work inside strategy={name}: DeepSpeed swaps the parameters while it runs; "
            "use strategy=fsdp2, or deepspeed_zero2"
        )
    if config.trainer.micro_batch_size == "auto" and strategy.stage == 3:
        raise ConfigError(
            f"trainer.micro_batch_size=auto does not work with strategy={name}: DeepSpeed gathers weights in each "
            "pass and cannot take back one that broke off; give a number, or use strategy=fsdp2"
        )
    if optimizer.name == "muon":
        raise ConfigError(
            f"optimizer=muon does not work with strategy={name}: DeepSpeed flattens the matrices that Muon "
            "needs whole; use strategy=fsdp2, or optimizer=adamw"
        )
    if optimizer.name == "adagrad" and strategy.stage < 3 and optimizer.model_dump().get("weight_decay"):
        raise ConfigError(
            f"optimizer=adagrad with optimizer.weight_decay does not work with strategy={name}: DeepSpeed makes one "
            "group of the weights that decay and those that do not; use strategy=deepspeed_zero3 or fsdp2"
        )


def _check_stage(strategy: DeepSpeedStrategy) -> None:
    """Keys that DeepSpeed would pass over in silence below stage 3, or take for another choice."""
    if strategy.stage == 3:
        return
    lacking = f"needs stage 3, and strategy={strategy.name} has stage {strategy.stage}"
    if strategy.offload_parameters != "none":
        raise ConfigError(f"strategy.offload_parameters={strategy.offload_parameters} {lacking}")
    if strategy.offload_optimizer == "nvme":
        raise ConfigError(f"strategy.offload_optimizer=nvme {lacking}: use strategy.offload_optimizer=cpu")
    if strategy.secondary_shard_size != 1:
        raise ConfigError(f"strategy.secondary_shard_size={strategy.secondary_shard_size} {lacking}")
    for key in ("quantized_weights", "quantized_gradients"):
        if getattr(strategy, key):
            raise ConfigError(f"strategy.{key}=true {lacking}: use strategy=deepspeed_zeropp")


def _check_offload(config: Config, strategy: DeepSpeedStrategy) -> None:
    if config.precision.name == "bf16_true" and strategy.offload_optimizer != "none":
        raise ConfigError(
            "precision=bf16_true does not work with strategy.offload_optimizer: DeepSpeed offloads 32-bit states only; "
            "use precision=bf16_mixed, or strategy.offload_optimizer=none"
        )


def _check_disk(config: Config, strategy: DeepSpeedStrategy, device_type: str) -> None:
    if "nvme" not in (strategy.offload_optimizer, strategy.offload_parameters):
        return
    if strategy.nvme_path is None:
        raise ConfigError(f"strategy={strategy.name} needs strategy.nvme_path=FOLDER on a fast local disk")
    if config.trainer.ema_decay is not None:
        raise ConfigError(
            f"trainer.ema_decay does not work with strategy={strategy.name}, whose weights lie on the disk between two "
            "steps: use strategy=deepspeed_zero3_offload"
        )
    if config.optimizer.name == "adagrad" and strategy.offload_optimizer == "nvme":
        raise ConfigError(
            "optimizer=adagrad does not work with strategy.offload_optimizer=nvme: DeepSpeed makes its states while "
            "the weights are on the disk, and they are empty; use strategy.offload_optimizer=cpu, or optimizer=adamw"
        )
    if device_type == "cpu" and strategy.offload_parameters == "nvme" and config.precision.name == "fp32":
        raise ConfigError(
            "precision=fp32 does not work with strategy.offload_parameters=nvme on a CPU: DeepSpeed rounds the weights "
            "to bfloat16 on their way; use precision=bf16_mixed, or strategy.offload_parameters=cpu"
        )


def _check_quantization(strategy: DeepSpeedStrategy, device_type: str) -> None:
    asked = [key for key in ("quantized_weights", "quantized_gradients") if getattr(strategy, key)]
    if asked and device_type != "cuda":
        keys = " and ".join(f"strategy.{key}" for key in asked)
        off = " ".join(f"strategy.{key}=false" for key in asked)
        raise ConfigError(f"{keys} need CUDA kernels, and this run is on {device_type}: use {off}")
