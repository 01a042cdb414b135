"""What is exported: whole tensors by name, each read from the checkpoint when its turn to be written comes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.tensor_file import DTYPES
from distmlp.errors import ConfigError

AVERAGE, WEIGHTS = "average", "weights"


@dataclass(frozen=True)
class Out:
    """A tensor that will be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def exported(reader: CheckpointReader, average: bool) -> dict[str, Out]:
    """The network's weights, or their moving average; what has no average, such as statistics, is as it is.

    Raises:
        ConfigError: there is no average.
    """
    averaged = set(reader.names(AVERAGE)) if average else set()
    if average and not averaged:
        raise ConfigError(f"{reader.where} holds no moving average of the weights: trainer.ema_decay was not set")
    return {name: _out(reader, AVERAGE if name in averaged else WEIGHTS, name) for name in reader.names(WEIGHTS)}


def _out(reader: CheckpointReader, kind: str, name: str) -> Out:
    info = reader.manifest.tensors[f"{kind}/{name}"]
    return Out(DTYPES[info.dtype], info.shape, lambda: reader.whole(kind, name))


def as_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor in order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
