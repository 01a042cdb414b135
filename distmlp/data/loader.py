"""Batches for one rank: each global batch is cut into the ranks' shares, in the order that `order.py` defines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distmlp.data.dataset import Split, TokenSplit
from distmlp.data.order import permuted

# Positions are mapped to samples for about so many at a time: cheap per batch, and constant memory for any set.
POSITIONS_AT_ONCE = 4096


@dataclass(slots=True)
class Share:
    """One rank's share of one global batch: ``positions`` in a split, gathered when they are asked for.

    Gathered by the step itself, a batch's memory is free again before the next one needs it, and stays in the cache.

    A rank whose share is empty (fewer samples than ranks at the end of an epoch) holds one position and
    ``num_samples`` 0, so that it takes part in the collectives with weight 0. ``largest`` is the largest share that any
    rank holds of this batch.
    """

    split: Split
    positions: Tensor
    num_samples: int
    largest: int
    global_num_samples: int
    count_targets: Callable[[Tensor], int]
    global_num_targets: int
    global_positions: Tensor | None
    is_last: bool

    def __len__(self) -> int:
        return self.positions.shape[0]

    def parts(self, micro_batch_size: int) -> list[tuple[slice, float]]:
        """Micro-batches of at most ``micro_batch_size`` samples, each with its `weight`: as many as on any other rank.

        Strategies communicate in each pass, so every rank must take the same number of them. Where there are fewer
        samples than micro-batches, one is taken again with weight 0.
        """
        number = -(-self.largest // micro_batch_size)
        bounds = [share_bounds(len(self), index, number) for index in range(number)]
        return [
            (slice(start, stop), self.weight(slice(start, stop))) if stop > start else (slice(0, 1), 0.0)
            for start, stop in bounds
        ]

    def tensors(self, part: slice | None = None) -> tuple[Tensor, Tensor]:
        """Inputs (n, *input_shape) and targets (n, …) of the share, or of a ``part`` of it."""
        return self.split.batch(self.positions if part is None else self.positions[part])

    def weight(self, part: slice | None = None) -> float:
        """What the mean loss of the share, or of a ``part`` of it, counts in the mean over the global batch's targets.

        Known before anything is gathered, and without asking other ranks, also where samples differ in targets.
        """
        if self.num_samples == 0:
            return 0.0
        positions = self.positions if part is None else self.positions[part]
        return self.count_targets(positions) / max(1, self.global_num_targets)

    def sample_ids(self) -> Tensor | None:
        """Ids of the whole global batch, int64, where the loader was asked for them."""
        return None if self.global_positions is None else self.split.sample_ids(self.global_positions)


class EpochOrder:
    """The order of one epoch over ``num_samples``. Lightning calls `set_epoch` through the loader's ``sampler``."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def positions(self, start: int, stop: int) -> Tensor:
        """Samples at ``start … stop-1`` of this epoch's order, int64."""
        return torch.from_numpy(permuted(np.arange(start, stop), self.num_samples, self.seed, self.epoch))


class TrainLoader:
    """This rank's shares of an epoch's global batches, the ragged last one included."""

    def __init__(
        self,
        split: Split,
        *,
        global_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        with_sample_ids: bool = False,
    ) -> None:
        self.split = split
        self.global_batch_size = global_batch_size
        self.rank = rank
        self.world_size = world_size
        self.with_sample_ids = with_sample_ids
        self.sampler = EpochOrder(len(split), seed)
        self.first = (0, 0)

    def start_at(self, epoch: int, samples: int) -> None:
        """Makes ``epoch`` start after its first ``samples``, which a resumed run has seen."""
        self.first = epoch, samples

    def __len__(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.split) // self.global_batch_size)

    def __iter__(self) -> Iterator[Share]:
        num_samples, size = len(self.split), self.global_batch_size
        split = self.split.in_epoch(self.sampler.epoch) if isinstance(self.split, TokenSplit) else self.split
        count = target_counter(split)
        block = max(1, POSITIONS_AT_ONCE // size) * size
        first = self.first[1] if self.sampler.epoch == self.first[0] else 0
        for block_start in range(first, num_samples, block):
            samples = self.sampler.positions(block_start, min(block_start + block, num_samples))
            for start in range(0, len(samples), size):
                batch = samples[start : start + size]
                yield self._share(split, count, batch, is_last=block_start + start + size >= num_samples)

    def _share(self, split: Split, count: Callable[[Tensor], int], batch: Tensor, is_last: bool) -> Share:
        first, after = share_bounds(len(batch), self.rank, self.world_size)
        mine = batch[first:after] if after > first else batch[:1]
        ids = batch if self.with_sample_ids else None
        largest = -(-len(batch) // self.world_size)
        return Share(split, mine, after - first, largest, len(batch), count, count(batch), ids, is_last)


class EvaluationLoader:
    """This rank's contiguous part of a split, each sample once, in as many batches as every other rank takes.

    A batch comes with the number of its samples that count: 0 where a rank has no sample left and repeats one, since
    some strategies communicate in each forward pass.
    """

    def __init__(self, split: Split, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.split = split
        self.first, self.after = share_bounds(len(split), rank, world_size)
        largest = -(-len(split) // world_size)
        self.num_batches = -(-largest // batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        for index in range(self.num_batches):
            start, stop = share_bounds(self.after - self.first, index, self.num_batches)
            positions = torch.arange(self.first + start, self.first + max(stop, start + 1)).clamp_(
                max=len(self.split) - 1
            )
            yield *self.split.batch(positions), stop - start


def target_counter(split: Split) -> Callable[[Tensor], int]:
    """Counts the targets of the samples at given positions: one a sample, unless samples are sequences."""
    if not isinstance(split, TokenSplit):
        return len
    return lambda positions: int(split.num_targets(positions).sum())


def share_bounds(num_samples: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and past-the-last position of ``rank``'s part of ``num_samples``; parts differ by at most one sample."""
    return num_samples * rank // world_size, num_samples * (rank + 1) // world_size
