"""Writes a checkpoint of whole tensors from one process: what an import makes, and what tests read."""

import threading
from typing import Any

from torch import Tensor

from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import Storage
from distmlp.checkpoint.writer import StepWriter
from distmlp.shards import Place, Range, Shard


def write_whole(storage: Storage, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> str:
    """Writes the checkpoint of ``step`` and returns its name, `step-00001200`.

    All tensors are copied into memory first, once.

    Args:
        storage: where to.
        step: optimizer steps taken.
        tensors: whole tensors, by kind (``weights``, ``average``, ``optimizer/<state>``) and name.
        state: what `state.json` holds; of its list ``ranks`` the first counts.

    Raises:
        SaveError: it cannot be written.
    """
    writer = StepWriter(storage, step, attempt="whole", rank=0, world_size=1, stop_waiting=threading.Event())
    snapshot = Snapshot(pinned=False)
    snapshot.take([_shard(kind, name, tensor) for kind, named in tensors.items() for name, tensor in named.items()])
    rank_states = state.get("ranks") or [{}]
    writer.write_part(snapshot, rank_states[0])
    writer.commit(state)
    return writer.name


def _shard(kind: str, name: str, tensor: Tensor) -> Shard:
    place = Place(name, tuple(tensor.shape), Range(0, tensor.numel()))
    return Shard(kind, place, tensor.detach().contiguous())
