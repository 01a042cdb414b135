"""Reader of IDX files, the format of MNIST and its relatives: a fault is named before a wrong byte trains anything.

Format: two zero bytes, the element type, the number of dimensions, each dimension as a big-endian 32-bit integer, then
the elements (http://yann.lecun.com/exdb/mnist/). Files may be gzipped; their first bytes tell, not their names.
"""

import gzip
import math
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distmlp.errors import ConfigError

UNSIGNED_BYTE = 0x08
IMAGE_DIMENSIONS = 3
LABEL_DIMENSIONS = 1
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20

Stream = gzip.GzipFile | BufferedReader
Bytes = npt.NDArray[np.uint8]


def read_images_and_labels(images: Path, labels: Path, *, num_classes: int) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Images (N, height, width) uint8 and labels (N,) int64 in ``[0, num_classes)``.

    Raises:
        ConfigError: a file is unreadable or malformed, the counts differ, or a label is outside the classes.
    """
    pixels = read_idx(images, num_dimensions=IMAGE_DIMENSIONS)
    classes = read_idx(labels, num_dimensions=LABEL_DIMENSIONS)
    if len(pixels) != len(classes):
        raise ConfigError(
            f"{labels}: {len(classes)} labels found, expected {len(pixels)}, one for each image of {images}"
        )
    outside = np.flatnonzero(classes >= num_classes)
    if len(outside):
        raise ConfigError(
            f"{labels}: label {classes[outside[0]]} found at row {outside[0]}, expected 0 to {num_classes - 1}"
        )
    return pixels, classes.astype(np.int64)


def read_idx(path: Path, *, num_dimensions: int) -> Bytes:
    """The array of unsigned bytes in ``path``, which must have ``num_dimensions`` dimensions.

    Raises:
        ConfigError: the file is missing, its gzip stream is damaged, or header and content do not agree.
    """
    try:
        with _opened(path) as file:
            shape = _read_header(file, path, num_dimensions)
            expected = math.prod(shape)
            content = _read_up_to(file, expected + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged or truncated gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content):,}"
        raise ConfigError(f"{path}: {found} bytes found after the header, expected {expected:,} for shape {shape}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _opened(path: Path) -> Stream:
    with path.open("rb") as file:
        gzipped = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if gzipped else path.open("rb")


def _read_header(file: Stream, path: Path, num_dimensions: int) -> tuple[int, ...]:
    expected = (UNSIGNED_BYTE << 8) | num_dimensions
    magic = file.read(4)
    if magic != expected.to_bytes(4, "big"):
        found = f"0x{magic.hex()}" if magic else "(an empty file)"
        raise ConfigError(
            f"{path}: magic number {found} found, expected 0x{expected:08x} "
            f"(IDX file of unsigned bytes with {num_dimensions} dimension{'s' if num_dimensions > 1 else ''})"
        )
    sizes = file.read(4 * num_dimensions)
    if len(sizes) != 4 * num_dimensions:
        raise ConfigError(f"{path}: header ends after {4 + len(sizes)} bytes, expected {4 + 4 * num_dimensions}")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    if 0 in shape:
        raise ConfigError(f"{path}: shape {shape} found, expected at least one sample of at least one element")
    return shape


def _read_up_to(file: Stream, limit_bytes: int) -> bytearray:
    """By parts, since a wrong header may announce more than fits in memory."""
    content = bytearray()
    while len(content) < limit_bytes:
        part = file.read(min(_CHUNK_BYTES, limit_bytes - len(content)))
        if not part:
            break
        content += part
    return content
