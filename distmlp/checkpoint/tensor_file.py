"""Tensors of one rank in one file in the safetensors format (https://huggingface.co/docs/safetensors), streamed.

The layout of the file is laid down once, and the tensors live in one buffer that is the file's data, byte by byte: a
save copies values into the buffer, and the file is the header and the buffer. The safetensors library reads what this
writes; it cannot write in one pass what is to be hashed on the way, nor read a part of a tensor from an object store.
"""

import json
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import torch
from torch import Tensor

from distmlp.checkpoint.errors import DamagedError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library


@dataclass(frozen=True)
class Entry:
    """A tensor in the file: its format, its shape, and its bytes ``start … stop-1`` of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


class FileLayout:
    """Where each tensor lies in a file.

    Args:
        tensors: format and shape by key.
    """

    def __init__(self, tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        # Wide formats first, so that each tensor is aligned to its elements.
        order = sorted(tensors, key=lambda key: -tensors[key][0].itemsize)
        self.entries: dict[str, Entry] = {}
        position = 0
        for key in order:
            dtype, shape = tensors[key]
            end = position + dtype.itemsize * prod(shape)
            self.entries[key] = Entry(dtype, shape, position, end)
            position = end
        self.num_bytes = position

    def header(self, metadata: dict[str, str] | None = None) -> bytes:
        """What stands before the data; ``metadata`` is what the format calls so, words about the file."""
        entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        entries |= {
            key: {"dtype": DTYPE_NAMES[e.dtype], "shape": list(e.shape), "data_offsets": [e.start, e.stop]}
            for key, e in self.entries.items()
        }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors, as views of ``buffer`` (num_bytes,), uint8."""
        return {
            key: buffer[entry.start : entry.stop].view(entry.dtype).view(entry.shape)
            for key, entry in self.entries.items()
        }


class TensorFile:
    """Reads tensors, or ranges of them, from an open file. Trusts nothing that the header says.

    Args:
        file: binary, seekable.
        num_bytes: size of the file.
        name: for messages.

    Raises:
        DamagedError: it is no safetensors file.
    """

    def __init__(self, file: BinaryIO, num_bytes: int, name: str) -> None:
        self.file = file
        self.name = name
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        self.data_start = LENGTH_BYTES + length
        if not 0 < length <= MAX_HEADER_BYTES or self.data_start > num_bytes:
            raise DamagedError(f"{name} is no safetensors file: its header does not fit into it")
        try:
            header = json.loads(file.read(length))
            self.entries = {key: _entry(value) for key, value in header.items() if key != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DamagedError(f"{name} is no safetensors file: its header cannot be read") from None
        last = 0
        for start, stop in sorted((entry.start, entry.stop) for entry in self.entries.values()):
            if start != last:
                raise DamagedError(f"{name} is no safetensors file: its tensors overlap or leave a hole")
            last = stop
        if self.data_start + last != num_bytes:
            raise DamagedError(f"{name} has {num_bytes} bytes, and its header speaks of {self.data_start + last}")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements ``start … stop-1`` of a tensor laid out flat; in its own shape where all of it is asked for."""
        entry = self.entries.get(key)
        if entry is None:
            raise DamagedError(f"{self.name} holds no tensor {key}")
        end = entry.num_elements if stop is None else stop
        assert 0 <= start <= end <= entry.num_elements
        size = entry.dtype.itemsize
        buffer = bytearray((end - start) * size)
        self.file.seek(self.data_start + entry.start + start * size)
        if _read_into(self.file, buffer) < len(buffer):
            raise DamagedError(f"{self.name} ends in the middle of {key}")
        values = torch.frombuffer(buffer, dtype=entry.dtype) if buffer else torch.empty(0, dtype=entry.dtype)
        return values.view(entry.shape) if stop is None else values


def _read_into(file: BinaryIO, buffer: bytearray) -> int:
    view, done = memoryview(buffer), 0
    while done < len(buffer):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def _entry(value: dict[str, Any]) -> Entry:
    dtype, shape = DTYPES[value["dtype"]], tuple(value["shape"])
    start, stop = value["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError
    if stop - start != dtype.itemsize * prod(shape):
        raise ValueError
    return Entry(dtype, shape, start, stop)
