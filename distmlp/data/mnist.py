"""MNIST and Fashion-MNIST: from IDX files in a folder of the user's, or downloaded once into the user's cache.

Sources: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", 1998; H. Xiao, K. Rasul and
R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017. Mirrors and checksums are those of torchvision.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmlp.data.dataset import DataSet, TensorSplit, content_fingerprint, split_rows
from distmlp.data.download import fetch
from distmlp.data.idx import read_images_and_labels
from distmlp.data.normalize import fit_normalisation
from distmlp.errors import ConfigError

NUM_CLASSES = 10
IMAGE_SIZE = 28
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Source:
    """Where the four files (gzipped) come from. ``md5s`` in the order of TRAIN_FILES, TEST_FILES."""

    mirrors: tuple[str, ...]
    md5s: tuple[str, str, str, str]


SOURCES = {
    "mnist": Source(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": Source(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
}


def load_mnist(
    *,
    variant: str,
    dir: str | None,
    validation_fraction: float,
    test_fraction: float,
    split_seed: int,
    normalize: bool,
    download_dir: Path | None = None,
) -> DataSet:
    """Images (1, 28, 28) float32 in [0, 1] of 10 classes. Ids count the train files' rows first, then the t10k files'.

    Args:
        variant: ``mnist`` or ``fashion_mnist``.
        dir: folder with the IDX files, gzipped or not; None downloads them.
        validation_fraction: share of the train files that validates.
        test_fraction: share that tests where the folder holds the t10k files only; otherwise the t10k files test.
        split_seed: seed of the split.
        normalize: subtract the mean and divide by the standard deviation of the training split's pixels.
        download_dir: cache that gets a folder for the variant; None is the user's cache folder for distmlp.

    Raises:
        ConfigError: unknown variant, files missing, malformed or not fetched, or a split would be empty.
    """
    if variant not in SOURCES:
        raise ConfigError(f"variant is {variant!r}, expected one of {', '.join(SOURCES)}")
    folder = download(variant, SOURCES[variant], download_dir) if dir is None else Path(dir).expanduser()
    pairs, has_train_files = _find(folder)
    parts = [_read(images, labels) for images, labels in pairs]
    raw, targets = np.concatenate([part[0] for part in parts]), torch.from_numpy(np.concatenate([p[1] for p in parts]))
    notes: tuple[str, ...] = ()
    if has_train_files:
        rows = _train_files_split(len(parts[0][1]), len(targets), validation_fraction, split_seed, folder)
    else:
        rows = split_rows(
            len(targets),
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            seed=split_seed,
            source=str(folder),
        )
        sizes = f"{len(rows[0])} train, {len(rows[1])} validation and {len(rows[2])} test"
        notes = (f"{folder} holds only the t10k files, so their {len(targets)} samples are split into {sizes}.",)
    inputs = torch.from_numpy(raw)[:, None].to(torch.float32).div_(255)
    if normalize:
        inputs = fit_normalisation(inputs.numpy(), rows[0], per_feature=False).apply(inputs)
    train, validation, test = (TensorSplit(inputs[part], targets[part], part) for part in rows)
    fingerprint = content_fingerprint(raw, targets.numpy())
    shape = (1, IMAGE_SIZE, IMAGE_SIZE)
    return DataSet(variant, "classification", shape, NUM_CLASSES, train, validation, test, fingerprint, notes)


def download(variant: str, source: Source, cache: Path | None) -> Path:
    """The folder ``cache/variant`` with the four files of ``source``, fetched unless they are there.

    Raises:
        ConfigError: a file could not be fetched.
    """
    import pooch

    folder = Path(pooch.os_cache("distmlp") if cache is None else cache) / variant
    for name, md5 in zip(TRAIN_FILES + TEST_FILES, source.md5s, strict=True):
        fetch(f"{name}.gz", mirrors=source.mirrors, md5=md5, folder=folder)
    return folder


def _find(folder: Path) -> tuple[list[tuple[Path, Path]], bool]:
    """Pairs of images and labels, and whether the train files are among them (then first)."""
    found: dict[str, Path] = {}
    for name in TRAIN_FILES + TEST_FILES:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                found.setdefault(name, path)
    only_test_files = set(found) == set(TEST_FILES)
    missing = [name for name in TRAIN_FILES + TEST_FILES if name not in found]
    if missing and not only_test_files:
        raise ConfigError(
            f"{folder}: {', '.join(missing)} not found (with or without .gz); expected all four files, or "
            "the two t10k files alone; leave data.dir unset to download them"
        )
    names = (TEST_FILES,) if only_test_files else (TRAIN_FILES, TEST_FILES)
    return [(found[images], found[labels]) for images, labels in names], not only_test_files


def _read(images: Path, labels: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    pixels, classes = read_images_and_labels(images, labels, num_classes=NUM_CLASSES)
    if pixels.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ConfigError(f"{images}: images of {pixels.shape[1:]} found, expected {(IMAGE_SIZE, IMAGE_SIZE)}")
    return pixels, classes


def _train_files_split(
    num_train_files: int, num_samples: int, validation_fraction: float, seed: int, folder: Path
) -> tuple[Tensor, Tensor, Tensor]:
    num_validation = round(num_train_files * validation_fraction)
    if not 0 < num_validation < num_train_files:
        sizes = f"{num_train_files - num_validation} train and {num_validation} validation"
        raise ConfigError(
            f"{folder}: {num_train_files} samples of the train files split into {sizes}: a split is empty; "
            "change data.validation_fraction"
        )
    order = torch.randperm(num_train_files, generator=torch.Generator().manual_seed(seed))
    return order[num_validation:], order[:num_validation], torch.arange(num_train_files, num_samples)
