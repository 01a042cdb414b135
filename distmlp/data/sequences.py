"""Next-token samples from a stream of tokens: windows of T tokens, each with the token that follows at every place.

Training moves the grid of windows in each epoch, so that a small text does not always show the same ones; what is left
over at the two edges, fewer than 2 T tokens, is dropped in that epoch. Evaluation predicts every token but the first
exactly once.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distmlp.data.counter_hash import hashed
from distmlp.data.dataset import IGNORED
from distmlp.data.token_files import Int64Array, TokenFiles


@dataclass(frozen=True)
class TrainStream:
    """Windows of the tokens ``first … after-1``, on the grid of one epoch (0 until `in_epoch` names another)."""

    tokens: TokenFiles
    first: int
    after: int
    sequence_length: int
    seed: int
    first_id: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        """As many in each epoch: the farthest grid leaves room for so many and the token after the last."""
        return max(0, (self.after - self.first - self.sequence_length) // self.sequence_length)

    @property
    def offset(self) -> int:
        """How far this epoch's grid is moved, in [0, T)."""
        return int(hashed(self.seed, self.epoch)[0] % np.uint64(self.sequence_length))

    def in_epoch(self, epoch: int) -> "TrainStream":
        return replace(self, epoch=epoch)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (len(positions), T) int64."""
        starts = positions.numpy() * self.sequence_length + (self.first + self.offset)
        windows = torch.from_numpy(self.tokens.gather(starts, self.sequence_length + 1))
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Numbers of the windows on this epoch's grid, int64, (len(positions),)."""
        return positions + self.first_id

    def num_targets(self, positions: Tensor) -> Tensor:
        """T for each, int64, (len(positions),)."""
        return torch.full_like(positions, self.sequence_length)


@dataclass(frozen=True)
class EvaluationStream:
    """Windows of the tokens ``first … after-1`` on a fixed grid; the last one is filled up with ``padding_id``."""

    tokens: TokenFiles
    first: int
    after: int
    sequence_length: int
    padding_id: int
    first_id: int = 0

    def __len__(self) -> int:
        return -(-max(0, self.after - self.first - 1) // self.sequence_length)

    def in_epoch(self, epoch: int) -> "EvaluationStream":
        return self

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (len(positions), T) int64; the targets of padding are `IGNORED`."""
        starts = positions.numpy() * self.sequence_length + self.first
        return padded_windows(
            self.tokens, starts, self.num_targets(positions).numpy(), self.sequence_length, self.padding_id
        )

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Numbers of the windows, int64, (len(positions),)."""
        return positions + self.first_id

    def num_targets(self, positions: Tensor) -> Tensor:
        """T, or less for the last window, int64, (len(positions),)."""
        left = (self.after - self.first - 1) - positions * self.sequence_length
        return left.clamp(max=self.sequence_length)


def padded_windows(
    tokens: TokenFiles, starts: Int64Array, lengths: Int64Array, sequence_length: int, padding_id: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets (n, T) int64: ``lengths`` (n,) tokens from ``starts`` (n,), then padding and `IGNORED`."""
    windows = tokens.gather(starts, sequence_length + 1)
    valid = np.arange(sequence_length) < lengths[:, None]
    inputs = np.where(valid, windows[:, :-1], padding_id)
    targets = np.where(valid, windows[:, 1:], IGNORED)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
