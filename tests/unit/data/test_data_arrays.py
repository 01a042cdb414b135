"""Arrays from .npz and .npy, in memory or mapped, give the same samples; what cannot be trained on is named."""

import fcntl
import os
import pickle
import pty
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distmlp.data.arrays import MappedSplit, load_arrays
from distmlp.data.dataset import DataSet, TensorSplit
from distmlp.errors import ConfigError

X = np.random.default_rng(0).normal(5.0, 2.0, (60, 3, 4))
Y = np.random.default_rng(1).integers(0, 3, 60)


def load(inputs: Path, targets: Path | None, **changes: Any) -> DataSet:
    arguments: dict[str, Any] = {
        "task": "classification",
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "split_seed": 0,
        "normalize": False,
    }
    return load_arrays(inputs=str(inputs), targets=None if targets is None else str(targets), **(arguments | changes))


def saved(folder: Path, x: Any = X, y: Any = Y) -> tuple[Path, Path]:
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder / "x.npy", folder / "y.npy"


def saved_npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "both.npz", **arrays)
    return folder / "both.npz"


def test_npy_files_become_a_set_in_memory(tmp_path: Path) -> None:
    data = load(*saved(tmp_path))
    assert isinstance(data.train, TensorSplit)
    assert (data.input_shape, data.num_outputs, data.task, data.name) == ((3, 4), 3, "classification", "x")
    rows = torch.cat([split.sample_ids(torch.arange(len(split))) for split in (data.train, data.validation, data.test)])
    assert rows.sort().values.tolist() == list(range(60))
    inputs, targets = data.test.batch(torch.tensor([4, 1]))
    ids = data.test.sample_ids(torch.tensor([4, 1]))
    np.testing.assert_array_equal(inputs.numpy(), X[ids].astype(np.float32))
    np.testing.assert_array_equal(targets.numpy(), Y[ids])
    assert targets.dtype == torch.int64
    assert data.notes == ()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_npy_and_mapped_npy_are_the_same_set(tmp_path: Path, normalize: bool, order: Any) -> None:
    inputs, targets = saved(tmp_path, np.asarray(X, order=order))
    in_memory = load(inputs, targets, normalize=normalize)
    mapped = load(inputs, targets, normalize=normalize, memory_limit_bytes=100)
    from_npz = load(saved_npz(tmp_path, inputs=X, targets=Y), None, normalize=normalize)
    assert isinstance(mapped.train, MappedSplit)
    assert in_memory.fingerprint == mapped.fingerprint == from_npz.fingerprint
    for name in ("train", "validation", "test"):
        positions = torch.arange(len(in_memory.split(name))).flip(0)
        expected = in_memory.split(name).batch(positions)
        for other in (mapped, from_npz):
            assert len(other.split(name)) == len(positions)
            assert torch.equal(other.split(name).sample_ids(positions), in_memory.split(name).sample_ids(positions))
            for ours, theirs in zip(other.split(name).batch(positions), expected, strict=True):
                assert torch.equal(ours, theirs)
                assert ours.dtype == theirs.dtype


def test_the_memory_limit_counts_what_float32_takes(tmp_path: Path) -> None:
    files = saved(tmp_path, X.astype(np.float16))
    limit = 4 * X.size
    assert isinstance(load(*files, memory_limit_bytes=limit).train, TensorSplit)
    assert isinstance(load(*files, memory_limit_bytes=limit - 1).train, MappedSplit)


def test_a_mapped_split_is_sent_to_a_worker_without_its_data(tmp_path: Path) -> None:
    big = np.ones((2000, 100), dtype=np.float32)
    inputs, targets = saved(tmp_path, big, np.arange(2000) % 2)
    split = load(inputs, targets, memory_limit_bytes=0, normalize=True).train
    sent = pickle.dumps(split)
    assert len(sent) < big.nbytes / 10
    for ours, theirs in zip(pickle.loads(sent).batch(torch.tensor([3])), split.batch(torch.tensor([3])), strict=True):
        assert torch.equal(ours, theirs)


def test_a_terminal_shows_the_progress_of_a_large_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    files = saved(tmp_path)
    with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        load(*files, normalize=True)
        stderr.write("in memory, so silent until here\n")
        load(*files, normalize=True, memory_limit_bytes=0)
        shown = os.read(screen, 100_000).decode()
    os.close(screen)
    assert shown.startswith("in memory, so silent until here")
    for step in ("check", "mean, std", "hash"):
        assert f"x.npy: {step}: 100%" in shown


def test_normalised_for_each_feature_by_the_training_split(tmp_path: Path) -> None:
    x = X.copy()
    x[:, 0, 0] = 7.0
    data = load(*saved(tmp_path, x), normalize=True)
    inputs, _ = data.train.batch(torch.arange(len(data.train)))
    assert inputs[:, 0, 0].abs().max() == 0
    varying = inputs.reshape(len(inputs), -1)[:, 1:]
    assert varying.mean(dim=0).abs().max() < 1e-5
    assert (varying.std(dim=0, unbiased=False) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(("y", "columns"), [(np.arange(60.0), 1), (np.arange(120).reshape(60, 2), 2)])
def test_regression_targets_stay_as_they_are(tmp_path: Path, y: np.ndarray, columns: int) -> None:
    data = load(*saved(tmp_path, X, y), task="regression", normalize=True)
    _, targets = data.train.batch(torch.arange(10))
    ids = data.train.sample_ids(torch.arange(10))
    assert (targets.shape, targets.dtype, data.num_outputs) == ((10, columns), torch.float32, columns)
    np.testing.assert_array_equal(targets.numpy(), y[ids].reshape(10, columns))


@pytest.mark.parametrize("labels", [Y.astype(np.uint8), Y.astype(np.float64), Y[:, None], Y > 0])
def test_labels_of_any_type_that_counts(tmp_path: Path, labels: np.ndarray) -> None:
    data = load(*saved(tmp_path, X, labels))
    _, targets = data.train.batch(torch.arange(10))
    np.testing.assert_array_equal(targets.numpy(), labels.reshape(-1)[data.train.sample_ids(torch.arange(10))])
    assert targets.dtype == torch.int64


@pytest.mark.parametrize("dtype", ["uint8", ">i4", ">f8", "bool", "float16"])
def test_inputs_of_any_real_type(tmp_path: Path, dtype: str) -> None:
    x = X.astype(dtype)
    inputs, _ = load(*saved(tmp_path, x)).train.batch(torch.arange(5))
    assert inputs.dtype == torch.float32


def test_classes_without_samples_are_noted(tmp_path: Path) -> None:
    data = load(*saved(tmp_path, X, Y * 2))
    assert data.num_outputs == 5
    assert data.notes == (f"{tmp_path}/y.npy: 2 of 5 classes (0 to the largest label) have no sample.",)


def changed(array: Any, row: int, value: Any) -> Any:
    other = np.array(array, dtype=np.result_type(array, type(value)))
    other[row] = value
    return other


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (changed(X, 17, np.nan), Y, r"x\.npy: NaN, infinite or beyond float32 in 1 of 60 rows \(the first is row 17\)"),
        (changed(X, 59, -np.inf), Y, r"x\.npy: NaN, .* in 1 of 60 rows \(the first is row 59\)"),
        (changed(X, 3, 1e300), Y, r"x\.npy: NaN, .* in 1 of 60 rows \(the first is row 3\)"),
        (X, changed(Y, 9, np.nan), r"y\.npy: NaN, .* in 1 of 60 rows \(the first is row 9\)"),
        (X, changed(Y, 9, 1.5), r"y\.npy: class label 1\.5 found at row 9, expected whole numbers from 0"),
        (X, changed(Y, 9, -1), r"y\.npy: class label -1 found at row 9, expected whole numbers from 0"),
        (X, Y * 0, r"y\.npy: every class label is 0, expected at least 2 classes"),
        (X, np.stack([Y, Y], axis=1), r"y\.npy: shape \(60, 2\) found, expected \(60,\) class labels"),
        (X, Y[:50], r"y\.npy: 50 targets found, expected 60, one for each row of .*x\.npy"),
        (X[:0], Y[:0], r"x\.npy: shape \(0, 3, 4\) found, expected at least one sample"),
        (np.zeros((60, 0)), Y, r"x\.npy: shape \(60, 0\) found, expected at least one sample of at least one element"),
        (np.float64(3.0), Y, r"x\.npy: shape \(\) found, expected at least one sample"),
        (X[:, 0, 0], Y, r"x\.npy: shape \(60,\) found, expected \(samples, features, …\)"),
        (X.astype(complex), Y, r"x\.npy: elements of type complex128 found, expected real numbers"),
        (X, Y.astype(str), r"y\.npy: elements of type <U21 found, expected real numbers"),
        (X, np.array([{}] * 60, dtype=object), r"y\.npy: an object array \(pickled Python objects\), which is never"),
        (X[:2], np.array([0, 1]), r"x\.npy: 2 samples split into 2 train, 0 validation and 0 test: a split is empty"),
    ],
)
@pytest.mark.parametrize("limit", [0, 2**30])
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, x: Any, y: Any, message: str, limit: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/{message}"):
        load(*saved(tmp_path, x, y), memory_limit_bytes=limit)


def test_targets_of_a_regression_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"y\.npy: NaN, infinite"):
        load(*saved(tmp_path, X, changed(Y, 0, np.nan)), task="regression")
    with pytest.raises(ConfigError, match=r"y\.npy: shape \(60, 3, 4\) found, expected \(samples,\) or"):
        load(*saved(tmp_path, X, X), task="regression")


def test_keys_of_an_npz_may_be_chosen_and_missing_ones_are_told(tmp_path: Path) -> None:
    path = saved_npz(tmp_path, a=X, b=Y)
    assert load(path, None, inputs_key="a", targets_key="b").num_outputs == 3
    with pytest.raises(ConfigError, match=rf"^{path}: no array 'targets'; it holds a, b$"):
        load(path, None, inputs_key="a")


def test_objects_in_an_npz_are_not_loaded(tmp_path: Path) -> None:
    path = saved_npz(tmp_path, inputs=X, targets=np.array([{}] * 60, dtype=object))
    with pytest.raises(ConfigError, match=rf"^{path}: targets: an object array \(pickled Python objects\)"):
        load(path, None)


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    inputs, targets = saved(tmp_path)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/z\.npy: no such file$"):
        load(inputs, tmp_path / "z.npy")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/z\.npz: no such file$"):
        load(tmp_path / "z.npz", None)
    content = inputs.read_bytes()
    inputs.write_bytes(content[:-8])
    with pytest.raises(ConfigError, match=rf"^{inputs}: cannot be read: mmap length is greater than file size$"):
        load(inputs, targets)
    inputs.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ConfigError, match=rf"^{inputs}: not an \.npy file"):
        load(inputs, targets)
    archive = saved_npz(tmp_path, inputs=X, targets=Y)
    archive.write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=rf"^{archive}: not an \.npz file, or a truncated one$"):
        load(archive, None)


def test_damage_inside_an_npz_is_noticed(tmp_path: Path) -> None:
    archive = saved_npz(tmp_path, inputs=X, targets=Y)
    content = bytearray(archive.read_bytes())
    content[1000] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{archive}: inputs: cannot be read: Bad CRC-32"):
        load(archive, None)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    inputs, targets = saved(tmp_path)
    with pytest.raises(ConfigError, match=r"x\.npy: data\.targets is not set"):
        load(inputs, None)
    with pytest.raises(ConfigError, match=r"both\.npz: an \.npz file holds the targets too; leave data\.targets"):
        load(saved_npz(tmp_path, inputs=X, targets=Y), targets)
    with pytest.raises(ConfigError, match=r"x\.csv: data\.inputs is expected to be an \.npz or \.npy file$"):
        load(tmp_path / "x.csv", targets)
