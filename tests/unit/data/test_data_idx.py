"""IDX files are read as they are, and each way to be malformed is named with what was found and what was expected."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from distmlp.data.idx import read_idx, read_images_and_labels
from distmlp.errors import ConfigError

IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
LABELS = np.array([0, 9, 4, 1, 0], dtype=np.uint8)


def idx_bytes(array: np.ndarray, element_type: int = 0x08) -> bytes:
    header = bytes([0, 0, element_type, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(LABELS))
    return path


def test_images_and_labels_are_read(images: Path, labels: Path) -> None:
    pixels, classes = read_images_and_labels(images, labels, num_classes=10)
    np.testing.assert_array_equal(pixels, IMAGES)
    np.testing.assert_array_equal(classes, LABELS)
    assert (pixels.dtype, classes.dtype) == (np.uint8, np.int64)


def test_a_gzip_file_is_known_by_its_bytes_whatever_its_name(images: Path) -> None:
    images.write_bytes(gzip.compress(images.read_bytes()))
    np.testing.assert_array_equal(read_idx(images, num_dimensions=3), IMAGES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/nothing: cannot be read: No such file or directory$"):
        read_idx(tmp_path / "nothing", num_dimensions=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"magic number \(an empty file\) found, expected 0x00000803 \(IDX file of unsigned bytes with 3 dim"),
        (b"<!DOCTYPE html>", r"magic number 0x3c21444f found, expected 0x00000803"),
        (idx_bytes(LABELS), r"magic number 0x00000801 found, expected 0x00000803"),
        (idx_bytes(IMAGES, 0x0D), r"magic number 0x00000d03 found, expected 0x00000803"),
        (idx_bytes(IMAGES)[:9], r"header ends after 9 bytes, expected 16"),
        (idx_bytes(IMAGES)[:-4], r"26 bytes found after the header, expected 30 for shape \(5, 2, 3\)"),
        (idx_bytes(IMAGES) + b"!", r"more bytes found after the header, expected 30 for shape \(5, 2, 3\)"),
        (idx_bytes(IMAGES[:0]), r"shape \(0, 2, 3\) found, expected at least one sample"),
        # A header that announces 2^96 bytes must not be believed.
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", r"3 bytes found after the header, expected 79,228"),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_malformed_file_is_refused(images: Path, content: bytes, message: str, gzipped: bool) -> None:
    images.write_bytes(gzip.compress(content) if gzipped else content)
    with pytest.raises(ConfigError, match=rf"/images: {message}"):
        read_idx(images, num_dimensions=3)


def test_a_truncated_gzip_file_of_the_right_shape_is_refused(images: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    images.write_bytes(gzip.compress(idx_bytes(pixels))[:-100])
    with pytest.raises(ConfigError, match=r"/images: damaged or truncated gzip file \(.+\); fetch it again$"):
        read_idx(images, num_dimensions=3)


def test_a_wrong_gzip_checksum_is_noticed(images: Path) -> None:
    content = bytearray(gzip.compress(idx_bytes(IMAGES)))
    content[-6] ^= 0xFF
    images.write_bytes(content)
    with pytest.raises(ConfigError, match=r"/images: damaged or truncated gzip file \(CRC check failed"):
        read_idx(images, num_dimensions=3)


def test_different_counts_are_refused(images: Path, labels: Path) -> None:
    labels.write_bytes(idx_bytes(LABELS[:4]))
    with pytest.raises(ConfigError, match=r"/labels: 4 labels found, expected 5, one for each image of .*/images$"):
        read_images_and_labels(images, labels, num_classes=10)


def test_a_label_outside_the_classes_is_refused(images: Path, labels: Path) -> None:
    with pytest.raises(ConfigError, match=r"/labels: label 9 found at row 1, expected 0 to 8$"):
        read_images_and_labels(images, labels, num_classes=9)
