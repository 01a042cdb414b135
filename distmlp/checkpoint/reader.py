"""Reads a checkpoint: any part of any tensor, however the ranks that wrote it had divided it."""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST, Manifest, Piece, TensorInfo
from distmlp.checkpoint.storage import Storage
from distmlp.checkpoint.tensor_file import DTYPES, TensorFile
from distmlp.checkpoint.verify import damages
from distmlp.shards import Box, Place, Range

STATE = "state.json"
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MAX_TEXT_BYTES = 2**30  # of a manifest or a state: more would only fill the memory


class CheckpointReader:
    """One checkpoint in ``storage``. Use it in a ``with`` block, which closes its files.

    Args:
        storage: where it lies.
        name: its folder, `step-00001200`.

    Raises:
        DamagedError: its manifest is missing or damaged.
        ConfigError: it has another version of the format.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.where = storage.where(name)
        self.manifest = Manifest.parse(self._bytes(MANIFEST), storage.where(f"{name}/{MANIFEST}"))
        self.manifest.check_whole(self.where)
        self.stack = ExitStack()
        self.files: dict[str, TensorFile] = {}

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        self.files = {}

    @cached_property
    def state(self) -> dict[str, Any]:
        """What `state.json` holds: everything of the run but tensors. Read once: the run may remove the checkpoint."""
        self._check_size(STATE)
        text = self._bytes(STATE)
        if hashlib.sha256(text).hexdigest() != self.manifest.files.get(STATE, (0, ""))[1]:
            raise DamagedError(f"{self.storage.where(f'{self.name}/{STATE}')} is damaged: its SHA-256 is another")
        values: dict[str, Any] = json.loads(text)
        return values

    def names(self, kind: str) -> list[str]:
        """Names of the tensors of a kind, such as ``weights``."""
        return [key.removeprefix(f"{kind}/") for key in self.manifest.tensors if key.startswith(f"{kind}/")]

    def kinds(self) -> set[str]:
        """``weights``, and ``average`` and ``optimizer/<state>`` where there are such."""
        heads = (key.split("/") for key in self.manifest.tensors)
        return {"/".join(head[:2]) if head[0] == "optimizer" else head[0] for head in heads}

    def whole(self, kind: str, name: str) -> Tensor:
        """A whole tensor."""
        info = self._info(kind, name)
        return self._flat(info, Range(0, prod(info.shape))).view(info.shape)

    def read(self, kind: str, place: Place) -> Tensor:
        """The part of a tensor that ``place`` speaks of: flat for a range, a block for a box."""
        info = self._info(kind, place.name)
        if info.shape != tuple(place.shape):
            raise DamagedError(f"{self.where}: {place.name} has shape {info.shape}, not {tuple(place.shape)}")
        if isinstance(place.part, Range):
            return self._flat(info, place.part)
        if place.part.shape == info.shape:
            return self.whole(kind, place.name)
        first, rest = place.part.offset[0], place.part.offset[1:]
        row = prod(info.shape[1:])
        rows = self._flat(info, Range(first * row, (first + place.part.shape[0]) * row))
        block = rows.view(place.part.shape[0], *info.shape[1:])
        for dimension, (offset, size) in enumerate(zip(rest, place.part.shape[1:], strict=True), start=1):
            block = block.narrow(dimension, offset, size)
        return block

    def _info(self, kind: str, name: str) -> TensorInfo:
        info = self.manifest.tensors.get(f"{kind}/{name}")
        if info is None:
            raise DamagedError(f"{self.where} holds no {kind} of {name}")
        return info

    def _flat(self, info: TensorInfo, wanted: Range) -> Tensor:
        """Elements of the whole tensor laid out flat."""
        pieces = [piece for piece in info.pieces if _lies_in(piece, info, wanted)]
        for piece in pieces:
            self._check_piece(piece, info)  # before memory is taken for what they may not hold
        values = torch.empty(wanted.num_elements, dtype=DTYPES[info.dtype])
        for piece in pieces:
            if isinstance(piece.part, Range):
                self._copy_range(piece, piece.part, wanted, values)
            else:
                self._copy_box(piece, piece.part, info.shape, wanted, values)
        return values

    def _copy_range(self, piece: Piece, part: Range, wanted: Range, values: Tensor) -> None:
        start, stop = max(part.start, wanted.start), min(part.stop, wanted.stop)
        read = self._file(piece.file).read(piece.key, start - part.start, stop - part.start)
        values[start - wanted.start : stop - wanted.start] = read

    def _copy_box(self, piece: Piece, part: Box, shape: tuple[int, ...], wanted: Range, values: Tensor) -> None:
        """Of a box of columns each row is a range."""
        row = prod(shape[1:])
        first, after = wanted.start // row, -(-wanted.stop // row)
        start, stop = max(first, part.offset[0]), min(after, part.offset[0] + part.shape[0])
        width = part.num_elements // part.shape[0]
        read = self._file(piece.file).read(piece.key, (start - part.offset[0]) * width, (stop - part.offset[0]) * width)
        # As integers: an assignment through a mask may go through a number, which gives a NaN other bits.
        read, values = (tensor.view(INTEGERS[tensor.dtype.itemsize]) for tensor in (read, values))
        # Rows that are only partly wanted are laid out whole first.
        rows = values.new_empty((stop - start) * row)
        held = torch.zeros(rows.shape, dtype=torch.bool)
        for target, source in ((rows, read), (held, torch.ones(read.shape, dtype=torch.bool))):
            block = target.view(stop - start, *shape[1:])
            for dimension, (offset, size) in enumerate(zip(part.offset[1:], part.shape[1:], strict=True), start=1):
                block = block.narrow(dimension, offset, size)
            block.copy_(source.view(stop - start, *part.shape[1:]))
        low, high = max(wanted.start, start * row), min(wanted.stop, stop * row)
        inside = slice(low - start * row, high - start * row)
        target = values[low - wanted.start : high - wanted.start]
        target[held[inside]] = rows[inside][held[inside]]

    def _file(self, name: str) -> TensorFile:
        if name not in self.files:
            path, size = f"{self.name}/{name}", self._check_size(name)
            self.files[name] = TensorFile(
                self.stack.enter_context(self.storage.open(path)), size, self.storage.where(path)
            )
        return self.files[name]

    def _bytes(self, name: str) -> bytes:
        path = f"{self.name}/{name}"
        size = self.storage.size(path)
        if size is None:
            raise DamagedError(f"{self.where} is not a sound checkpoint: its {name} is missing")
        if size > MAX_TEXT_BYTES:
            raise DamagedError(f"{self.storage.where(path)} is damaged: no such file has {size} bytes")
        with self.storage.open(path) as file:
            return file.read()

    def _check_size(self, name: str) -> int:
        path = f"{self.name}/{name}"
        found, size = self.storage.size(path), self.manifest.files.get(name, (0, ""))[0]
        if found is None:
            raise DamagedError(f"{self.storage.where(path)} is missing")
        if found != size:
            raise DamagedError(f"{self.storage.where(path)} has {found} bytes, not {size}")
        return size

    def _check_piece(self, piece: Piece, info: TensorInfo) -> None:
        file = self._file(piece.file)
        entry = file.entries.get(piece.key)
        if entry is None or entry.dtype != DTYPES[info.dtype] or entry.num_elements != piece.part.num_elements:
            raise DamagedError(f"{file.name}: its {piece.key} is not the one that {MANIFEST} speaks of")

    # What `verify` asks.

    def damages(self, advance: Callable[[int], None] = lambda num_bytes: None) -> list[str]:
        """One line for each file that is not what was written; ``advance`` is told of every stretch of bytes read."""
        return damages(self.storage, self.name, self.manifest.files, advance)

    def strangers(self) -> list[str]:
        """Files in the folder that the manifest does not know, as an attempt that was cut may leave."""
        return [name for name in self.storage.names(self.name) if name not in {MANIFEST, *self.manifest.files}]


def _lies_in(piece: Piece, info: TensorInfo, wanted: Range) -> bool:
    """Whether a piece has any row, or any element, of what is wanted."""
    part = piece.part
    if isinstance(part, Range):
        return max(part.start, wanted.start) < min(part.stop, wanted.stop)
    row = prod(info.shape[1:])
    return part.offset[0] * row < wanted.stop and wanted.start < (part.offset[0] + part.shape[0]) * row
