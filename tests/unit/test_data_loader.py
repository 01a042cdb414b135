"""Every rank gets its share of the same global batches, and every sample is seen once an epoch, on any world size."""

import tracemalloc
from dataclasses import dataclass
from itertools import chain, pairwise

import pytest
import torch
from torch import Tensor

from distmlp.data.loader import POSITIONS_AT_ONCE, EvaluationLoader, Share, TrainLoader, share_bounds

SIZES = [
    (1, 1, 1),
    (7, 3, 1),
    (7, 3, 2),
    (10, 4, 3),
    (13, 4, 4),  # a last batch of one sample for four ranks
    (13, 5, 4),
    (64, 64, 5),
    (65, 64, 7),
    (100, 128, 3),  # one batch, smaller than the global batch
    (257, 32, 6),
    (5, 2, 4),  # fewer samples in every batch than ranks
    (POSITIONS_AT_ONCE + 77, 100, 3),
    (2 * POSITIONS_AT_ONCE, POSITIONS_AT_ONCE + 1, 2),  # a batch larger than a block of positions
]


@dataclass(frozen=True)
class Rows:
    """A split whose inputs are its positions; ids count from 1000."""

    num_samples: int

    def __len__(self) -> int:
        return self.num_samples

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return positions.double()[:, None], positions % 10

    def sample_ids(self, positions: Tensor) -> Tensor:
        return positions + 1000


def loaders(num_samples: int, size: int, world_size: int, *, seed: int = 0, epoch: int = 0) -> list[TrainLoader]:
    made = [
        TrainLoader(
            Rows(num_samples),
            global_batch_size=size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            with_sample_ids=True,
        )
        for rank in range(world_size)
    ]
    for loader in made:
        loader.sampler.set_epoch(epoch)
    return made


def rows_of(share: Share) -> list[int]:
    """The rows that count; a rank without any holds one of weight 0."""
    return [int(row) for row in share.tensors()[0][: share.num_samples, 0]]


def global_batches(num_samples: int, size: int, world_size: int, **order: int) -> list[list[int]]:
    steps = zip(*loaders(num_samples, size, world_size, **order), strict=True)
    return [[row for share in shares for row in rows_of(share)] for shares in steps]


@pytest.mark.parametrize(("num_samples", "size", "world_size"), SIZES)
def test_every_sample_is_seen_once_an_epoch(num_samples: int, size: int, world_size: int) -> None:
    batches = global_batches(num_samples, size, world_size, seed=3, epoch=2)
    assert sorted(row for batch in batches for row in batch) == list(range(num_samples))
    assert len(batches) == len(loaders(num_samples, size, world_size)[0]) == -(-num_samples // size)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(batches[-1]) == (num_samples % size or size)


@pytest.mark.parametrize(("num_samples", "size", "world_size"), SIZES)
def test_the_global_batches_do_not_depend_on_the_world_size(num_samples: int, size: int, world_size: int) -> None:
    assert global_batches(num_samples, size, world_size) == global_batches(num_samples, size, 1)


@pytest.mark.parametrize(("num_samples", "size", "world_size"), SIZES)
def test_a_share_says_how_many_samples_count_and_the_whole_batch_s_ids(
    num_samples: int, size: int, world_size: int
) -> None:
    num_steps = -(-num_samples // size)
    for step, shares in enumerate(zip(*loaders(num_samples, size, world_size), strict=True)):
        sizes = [share.num_samples for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert {share.global_num_samples for share in shares} == {sum(sizes)}
        assert {share.is_last for share in shares} == {step == num_steps - 1}
        ids = {row + 1000 for share in shares for row in rows_of(share)}
        for share in shares:
            inputs, targets = share.tensors()
            assert len(share) == len(inputs) == len(targets) == max(share.num_samples, 1)
            assert torch.equal(targets, inputs[:, 0].long() % 10)
            assert torch.equal(share.tensors(slice(0, 1))[0], inputs[:1])
            sample_ids = share.sample_ids()
            assert sample_ids is not None
            assert set(sample_ids.tolist()) == ids


def test_a_rank_without_a_sample_still_takes_part() -> None:
    last = [list(loader)[-1] for loader in loaders(13, 4, 4)]
    assert [share.num_samples for share in last] == [0, 0, 0, 1]
    assert all(share.tensors()[0].shape == (1, 1) for share in last)


def test_epochs_and_seeds_differ_and_come_back() -> None:
    orders = {
        (seed, epoch): str(global_batches(100, 10, 1, seed=seed, epoch=epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == str(global_batches(100, 10, 3, seed=1, epoch=2))
    assert sum(a == b for a, b in zip(range(100), chain(*global_batches(100, 10, 1)), strict=True)) < 10


def test_ids_are_collected_only_where_they_are_asked_for() -> None:
    (share,) = TrainLoader(Rows(3), global_batch_size=3, seed=0)
    assert share.sample_ids() is None


@pytest.mark.parametrize("size", [1, 64, 100, 5000])
def test_memory_does_not_grow_with_the_set(size: int) -> None:
    loader = TrainLoader(Rows(10**13), global_batch_size=size, seed=0, rank=1, world_size=3)
    assert len(loader) == -(-(10**13) // size)
    tracemalloc.start()
    try:
        batches = iter(loader)
        steps = 2 * max(1, POSITIONS_AT_ONCE // size)
        rows = {row for _ in range(steps) for row in rows_of(next(batches))}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) >= steps * size // 3 - steps
    assert peak < 4e6


@pytest.mark.parametrize("num_samples", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_evaluation_covers_each_sample_once_over_the_ranks(
    num_samples: int, world_size: int, batch_size: int
) -> None:
    ranks = [
        EvaluationLoader(Rows(num_samples), batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    rows = [int(row) for loader in ranks for inputs, _, counted in loader for row in inputs[:counted, 0]]
    assert rows == list(range(num_samples))
    # Strategies that communicate in each forward pass hang where ranks take different numbers of them.
    assert len({len(list(loader)) for loader in ranks}) == 1
    for loader in ranks:
        batches = list(loader)
        assert len(batches) == len(loader)
        for inputs, targets, counted in batches:
            assert 1 <= len(inputs) == len(targets) <= batch_size
            assert counted in (0, len(inputs))


@pytest.mark.parametrize(("num_samples", "size", "world_size"), SIZES)
@pytest.mark.parametrize("micro_batch_size", [1, 2, 5])
def test_ranks_take_as_many_micro_batches_each_which_weigh_one_together(
    num_samples: int, size: int, world_size: int, micro_batch_size: int
) -> None:
    for shares in zip(*loaders(num_samples, size, world_size), strict=True):
        parts = [share.parts(micro_batch_size) for share in shares]
        assert len({len(of_rank) for of_rank in parts}) == 1
        assert sum(weight for of_rank in parts for _, weight in of_rank) == pytest.approx(1.0)
        for share, of_rank in zip(shares, parts, strict=True):
            rows = [row for part, weight in of_rank if weight for row in share.tensors(part)[0][:, 0].tolist()]
            assert rows == rows_of(share)
            assert all(1 <= len(share.tensors(part)[0]) <= micro_batch_size for part, _ in of_rank)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_bounds_are_even_adjacent_and_complete(world_size: int) -> None:
    for num_samples in range(40):
        bounds = [share_bounds(num_samples, rank, world_size) for rank in range(world_size)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == num_samples
        assert all(left[1] == right[0] for left, right in pairwise(bounds))
        sizes = [after - first for first, after in bounds]
        assert max(sizes) - min(sizes) <= 1


@dataclass(frozen=True)
class Sentences(Rows):
    """Sequences of ``position % 4`` targets each, in an order of words that the epoch changes."""

    epoch: int = -1

    def in_epoch(self, epoch: int) -> "Sentences":
        return Sentences(self.num_samples, epoch)

    def num_targets(self, positions: Tensor) -> Tensor:
        return positions % 4


@pytest.mark.parametrize(("num_samples", "size", "world_size"), SIZES)
def test_weights_are_shares_of_the_global_batch_s_targets_over_ranks_and_micro_batches(
    num_samples: int, size: int, world_size: int
) -> None:
    made = [
        TrainLoader(Sentences(num_samples), global_batch_size=size, seed=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for shares in zip(*made, strict=True):
        total = shares[0].global_num_targets
        if total == 0:
            continue
        weights = [share.weight() for share in shares]
        counts = [int((share.positions % 4).sum()) if share.num_samples else 0 for share in shares]
        assert weights == [count / total for count in counts]
        assert sum(counts) == total
        parts = [share.weight(slice(start, start + 1)) for share in shares for start in range(len(share))]
        assert sum(parts) == pytest.approx(1.0)


def test_token_splits_are_told_the_epoch_in_training_and_only_there() -> None:
    (loader,) = loaders(3, 3, 1)
    loader.split = Sentences(3)
    loader.sampler.set_epoch(5)
    (share,) = loader
    assert isinstance(share.split, Sentences)
    assert share.split.epoch == 5
    evaluation = EvaluationLoader(Sentences(3), batch_size=3)
    assert isinstance(evaluation.split, Sentences)
    assert evaluation.split.epoch == -1
