"""`manifest.json`: what a checkpoint consists of. Written last; what it does not vouch for is not there.

It names every file with its size and SHA-256, and for every tensor its shape, format and the parts that lie in the
files. Its own text is canonical and holds its own SHA-256, so that a change of any byte of it shows too.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from distmlp.checkpoint.cover import covers
from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.tensor_file import DTYPES
from distmlp.errors import ConfigError
from distmlp.shards import Box, Range

MANIFEST = "manifest.json"
FORMAT, VERSION = "distmlp-checkpoint", 1  # every version is canonical and holds its own SHA-256, in this very way
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, in the tensor ``key`` of ``file``."""

    file: str
    key: str
    part: Range | Box


@dataclass
class TensorInfo:
    """A whole tensor, and the pieces that make it up."""

    shape: tuple[int, ...]
    dtype: str
    pieces: list[Piece] = field(default_factory=list)


@dataclass
class Manifest:
    """``files``: (bytes, SHA-256) by name. ``tensors``: by `<kind>/<name>`."""

    step: int
    world_size: int
    files: dict[str, tuple[int, str]]
    tensors: dict[str, TensorInfo]

    def as_text(self) -> bytes:
        """The contents of the file."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "step": self.step,
            "world_size": self.world_size,
            "files": {name: {"bytes": size, "sha256": sha} for name, (size, sha) in self.files.items()},
            "tensors": {
                name: {
                    "shape": list(t.shape),
                    "dtype": t.dtype,
                    "pieces": [{"file": p.file, "key": p.key, **part_values(p.part)} for p in t.pieces],
                }
                for name, t in self.tensors.items()
            },
            "sha256": "",
        }
        return _canonical(values | {"sha256": hashlib.sha256(_canonical(values)).hexdigest()})

    @classmethod
    def parse(cls, text: bytes, where: str) -> "Manifest":
        """The manifest in ``text``, the contents of ``where``.

        Raises:
            DamagedError: it is not what was written.
            ConfigError: another version of the format wrote it.
        """
        try:
            values = json.loads(text)
            found = str(values["format"]), values["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DamagedError(f"{where} is damaged: it cannot be read") from None
        if _canonical(values) != text or _own_sum(values) != values.get("sha256"):
            raise DamagedError(f"{where} is damaged: its SHA-256 is not the one that it holds")
        if found != (FORMAT, VERSION):
            raise ConfigError(f"{where} has format {found[0]} version {found[1]}; this distmlp reads version {VERSION}")
        try:
            return cls._from_values(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{where} is no manifest: {type(error).__name__} {error}") from None

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "Manifest":
        files = {name: (_count(f["bytes"]), str(f["sha256"])) for name, f in values["files"].items()}
        tensors = {
            name: TensorInfo(
                _counts(t["shape"]), str(t["dtype"]), [part_from_values(p["file"], p) for p in t["pieces"]]
            )
            for name, t in values["tensors"].items()
        }
        return cls(_count(values["step"]), _count(values["world_size"]), files, tensors)

    def check_whole(self, where: str) -> None:
        """Ends with a `DamagedError` where the pieces of a tensor do not make it up, each element once.

        Nor may a file have a name that leads out of the folder, or pieces that it has not the bytes for.
        """
        room = {name: size for name, (size, _) in self.files.items()}
        for name in room:
            if not PLAIN_NAME.fullmatch(name) or name == MANIFEST:
                raise DamagedError(f"{where}: {name!r} is no name of a file of a checkpoint")
        for name, tensor in self.tensors.items():
            if tensor.dtype not in DTYPES:
                raise DamagedError(f"{where}: {name} has the unknown format {tensor.dtype!r}")
            if not covers([piece.part for piece in tensor.pieces], tensor.shape):
                raise DamagedError(
                    f"{where}: the parts of {name} do not make up its shape {tensor.shape}, each element once"
                )
            for piece in tensor.pieces:
                room[piece.file] = room.get(piece.file, 0) - piece.part.num_elements * DTYPES[tensor.dtype].itemsize
        for name, left in room.items():
            if name not in self.files or left < 0:
                raise DamagedError(f"{where}: {name} has not the bytes for the parts that are said to lie in it")


def _canonical(values: dict[str, Any]) -> bytes:
    # Without an indent, which Python's encoder in C knows nothing of: with many ranks there are many pieces.
    return (json.dumps(values, sort_keys=True, separators=(",", ":")) + "\n").encode()


def _own_sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(values | {"sha256": ""})).hexdigest()


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of things")
    return value


def _counts(values: Any) -> tuple[int, ...]:
    return tuple(_count(value) for value in values)


def part_values(part: Range | Box) -> dict[str, Any]:
    """``part`` as JSON."""
    if isinstance(part, Range):
        return {"range": [part.start, part.stop]}
    return {"offset": list(part.offset), "size": list(part.shape)}


def part_from_values(file: str, values: dict[str, Any]) -> Piece:
    """The piece that JSON values speak of."""
    if "range" in values:
        return Piece(str(file), str(values["key"]), Range(*_counts(values["range"])))
    return Piece(str(file), str(values["key"]), Box(_counts(values["offset"]), _counts(values["size"])))
