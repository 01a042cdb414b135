"""The strategy of a configuration, ready for Lightning's Trainer."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import nn

from distmlp.build.tensor_plans import check_layers, split_layers
from distmlp.config import Config
from distmlp.deepspeed_rules import secondary_shard_size
from distmlp.devices import gpu_index
from distmlp.runtime import World
from distmlp.schema.strategy import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDP2Strategy,
    HSDPStrategy,
    LocalSGDStrategy,
    PowerSGDStrategy,
    SingleStrategy,
    StrategySection,
    TensorParallelStrategy,
)
from distmlp.strategy.precision import precision_on
from distmlp.strategy_rules import group_size, hsdp_sizes, tensor_sizes

# Values of 4 bytes that an optimizer keeps for each weight.
OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adagrad": 1, "rmsprop": 1, "lion": 1, "muon": 2}
SHARE_FOR_STATES = 0.5  # of a rank's memory; the rest is for activations
GIB = 2**30


def build_strategy(config: Config, chosen: StrategySection, world: World, device_type: str) -> Strategy:
    """The Lightning strategy that ``chosen`` (never ``auto``) describes, on this rank."""
    precision = precision_on(config.precision.name, device_type)
    device = torch.device(device_type)
    if device_type == "cuda":
        device = torch.device(device_type, gpu_index(world, torch.cuda.device_count()))
    if isinstance(chosen, SingleStrategy):
        from distmlp.strategy.single import Single

        return Single(device=device, precision=precision)
    place: dict[str, Any] = {"device": device, "precision": precision}
    place |= {"rank": world.rank, "world_size": world.world_size}
    options = place | chosen.model_dump(exclude={"name"})
    if isinstance(chosen, DDPStrategy):
        return _ddp(chosen, options, world)
    if isinstance(chosen, FSDP2Strategy):
        return _fsdp(chosen, options, world)
    assert isinstance(chosen, DeepSpeedStrategy)
    return _deepspeed(chosen, place | {"max_norm": config.trainer.gradient_clip_norm}, world)


def _ddp(chosen: DDPStrategy, options: dict[str, Any], world: World) -> Strategy:
    from distmlp.strategy.ddp import DDP
    from distmlp.strategy.ddp_compressed import CompressedDDP
    from distmlp.strategy.ddp_localsgd import LocalSGD
    from distmlp.strategy.ddp_powersgd import PowerSGD

    if isinstance(chosen, PowerSGDStrategy):
        return PowerSGD(**options)
    if isinstance(chosen, LocalSGDStrategy):
        return LocalSGD(**options | {"group_size": group_size(chosen, world)})
    if chosen.name == "ddp":
        return DDP(**options)
    return CompressedDDP(dtype=torch.float16 if chosen.name == "ddp_fp16_compress" else torch.bfloat16, **options)


def _fsdp(chosen: FSDP2Strategy, options: dict[str, Any], world: World) -> Strategy:
    from distmlp.strategy.fsdp2 import FSDP2
    from distmlp.strategy.hsdp import HSDP
    from distmlp.strategy.tensor_parallel import TensorParallel

    for degree in ("shard_size", "replicate_size", "tensor_size", "data_size"):
        options.pop(degree, None)
    if isinstance(chosen, HSDPStrategy):
        return HSDP(shard_size=hsdp_sizes(chosen, world)[1], **options)
    if isinstance(chosen, TensorParallelStrategy):
        return TensorParallel(tensor_size=tensor_sizes(chosen, world)[1], plan=split_layers, **options)
    return FSDP2(**options)


def _deepspeed(chosen: DeepSpeedStrategy, options: dict[str, Any], world: World) -> Strategy:
    from distmlp.strategy.deepspeed import DeepSpeed
    from distmlp.strategy.deepspeed_config import ZeroOptions

    sizes = {"secondary_shard_size": secondary_shard_size(chosen, world)}
    zero = ZeroOptions(**chosen.model_dump(exclude={"name"}) | sizes)
    return DeepSpeed(zero=zero, **options)


def choose_strategy(config: Config, network: nn.Module, world: World, device_type: str) -> tuple[StrategySection, str]:
    """The strategy itself where one is named; for ``auto`` the one that fits, and the reason as a line for the user.

    Raises:
        ConfigError: the layers of ``network`` cannot be split as the strategy says.
    """
    if isinstance(config.strategy, TensorParallelStrategy):
        check_layers(network, tensor_sizes(config.strategy, world)[1])
    if config.strategy.name != "auto":
        return config.strategy, ""
    if world.world_size == 1:
        return SingleStrategy(name="single"), "strategy=auto chose single: one process"
    needed = state_bytes(network.parameters(), config.optimizer.name)
    limit = SHARE_FOR_STATES * _memory_bytes(world, device_type)
    states = f"weights, gradients and optimizer states ({needed / GIB:.2f} GiB)"
    half = f"half of a rank's {limit / SHARE_FOR_STATES / GIB:.0f} GiB"
    if needed <= limit:
        return DDPStrategy(name="ddp"), f"strategy=auto chose ddp: {states} fit into {half}"
    return FSDP2Strategy(name="fsdp2"), f"strategy=auto chose fsdp2: {states} do not fit into {half}"


def state_bytes(parameters: Iterable[nn.Parameter], optimizer: str) -> int:
    """Bytes of weights, gradients and optimizer states where every rank holds all of them, in 32 bits."""
    values = 2 + OPTIMIZER_STATES.get(optimizer, 2)
    return 4 * values * sum(parameter.numel() for parameter in parameters)


def _memory_bytes(world: World, device_type: str) -> int:
    if device_type == "cuda":
        return int(torch.cuda.get_device_properties(gpu_index(world, torch.cuda.device_count())).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world.local_world_size
