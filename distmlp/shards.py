"""The words in which strategies and checkpoints speak of what a rank holds of the network and its optimizer.

A strategy says which part of which tensor lies where; a checkpoint writes and reads parts. Neither knows the other.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Range:
    """Elements ``start … stop-1`` of a tensor laid out flat, row by row."""

    start: int
    stop: int

    @property
    def num_elements(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Box:
    """A block of a tensor: in dimension ``d`` the indices ``offset[d] … offset[d] + shape[d] - 1``."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the parameter or buffer ``name``, whose whole has ``shape``.

    Attributes:
        copy: which of ``num_copies`` ranks that hold this very part this rank is. Of a range each writes its share; a
            box is written by copy 0, which is also how statistics that ranks keep apart come from one of them.
    """

    name: str
    shape: tuple[int, ...]
    part: Range | Box
    copy: int = 0
    num_copies: int = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """Values that this rank holds: ``tensor`` is a view of the real memory, so that writing into it is loading.

    Attributes:
        kind: ``weights`` (of the network, in the widest format there is of them), ``average`` (their moving average),
            or ``optimizer/<state>``, such as ``optimizer/exp_avg``.
        tensor: contiguous; its elements, in order, are those of ``place.part``.
    """

    kind: str
    place: Place
    tensor: Tensor
