"""What every data source returns: three disjoint splits that hand out batches by index, and the facts a run records."""

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError

Task = Literal["classification", "regression", "next_token", "masked_token"]
SPLITS = ("train", "validation", "test")
IGNORED = -100  # a target that no loss counts: padding, and tokens that were not masked


class Split(Protocol):
    """A part of a data set. Positions are ``0 … len-1``; a sample's id is its row in the whole data set."""

    def __len__(self) -> int: ...

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (len(positions), *input_shape) float32 and targets (len(positions), …) by one gather."""
        ...

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Ids, int64, (len(positions),)."""
        ...


@runtime_checkable
class TokenSplit(Split, Protocol):
    """Sequences of tokens: inputs (n, T) int64 and targets (n, T) int64, of which the `IGNORED` count for nothing."""

    def in_epoch(self, epoch: int) -> "TokenSplit":
        """The split as training sees it in that epoch; what is random in it is a function of (seed, epoch, sample)."""
        ...

    def num_targets(self, positions: Tensor) -> Tensor:
        """Targets that count, int64, (len(positions),), known without reading a token."""
        ...


@dataclass(frozen=True)
class TensorSplit:
    """A split in memory: inputs (N, *shape) float32, targets (N,) int64 or (N, outputs) float32, rows (N,) int64."""

    inputs: Tensor
    targets: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs.index_select(0, positions), self.targets.index_select(0, positions)

    def sample_ids(self, positions: Tensor) -> Tensor:
        return self.rows[positions]


@dataclass(frozen=True)
class DataSet:
    """Three splits and what the network and the run folder need to know of them.

    ``num_outputs`` is the number of classes, of target columns, or of tokens, which then have a ``vocabulary``. The
    test split may be empty. ``fingerprint`` is a hash of the content (not of paths or dates). ``notes`` are lines that
    the user should read.
    """

    name: str
    task: Task
    input_shape: tuple[int, ...]
    num_outputs: int
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    notes: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None

    def split(self, name: str) -> Split:
        """The split called ``train``, ``validation`` or ``test``."""
        part: Split = getattr(self, name)
        return part


def split_rows(
    num_samples: int, *, validation_fraction: float, test_fraction: float, seed: int, source: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Disjoint row numbers (int64) of the train, validation and test splits: the same for the same seed.

    Raises:
        ConfigError: a split would be empty; the message names ``source`` and the sizes.
    """
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    num_test, num_validation = round(num_samples * test_fraction), round(num_samples * validation_fraction)
    num_train = num_samples - num_test - num_validation
    if min(num_train, num_validation, num_test) < 1:
        raise ConfigError(
            f"{source}: {num_samples} samples split into {num_train} train, {num_validation} validation and {num_test} "
            "test: a split is empty; give more samples or change data.validation_fraction and data.test_fraction"
        )
    return order[:num_train], order[num_train : num_train + num_validation], order[num_train + num_validation :]


def content_fingerprint(*arrays: npt.NDArray[np.generic]) -> str:
    """BLAKE2b-128 over shape, dtype and bytes of each array, ``blake2b:…``. Reads memory-mapped arrays by parts."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        rows = max(1, (1 << 26) // max(1, array[:1].nbytes)) if array.ndim else 1
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    return f"blake2b:{digest.hexdigest()}"
