"""What DeepSpeed steps, and how it comes off a disk and back for a checkpoint, where it lies there between two steps.

DeepSpeed reads one flat tensor with its states into buffers of its own, steps it, and writes it back. A checkpoint
wants all of them at once, so each is read the same way and copied. Flat tensors below 1 MiB never leave host memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distmlp.strategy.deepspeed_places import flat_masters
from distmlp.strategy.optimizer_states import tensor_states


@dataclass(frozen=True, slots=True)
class Flat:
    """A tensor that is stepped, and those of its states that have a value for each of its values."""

    weights: Tensor
    states: dict[str, Tensor]

    def clone(self) -> "Flat":
        return Flat(self.weights.clone(), {key: state.clone() for key, state in self.states.items()})

    def copy_from(self, other: "Flat") -> None:
        """Takes over the values of one with the same states."""
        self.weights.copy_(other.weights)
        for key, state in self.states.items():
            state.copy_(other.states[key])


@dataclass
class Staging:
    """Copies in host memory of what lies on the disk; `write_flat` and `write_partition` take them back.

    Attributes:
        flats: one for each of DeepSpeed's; what is in memory anyway stands here itself.
        frozen: partitions of parameters that are not trained, by name.
    """

    flats: list[Flat]
    frozen: dict[str, tuple[Any, Tensor]] = field(default_factory=dict)


def read_flats(sharded: Any) -> list[Flat]:
    """What is stepped: itself where it is in memory, a copy where it lies on the disk."""
    return [_read_flat(sharded, group, flat) for group, flat in enumerate(flat_masters(sharded))]


def _read_flat(sharded: Any, group: int, flat: Tensor) -> Flat:
    with in_memory(sharded, group):
        held = _held(sharded, flat)
        return held.clone() if flat_is_on_disk(sharded, group) else held


@torch.no_grad()
def write_flat(sharded: Any, group: int, staged: Flat) -> None:
    """Makes the flat tensor ``group`` with its states what ``staged`` is, and the network's weights follow."""
    with in_memory(sharded, group, writes=True):
        if flat_is_on_disk(sharded, group):
            _held(sharded, flat_masters(sharded)[group]).copy_from(staged)
        sharded._reassign_or_swap_out_partitioned_parameters(group)


@contextmanager
def in_memory(sharded: Any, group: int, *, writes: bool = False) -> Iterator[None]:
    """Within, the flat tensor ``group`` and its states have their values; ``writes``: changes are kept."""
    is_on_disk = flat_is_on_disk(sharded, group)
    if is_on_disk:
        sharded._optimizer_states_and_gradient_swap_in(group)
    yield
    if is_on_disk and writes:
        sharded._optimizer_states_and_gradient_swap_out(group)
    elif is_on_disk:
        sharded._release_swap_buffers(group)


def flat_is_on_disk(sharded: Any, group: int) -> bool:
    """Whether the flat tensor ``group`` lies there between two steps; never below stage 3."""
    return bool(getattr(sharded, "swap_optimizer", False) and sharded._swappable_optimizer_subgroup(group))


def partition_is_on_disk(parameter: Any) -> bool:
    """Whether this rank's part of a parameter under ZeRO-3 lies there, in the format that the network computes in."""
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus

    return bool(parameter.ds_tensor.status == PartitionedParamStatus.NOT_AVAILABLE)


def read_partition(parameter: Any) -> Tensor:
    """A copy of that part, with its padding."""
    swapper = parameter.nvme_swapper
    swapper.swap_in([parameter], async_op=False)
    values: Tensor = parameter.ds_tensor.detach().clone()
    swapper.remove_partition_and_release_buffers([parameter])
    return values


def write_partition(parameter: Any, values: Tensor) -> None:
    """Writes what `read_partition` gave, changed, back to the disk."""
    swapper = parameter.nvme_swapper
    swapper.swap_in([parameter], async_op=False)  # into a buffer that can be written from
    parameter.ds_tensor.data.copy_(values)
    swapper.swap_out_and_release([parameter])


def _held(sharded: Any, flat: Tensor) -> Flat:
    return Flat(flat.detach(), tensor_states(flat, sharded.optimizer.state.get(flat, {})))
