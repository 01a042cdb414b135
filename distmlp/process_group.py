"""What ranks tell each other before they train: that they mean the same run, and where its folder is."""

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from distmlp.devices import gpu_index
from distmlp.errors import ConfigError
from distmlp.launch.rendezvous import meeting
from distmlp.runtime import World

T = TypeVar("T")


def form_process_group(world: World, backend: str) -> None:
    """Forms the process group: of all ranks, or of one process alone, since sharded strategies need one then too."""
    import torch.distributed

    if backend == "nccl":
        torch.cuda.set_device(gpu_index(world, torch.cuda.device_count()))
    met = meeting()
    if met is not None:
        shared = torch.distributed.PrefixStore("group", met.store)  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=shared, rank=world.rank, world_size=world.world_size)
    elif world.world_size > 1:
        torch.distributed.init_process_group(backend)
    else:
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def leave_process_group() -> None:
    """Ends the process group, if one was formed.

    What a run leaves behind in cycles, as DDP's reducer, keeps gloo's threads alive beyond that. One that still holds a
    tensor while the interpreter ends aborts the process, so they are ended first.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


def from_rank_zero(world: World, make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every rank. A `ConfigError` of rank 0 is raised on every rank, too."""
    if world.world_size == 1:
        return make()
    import torch.distributed

    outcome: list[Any] = [None, None]
    if world.rank == 0:
        try:
            outcome[0] = make()
        except ConfigError as error:
            outcome[1] = str(error)
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise ConfigError(outcome[1])
    made: T = outcome[0]
    return made


def wait_for_rank_zero(world: World) -> None:
    """Returns once rank 0 is here. A rank that ends with another status than 0 makes the agent stop the others."""
    from_rank_zero(world, lambda: None)


def check_same_configuration(world: World, values: Mapping[str, Any]) -> None:
    """Ends with one `ConfigError` on every rank, where a rank holds other ``values`` than rank 0."""
    if world.world_size == 1:
        return
    import torch.distributed

    own = dict(_flat(values))
    first = from_rank_zero(world, lambda: own)
    differences = [
        f"{key}={own.get(key, '(absent)')}, which is {first.get(key, '(absent)')} on rank 0"
        for key in sorted(own.keys() | first.keys())
        if repr(own.get(key)) != repr(first.get(key))
    ]
    found: list[list[str]] = [[] for _ in range(world.world_size)]
    torch.distributed.all_gather_object(found, differences)
    for rank, lines in enumerate(found):
        if lines:
            raise ConfigError(f"rank {rank} has {lines[0]}: start every rank with the same words and files")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
