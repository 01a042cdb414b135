"""Weights as a file that `torch.load` reads, written tensor by tensor: memory holds one of them.

`torch.save` wants all tensors in memory at once. What it writes is an uncompressed zip archive of a pickle and of the
bytes of each tensor, aligned so that `torch.load(mmap=True)` works; this writes the same.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distmlp.export.tensors import Out, as_bytes

ROOT = "archive"
ALIGNMENT = 64
LOCAL_HEADER_BYTES, ZIP64_BYTES, EXTRA_BYTES = 30, 20, 4
PADDING_ID = b"FB"  # as torch marks its own padding
DATE = (1980, 1, 1, 0, 0, 0)  # the same weights give the same file
STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}


class _Storage:
    """Stands for the bytes of a tensor in the pickle."""

    def __init__(self, key: str, out: Out) -> None:
        kind: Any = STORAGES.get(out.dtype, torch.UntypedStorage)
        size = out.num_bytes if kind is torch.UntypedStorage else out.num_bytes // out.dtype.itemsize
        self.persistent_id = ("storage", kind, key, "cpu", size)


class _Tensor:
    """Stands for a tensor in the pickle."""

    def __init__(self, key: str, out: Out) -> None:
        self.key = key
        self.out = out

    def __reduce__(self) -> tuple[Any, ...]:
        hooks: OrderedDict[str, Any] = OrderedDict()
        strides = torch.empty(self.out.shape, device="meta").stride()
        rebuilt = (_Storage(self.key, self.out), 0, self.out.shape, strides, False, hooks)
        if self.out.dtype in STORAGES:
            return torch._utils._rebuild_tensor_v2, rebuilt
        return torch._utils._rebuild_tensor_v3, (*rebuilt, self.out.dtype)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.persistent_id if isinstance(value, _Storage) else None


def write_torch(path: Path, tensors: dict[str, Out], advance: Callable[[int], None]) -> None:
    """Writes ``tensors`` to ``path``; ``advance`` is told of the bytes of each."""
    pickled = io.BytesIO()
    keys = {name: str(number) for number, name in enumerate(tensors)}
    _Pickler(pickled, protocol=2).dump({name: _Tensor(keys[name], out) for name, out in tensors.items()})
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        records = {
            "data.pkl": pickled.getvalue(),
            ".format_version": b"1",
            ".storage_alignment": str(ALIGNMENT).encode(),
            "byteorder": sys.byteorder.encode(),
        }
        for name, data in records.items():
            _write(archive, file, name, memoryview(data))
        for name, out in tensors.items():
            _write(archive, file, f"data/{keys[name]}", as_bytes(out.read()))
            advance(out.num_bytes)
        _write(archive, file, "version", memoryview(b"3\n"))


def _write(archive: zipfile.ZipFile, file: Any, name: str, data: memoryview) -> None:
    """One record, its data aligned by padding in the header before it."""
    info = zipfile.ZipInfo(f"{ROOT}/{name}", DATE)
    start = file.tell() + LOCAL_HEADER_BYTES + len(info.filename) + ZIP64_BYTES + EXTRA_BYTES
    padding = -start % ALIGNMENT
    info.extra = PADDING_ID + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as record:
        record.write(data)
