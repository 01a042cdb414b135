"""What strategies cannot do, and how they divide the ranks: pure rules over the configuration and the world.

Checked before a process starts or a file is written. Each rule says what cannot be, why, and what can.
"""

from typing import Literal

from distmlp.config import Config
from distmlp.deepspeed_rules import check_deepspeed
from distmlp.errors import ConfigError
from distmlp.runtime import World
from distmlp.schema.strategy import (
    DeepSpeedStrategy,
    FSDP2Strategy,
    HSDPStrategy,
    LocalSGDStrategy,
    TensorParallelStrategy,
)

FP8_STRATEGIES = ("auto", "single", "ddp")
SPLIT_BY_TENSOR_PARALLEL = ("mlp", "gpt", "bert", "vit")


def check_strategy(config: Config, world: World, device_type: str) -> None:
    """Ends with a `ConfigError` where the strategy cannot do what the configuration asks, on this world and device."""
    strategy = config.strategy
    if strategy.name == "single" and world.world_size > 1:
        raise ConfigError(f"strategy=single is one process, but WORLD_SIZE={world.world_size}: use strategy=ddp")
    if device_type == "mps" and strategy.name not in ("single", "auto"):
        raise ConfigError(f"strategy={strategy.name} needs a CPU or NVIDIA GPUs: on mps use strategy=single")
    if isinstance(strategy, DeepSpeedStrategy):
        check_deepspeed(config, world, device_type)
    if isinstance(strategy, LocalSGDStrategy):
        group_size(strategy, world)
        if config.trainer.ema_decay is not None:
            raise ConfigError(
                "trainer.ema_decay does not work with strategy=ddp_localsgd, whose ranks hold different weights "
                "between two averages: use strategy=ddp"
            )
    if isinstance(strategy, HSDPStrategy):
        hsdp_sizes(strategy, world)
    if isinstance(strategy, TensorParallelStrategy):
        _check_tensor_parallel(config, tensor_sizes(strategy, world)[1])
    if (
        config.precision.name == "fp8"
        and not isinstance(strategy, FSDP2Strategy)
        and strategy.name not in FP8_STRATEGIES
    ):
        raise ConfigError(f"precision=fp8 does not work with strategy={strategy.name}: use strategy=ddp or fsdp2")


def data_world(config: Config, world: World) -> World:
    """The world as the data see it: ranks that split a layer between them hold the same samples, and count as one."""
    if not isinstance(config.strategy, TensorParallelStrategy):
        return world
    tensor_size = tensor_sizes(config.strategy, world)[1]
    return World(
        rank=world.rank // tensor_size,
        world_size=world.world_size // tensor_size,
        local_rank=world.local_rank // tensor_size,
        local_world_size=max(1, world.local_world_size // tensor_size),
    )


def group_size(strategy: LocalSGDStrategy, world: World) -> int:
    """Ranks that average gradients in each step."""
    size = world.local_world_size if strategy.group_size == "auto" else strategy.group_size
    if world.world_size % size:
        raise ConfigError(
            f"strategy.group_size={size} does not divide the world size {world.world_size}: use one of "
            f"{_divisors(world.world_size)}"
        )
    return size


def hsdp_sizes(strategy: HSDPStrategy, world: World) -> tuple[int, int]:
    """(replicas, ranks that share one)."""
    return _two_sizes(
        world, ("replicate_size", strategy.replicate_size), ("shard_size", strategy.shard_size), "strategy=fsdp2"
    )


def tensor_sizes(strategy: TensorParallelStrategy, world: World) -> tuple[int, int]:
    """(ranks that hold different samples, ranks that split a layer)."""
    return _two_sizes(
        world, ("data_size", strategy.data_size), ("tensor_size", strategy.tensor_size), "another number of processes"
    )


def _two_sizes(
    world: World, outer: tuple[str, int | Literal["auto"]], inner: tuple[str, int | Literal["auto"]], instead: str
) -> tuple[int, int]:
    """Two degrees whose product is the world size, where ``auto`` is a node's ranks (inner) or what is left (outer)."""
    total, (outer_name, given_outer), (inner_name, given_inner) = world.world_size, outer, inner
    if given_inner != "auto":
        second = given_inner
    else:
        second = world.local_world_size if given_outer == "auto" else max(1, total // given_outer)
    first = max(1, total // second) if given_outer == "auto" else given_outer
    if first * second != total:
        raise ConfigError(
            f"strategy.{outer_name}={first} times strategy.{inner_name}={second} is {first * second}, and the world "
            f"size is {total}: the two must multiply to it; strategy.{inner_name} may be one of "
            f"{_divisors(total)}, or use {instead}"
        )
    return first, second


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def _check_tensor_parallel(config: Config, tensor_size: int) -> None:
    model = config.model
    if model.name not in SPLIT_BY_TENSOR_PARALLEL:
        raise ConfigError(
            f"strategy=tensor_parallel has no plan to split model={model.name}: it splits "
            f"{', '.join(SPLIT_BY_TENSOR_PARALLEL)}; use strategy=fsdp2"
        )
    for key in ("num_heads", "num_kv_heads", "mlp_width"):
        value = getattr(model, key, None)
        if value is not None and value % tensor_size:
            raise ConfigError(
                f"model.{key}={value} is not divisible by strategy.tensor_size={tensor_size}: every rank takes an "
                f"equal part; choose a strategy.tensor_size that divides it, or use strategy=fsdp2"
            )
    for width in getattr(model, "hidden", []):
        if width % tensor_size:
            raise ConfigError(
                f"model.hidden holds {width}, which strategy.tensor_size={tensor_size} does not divide: every rank "
                "takes an equal part; choose other widths, or use strategy=fsdp2"
            )
