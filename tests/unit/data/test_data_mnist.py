"""MNIST from a folder: all four files, the t10k files alone, or a line that says what is missing."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from distmlp.data.dataset import DataSet
from distmlp.data.mnist import SOURCES, TEST_FILES, TRAIN_FILES, Source, download, load_mnist
from distmlp.errors import ConfigError

REAL_MNIST = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mnist"


@pytest.fixture
def real_mnist() -> Path:
    if not REAL_MNIST.is_dir():
        pytest.skip(f"no data sets in {REAL_MNIST}")
    return REAL_MNIST


def write_pair(folder: Path, names: tuple[str, str], num_samples: int, seed: int, suffix: str = "") -> np.ndarray:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num_samples, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, num_samples, dtype=np.uint8)
    for name, array in zip(names, (images, labels), strict=True):
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return images


def mnist(folder: Path | str | None, normalize: bool = False, variant: str = "mnist", fraction: float = 0.2) -> DataSet:
    return load_mnist(
        variant=variant,
        dir=None if folder is None else str(folder),
        validation_fraction=fraction,
        test_fraction=0.3,
        split_seed=0,
        normalize=normalize,
    )


def ids(data: DataSet, name: str) -> list[int]:
    split = data.split(name)
    return split.sample_ids(torch.arange(len(split))).tolist()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_four_files_train_validate_and_test_as_published(tmp_path: Path, suffix: str) -> None:
    train_images = write_pair(tmp_path, TRAIN_FILES, 50, 0, suffix)
    test_images = write_pair(tmp_path, TEST_FILES, 20, 1, suffix)
    data = mnist(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 20)
    assert sorted(ids(data, "train") + ids(data, "validation")) == list(range(50))
    assert ids(data, "test") == list(range(50, 70))
    expected = torch.from_numpy(np.concatenate([train_images, test_images])).float() / 255
    for name in ("train", "validation", "test"):
        inputs, targets = data.split(name).batch(torch.arange(5))
        torch.testing.assert_close(inputs[:, 0], expected[ids(data, name)[:5]])
        assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert data.notes == ()
    assert (data.input_shape, data.num_outputs, data.name) == ((1, 28, 28), 10, "mnist")


def test_the_fingerprint_does_not_see_gzip_or_the_folder(tmp_path: Path) -> None:
    fingerprints = set()
    for suffix in ("", ".gz"):
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        write_pair(folder, TEST_FILES, 20, 1, suffix)
        fingerprints.add(mnist(folder).fingerprint)
    assert len(fingerprints) == 1
    write_pair(folder, TEST_FILES, 20, 2, ".gz")
    assert mnist(folder).fingerprint not in fingerprints


def test_normalised_by_the_training_split(tmp_path: Path) -> None:
    write_pair(tmp_path, TEST_FILES, 100, 1)
    data, plain = mnist(tmp_path, normalize=True), mnist(tmp_path)
    inputs, raw = (part.train.batch(torch.arange(50))[0] for part in (data, plain))
    torch.testing.assert_close(inputs, (raw - raw.mean()) / raw.std(unbiased=False), rtol=1e-4, atol=1e-4)


def test_the_t10k_files_alone_are_split_three_ways_and_it_is_said(tmp_path: Path) -> None:
    write_pair(tmp_path, TEST_FILES, 20, 1)
    data = mnist(tmp_path, variant="fashion_mnist")
    assert sorted(ids(data, "train") + ids(data, "validation") + ids(data, "test")) == list(range(20))
    assert data.notes == (
        f"{tmp_path} holds only the t10k files, so their 20 samples are split into 10 train, 4 validation and 6 test.",
    )


def test_the_real_t10k_files(real_mnist: Path) -> None:
    data = mnist(real_mnist, normalize=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (5000, 2000, 3000)
    inputs, targets = data.train.batch(torch.arange(5000))
    assert abs(float(inputs.mean())) < 1e-4
    assert torch.bincount(targets, minlength=10).min() > 400
    labels = {
        sample_id: int(label)
        for name in ("train", "validation", "test")
        for sample_id, label in zip(
            ids(data, name), data.split(name).batch(torch.arange(len(ids(data, name))))[1], strict=True
        )
    }
    assert [labels[row] for row in range(10)] == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # the first test digits of MNIST


def test_the_known_checksums_are_those_of_the_real_files(real_mnist: Path) -> None:
    for name, md5 in zip(TEST_FILES, SOURCES["mnist"].md5s[2:], strict=True):
        assert hashlib.md5((real_mnist / f"{name}.gz").read_bytes()).hexdigest() == md5


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    names = ", ".join(TRAIN_FILES + TEST_FILES)
    with pytest.raises(
        ConfigError,
        match=rf"^{tmp_path}: {names} not found \(with or without \.gz\).* leave data\.dir unset to download",
    ):
        mnist(tmp_path)


def test_an_incomplete_folder_is_not_taken_for_a_smaller_set(tmp_path: Path) -> None:
    write_pair(tmp_path, TRAIN_FILES, 20, 0)
    write_pair(tmp_path, TEST_FILES, 20, 1)
    (tmp_path / TRAIN_FILES[1]).unlink()
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: train-labels-idx1-ubyte not found"):
        mnist(tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, TEST_FILES, 20, 1)
    content = bytes([0, 0, 8, 3]) + np.array([20, 8, 8], ">u4").tobytes() + bytes(20 * 64)
    (tmp_path / TEST_FILES[0]).write_bytes(content)
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte: images of \(8, 8\) found, expected \(28, 28\)$"):
        mnist(tmp_path)


def test_an_empty_validation_split_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, TRAIN_FILES, 20, 0)
    write_pair(tmp_path, TEST_FILES, 20, 1)
    with pytest.raises(ConfigError, match=r"20 samples of the train files split into 20 train and 0 validation"):
        mnist(tmp_path, fraction=0.01)


def test_an_unknown_variant_is_told_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"^variant is 'kmnist', expected one of mnist, fashion_mnist$"):
        mnist(None, variant="kmnist")


def test_files_that_were_downloaded_are_not_fetched_again(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_pair(folder, TRAIN_FILES, 20, 0, ".gz")
    write_pair(folder, TEST_FILES, 20, 1, ".gz")
    first, second, third, fourth = (
        hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in TRAIN_FILES + TEST_FILES
    )
    source = Source(mirrors=("http://127.0.0.1:1/",), md5s=(first, second, third, fourth))
    assert download("mnist", source, tmp_path) == folder
    assert len(mnist(folder).test) == 20


def test_without_a_folder_the_users_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file where the cache folder should be: the message shows where it would have been, and nothing is fetched.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "distmlp").write_text("")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/distmlp/mnist: train-images-idx3-ubyte\.gz cannot be stored"):
        mnist(None)
