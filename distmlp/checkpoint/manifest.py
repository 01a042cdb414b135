"""`manifest.json`: what a checkpoint consists of. Written last; what it does not vouch for is not there.

It names every file with its size and SHA-256, and for every tensor its shape, format and the parts that lie in the
files. Its own text is canonical and holds its own SHA-256, so that a change of any byte of it shows too.
"""

import hashlib
import json
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.tensor_file import DTYPES
from distmlp.errors import ConfigError
from distmlp.shards import Box, Range

MANIFEST = "manifest.json"
FORMAT, VERSION = "distmlp-checkpoint", 1


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
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"{where} is damaged: it cannot be read") from None
        if _canonical(values) != text or _own_sum(values) != values.get("sha256"):
            raise DamagedError(f"{where} is damaged: its SHA-256 is not the one that it holds")
        if found != (FORMAT, VERSION):
            raise ConfigError(f"{where} has format {found[0]} version {found[1]}; this distmlp reads version {VERSION}")
        files = {name: (int(f["bytes"]), str(f["sha256"])) for name, f in values["files"].items()}
        tensors = {
            name: TensorInfo(tuple(t["shape"]), t["dtype"], [part_from_values(p["file"], p) for p in t["pieces"]])
            for name, t in values["tensors"].items()
        }
        return cls(values["step"], values["world_size"], files, tensors)

    def check_whole(self, where: str) -> None:
        """Ends with a `DamagedError` where the pieces of a tensor do not make it up, each element once."""
        for name, tensor in self.tensors.items():
            held = sum(piece.part.num_elements for piece in tensor.pieces)
            ranges = sorted(
                (piece.part.start, piece.part.stop) for piece in tensor.pieces if isinstance(piece.part, Range)
            )
            overlap = any(before[1] > after[0] for before, after in pairwise(ranges))
            if held != prod(tensor.shape) or overlap or tensor.dtype not in DTYPES:
                raise DamagedError(f"{where}: the parts of {name} hold {held} of its {prod(tensor.shape)} elements")


def _canonical(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()


def _own_sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(values | {"sha256": ""})).hexdigest()


def part_values(part: Range | Box) -> dict[str, Any]:
    """``part`` as JSON."""
    if isinstance(part, Range):
        return {"range": [part.start, part.stop]}
    return {"offset": list(part.offset), "size": list(part.shape)}


def part_from_values(file: str, values: dict[str, Any]) -> Piece:
    """The piece that JSON values speak of."""
    if "range" in values:
        return Piece(file, values["key"], Range(*values["range"]))
    return Piece(file, values["key"], Box(tuple(values["offset"]), tuple(values["size"])))
