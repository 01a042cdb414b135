"""What every foreign checkpoint becomes: tensors by name that are read when they are asked for, and its position."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

PICKLE_WARNING = "these files are pickles, which can run code when they are loaded"
# Words that wrappers put into the names of what they wrap.
WRAPPERS = ("_orig_mod.",)


@dataclass(frozen=True)
class Stored:
    """A tensor in a foreign checkpoint."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def cast(self, dtype: torch.dtype) -> "Stored":
        """The same in another number format."""
        return Stored(self.shape, dtype, lambda: self.read().to(dtype))


@dataclass(frozen=True)
class Source:
    """A foreign checkpoint.

    Attributes:
        kind: what wrote it, in words.
        where: for messages.
        tensors: all that it holds, by name.
        step, epoch, samples: where its training was; 0 where it does not say.
        warning: what the user should know of having read it.
    """

    kind: str
    where: str
    tensors: dict[str, Stored]
    step: int = 0
    epoch: int = 0
    samples: int = 0
    warning: str = ""


def stored(tensor: Any) -> Stored:
    """A tensor, or what gives one with `contiguous()`, that is there already."""
    return Stored(tuple(tensor.shape), tensor.dtype, lambda: tensor.contiguous())


def plain_name(name: str) -> str:
    """``name`` without the words of wrappers."""
    for word in WRAPPERS:
        name = name.replace(word, "")
    return name


def number(values: dict[str, Any], key: str) -> int:
    """A count in ``values``; 0 where there is none."""
    value = values.get(key)
    return value if isinstance(value, int) and value >= 0 else 0
