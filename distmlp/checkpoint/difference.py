"""What differs between two checkpoints: their state key by key, their tensors value by value, one at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from typing import Any

from torch import Tensor

from distmlp.checkpoint.manifest import TensorInfo
from distmlp.checkpoint.overview import kind_of, tensor_bytes
from distmlp.checkpoint.reader import CheckpointReader

NEVER_ALIKE = ("saved_at", "seconds")  # two checkpoints of one and the same run differ in them
MISSING = object()


@dataclass(frozen=True)
class TensorDifference:
    """Of a tensor that both hold in one shape. ``largest`` is nan where only one of two values is a number."""

    key: str
    num_differing: int
    num_elements: int
    largest: float


@dataclass(frozen=True)
class Difference:
    """All that differs. ``state``: both values by dotted key; `MISSING` stands for a key that one lacks."""

    state: dict[str, tuple[Any, Any]]
    only_in_first: list[str]
    only_in_second: list[str]
    forms: dict[str, tuple[TensorInfo, TensorInfo]]
    values: list[TensorDifference]
    num_equal: int

    @property
    def is_empty(self) -> bool:
        parts = (self.state, self.only_in_first, self.only_in_second, self.forms, self.values)
        return not any(parts)


def compare(
    first: CheckpointReader, second: CheckpointReader, advance: Callable[[int], None] = lambda num_bytes: None
) -> Difference:
    """How ``second`` differs from ``first``; ``advance`` is told of the bytes of each tensor that was compared.

    When a checkpoint was written, and how long that took, is no difference.
    """
    mine, theirs = first.manifest.tensors, second.manifest.tensors
    shared = [key for key in mine if key in theirs]
    forms = {key: (mine[key], theirs[key]) for key in shared if _form(mine[key]) != _form(theirs[key])}
    values = [_compare_tensor(first, second, key, advance) for key in shared if key not in forms]
    return Difference(
        dict(_state_differences(flat(first.state), flat(second.state))),
        [key for key in mine if key not in theirs],
        [key for key in theirs if key not in mine],
        forms,
        [one for one in values if one.num_differing],
        sum(not one.num_differing for one in values),
    )


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """JSON as one value for each dotted key; a list of plain values is one value."""
    if isinstance(values, dict) and values:
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix: values}
    return {key: v for name, value in items for key, v in flat(value, f"{prefix}.{name}" if prefix else name).items()}


def shared_bytes(first: CheckpointReader, second: CheckpointReader) -> int:
    """How many bytes `compare` will tell of."""
    theirs = second.manifest.tensors
    return sum(tensor_bytes(info) for key, info in first.manifest.tensors.items() if key in theirs)


def _state_differences(mine: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in sorted(mine.keys() | theirs.keys()):
        pair = mine.get(key, MISSING), theirs.get(key, MISSING)
        if key not in NEVER_ALIKE and pair[0] != pair[1]:
            yield key, pair


def _form(info: TensorInfo) -> tuple[tuple[int, ...], str]:
    return info.shape, info.dtype


def _compare_tensor(
    first: CheckpointReader, second: CheckpointReader, key: str, advance: Callable[[int], None]
) -> TensorDifference:
    kind = kind_of(key)
    name = key.removeprefix(f"{kind}/")
    found = difference(first.whole(kind, name), second.whole(kind, name), key)
    advance(tensor_bytes(first.manifest.tensors[key]))
    return found


def difference(mine: Tensor, theirs: Tensor, key: str) -> TensorDifference:
    """Equal are equal numbers, and NaN with NaN."""
    if mine.is_floating_point() and mine.itemsize == 1:  # torch does not compare these
        mine, theirs = mine.float(), theirs.float()
    differs = (mine != theirs) & ~((mine != mine) & (theirs != theirs))
    count = int(differs.sum())
    if not count:
        return TensorDifference(key, 0, mine.numel(), 0.0)
    gaps = (mine[differs].double() - theirs[differs].double()).abs()
    largest = nan if gaps.isnan().any() else float(gaps.max())
    return TensorDifference(key, count, mine.numel(), largest)


def widest_first(values: list[TensorDifference]) -> list[TensorDifference]:
    """Those that are no number before the others."""
    return sorted(values, key=lambda one: (one.largest == one.largest, -one.largest))
