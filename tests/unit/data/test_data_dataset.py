"""Splits are disjoint, complete and the same for the same seed; the fingerprint sees content and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distmlp.data.dataset import TensorSplit, content_fingerprint, split_rows
from distmlp.errors import ConfigError


def rows_of(seed: int, num_samples: int = 100) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return split_rows(num_samples, validation_fraction=0.1, test_fraction=0.2, seed=seed, source="x")


def test_splits_are_disjoint_and_complete() -> None:
    train, validation, test = rows_of(seed=3)
    assert (len(train), len(validation), len(test)) == (70, 10, 20)
    assert torch.cat([train, validation, test]).sort().values.tolist() == list(range(100))
    assert train.dtype == torch.int64


def test_splits_follow_the_seed() -> None:
    for same, other, again in zip(rows_of(3), rows_of(4), rows_of(3), strict=True):
        assert torch.equal(same, again)
        assert not torch.equal(same, other)


def test_splits_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rows_of(3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("num_samples", "sizes"),
    [(0, "0 train, 0 validation and 0 test"), (4, "3 train, 0 validation and 1 test")],
)
def test_an_empty_split_is_refused_with_its_sizes(num_samples: int, sizes: str) -> None:
    with pytest.raises(ConfigError, match=rf"^x: {num_samples} samples split into {sizes}: a split is empty"):
        rows_of(0, num_samples)


def test_fingerprint_changes_with_content_shape_and_type() -> None:
    array = np.arange(12, dtype=np.int64).reshape(3, 4)
    other = array.copy()
    other[2, 3] = -1
    variants = (array, other, array.reshape(4, 3), array.astype(np.int32), array[:2])
    assert len({content_fingerprint(variant) for variant in variants}) == len(variants)
    assert content_fingerprint(array, other) != content_fingerprint(other, array)
    assert content_fingerprint(array).startswith("blake2b:")


def test_fingerprint_is_of_content_not_of_where_it_lies(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((50, 7))
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, array)
        assert content_fingerprint(np.load(tmp_path / name, mmap_mode="r")) == content_fingerprint(array)
    np.save(tmp_path / "columns.npy", np.asfortranarray(array))
    assert content_fingerprint(np.load(tmp_path / "columns.npy", mmap_mode="r")) == content_fingerprint(array)


def test_fingerprint_reads_by_parts_what_it_reads_at_once() -> None:
    # 80 MiB: more than one part of 64 MiB.
    array = np.zeros((80, 1 << 20), dtype=np.uint8)
    changed = array.copy()
    changed[-1, -1] = 1
    assert content_fingerprint(array) != content_fingerprint(changed)


def test_a_split_in_memory_gathers_rows_and_ids() -> None:
    inputs, targets = torch.arange(12.0).reshape(4, 3), torch.tensor([5, 6, 7, 8])
    split = TensorSplit(inputs, targets, torch.tensor([40, 30, 20, 10]))
    batch, labels = split.batch(torch.tensor([3, 0]))
    assert batch.tolist() == [[9.0, 10.0, 11.0], [0.0, 1.0, 2.0]]
    assert labels.tolist() == [8, 5]
    assert split.sample_ids(torch.tensor([3, 0])).tolist() == [10, 40]
    assert len(split) == 4
