"""What there is to say of a checkpoint without reading its tensors: for tables, and for choosing one."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

from distmlp.checkpoint.manifest import MANIFEST, TensorInfo
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import Storage
from distmlp.checkpoint.tensor_file import DTYPES
from distmlp.errors import ConfigError


@dataclass(frozen=True)
class Overview:
    """One checkpoint: what its `state.json` says, the bytes of all its files, or why it cannot be read."""

    name: str
    num_bytes: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    damage: str = ""


@dataclass
class KindSize:
    """All tensors of a kind together."""

    num_tensors: int = 0
    num_elements: int = 0
    num_bytes: int = 0
    dtypes: set[str] = field(default_factory=set)


def overview_of(storage: Storage, name: str) -> Overview:
    """The checkpoint ``name``. Its manifest and state are checked, its tensors are not."""
    try:
        with CheckpointReader(storage, name) as reader:
            return Overview(name, total_bytes(reader), reader.state)
    except (ConfigError, OSError) as error:
        return Overview(name, damage=str(error))


def total_bytes(reader: CheckpointReader) -> int:
    """Of all files, with the manifest."""
    manifest = reader.storage.size(f"{reader.name}/{MANIFEST}") or 0
    return manifest + sum(size for size, _ in reader.manifest.files.values())


def tensor_bytes(info: TensorInfo) -> int:
    """Of a whole tensor."""
    return prod(info.shape) * DTYPES[info.dtype].itemsize


def sizes_by_kind(reader: CheckpointReader) -> dict[str, KindSize]:
    """Number, elements and bytes of the tensors of each kind, weights first."""
    found: dict[str, KindSize] = {}
    for key, info in reader.manifest.tensors.items():
        size = found.setdefault(kind_of(key), KindSize())
        size.num_tensors += 1
        size.num_elements += prod(info.shape)
        size.num_bytes += tensor_bytes(info)
        size.dtypes.add(info.dtype)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "weights", item[0])))


def biggest_weights(reader: CheckpointReader, count: int) -> list[tuple[str, TensorInfo]]:
    """The largest by bytes; of equal ones the first by name."""
    weights = [(name, reader.manifest.tensors[f"weights/{name}"]) for name in reader.names("weights")]
    return sorted(weights, key=lambda item: (-tensor_bytes(item[1]), item[0]))[:count]


def kind_of(key: str) -> str:
    """``weights`` of `weights/blocks.0.weight`."""
    first, _, rest = key.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == "optimizer" else first
