"""Writes a snapshot: each rank its own file, all at once; rank 0 then commits the whole with the manifest.

Ranks speak to rank 0 through small files beside their tensors, not through a process group: no collective runs beside
those of training. A file system or an object store that all ranks share is all that it takes.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST, Manifest, TensorInfo, part_from_values, part_values
from distmlp.checkpoint.reader import STATE
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import Storage

CHUNK_BYTES = 16 * 2**20
POLL_SECONDS = 0.02
MAX_POLL_SECONDS = 1.0
PATIENCE_SECONDS = 600.0  # for the other ranks, after rank 0 has written its own part


class SaveError(Exception):
    """A checkpoint was not written; the message says why."""


class StepWriter:
    """Writes the checkpoint of one step.

    Args:
        storage: where to.
        step: optimizer steps taken.
        attempt: a word that all ranks of this start of the run share, and no other start.
        rank: this one.
        world_size: how many write.
        stop_waiting: set where other ranks cannot be counted on any more.
    """

    def __init__(
        self, storage: Storage, step: int, *, attempt: str, rank: int, world_size: int, stop_waiting: threading.Event
    ) -> None:
        self.storage = storage
        self.step = step
        self.name = folder_name(step)
        self.attempt = attempt
        self.rank = rank
        self.world_size = world_size
        self.stop_waiting = stop_waiting
        self.working = storage.working_folder(self.name, attempt)
        self.failure = ""

    def write_part(self, snapshot: Snapshot, rank_state: dict[str, Any]) -> None:
        """Writes this rank's tensors, then the note that says what they are. ``rank_state`` is JSON.

        Raises:
            SaveError: they cannot be written; rank 0 is told.
        """
        file = f"tensors-{self.rank:05d}-of-{self.world_size:05d}.safetensors"
        header = snapshot.layout.header()
        try:
            for stale in (MANIFEST, self._note(self.rank), self._failure(self.rank)):  # of another save of this step
                self.storage.remove(f"{self.working}/{stale}")
            digest = self._write_hashed(f"{self.working}/{file}", list(_chunks(header, snapshot.bytes())))
            note = {
                "file": file,
                "bytes": len(header) + snapshot.layout.num_bytes,
                "sha256": digest,
                "tensors": [
                    {"key": w.key, "shape": list(w.shape), "dtype": w.dtype, **part_values(w.part)}
                    for w in snapshot.written
                ],
                "state": rank_state,
            }
            self._write_json(self._note(self.rank), note)
        except OSError as error:
            reason = f"{self.storage.where(self.working)} cannot be written: {error.strerror or error}"
            self.failure = reason
            self._tell_failure(file)
            raise SaveError(reason) from None

    def commit(self, run_state: dict[str, Any]) -> int:
        """Rank 0: waits for the notes of all ranks, writes `state.json` and the manifest, publishes. Returns bytes.

        Raises:
            SaveError: it cannot be done; what there is of it is removed.
        """
        try:
            if self.failure:
                raise SaveError(f"rank {self.rank}: {self.failure}")
            notes = [self._await(rank) for rank in range(self.world_size)]
            manifest = self._manifest(notes)
            state = json.dumps(run_state | {"ranks": [note["state"] for note in notes]}, indent=1).encode()
            self.storage.write(f"{self.working}/{STATE}", [state])
            manifest.files[STATE] = len(state), hashlib.sha256(state).hexdigest()
            manifest.check_whole(self.name)
            for stranger in set(self.storage.names(self.working)) - manifest.files.keys():
                self.storage.remove(f"{self.working}/{stranger}")
            self.storage.write(f"{self.working}/{MANIFEST}", [manifest.as_text()])
            self.storage.publish(self.working, self.name)
            return sum(size for size, _ in manifest.files.values())
        except (OSError, SaveError, DamagedError) as error:
            self._remove_working()
            message = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            raise SaveError(message) from None

    def _write_hashed(self, name: str, chunks: list[memoryview]) -> str:
        """Returns the sum of what it writes. A thread hashes at its own pace: neither waits for the other's chunk."""
        digest, pool = hashlib.sha256(), ThreadPoolExecutor(1)
        try:
            hashing = pool.map(digest.update, chunks)
            self.storage.write(name, chunks)
            for _ in hashing:
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        return digest.hexdigest()

    def _await(self, rank: int) -> dict[str, Any]:
        started, pause = time.monotonic(), POLL_SECONDS
        while True:
            for name in (self._note(rank), self._failure(rank)):
                if self.storage.size(f"{self.working}/{name}") is not None:
                    note = self._read_json(name)
                    if "failure" in note:
                        raise SaveError(f"rank {rank}: {note['failure']}")
                    return note
            waited = time.monotonic() - started
            if waited > PATIENCE_SECONDS or self.stop_waiting.is_set():
                raise SaveError(
                    f"rank {rank} has written nothing within {waited:.0f} s: all ranks must see "
                    f"{self.storage.where()}, is it on a shared file system?"
                )
            time.sleep(pause)
            pause = min(2 * pause, MAX_POLL_SECONDS)

    def _manifest(self, notes: list[dict[str, Any]]) -> Manifest:
        tensors: dict[str, TensorInfo] = {}
        for note in notes:
            for entry in note["tensors"]:
                info = tensors.setdefault(entry["key"], TensorInfo(tuple(entry["shape"]), entry["dtype"]))
                info.pieces.append(part_from_values(note["file"], entry))
        files = {note["file"]: (note["bytes"], note["sha256"]) for note in notes}
        return Manifest(self.step, self.world_size, files, tensors)

    def _note(self, rank: int) -> str:
        return f"note-{self.attempt}-{rank:05d}.json"

    def _failure(self, rank: int) -> str:
        return f"failure-{self.attempt}-{rank:05d}.json"

    def _tell_failure(self, file: str) -> None:
        with suppress(OSError):
            if self.working != self.name:  # else it may be that of a former checkpoint of this step
                self.storage.remove(f"{self.working}/{file}")  # on a full disk the words need its room
        with suppress(OSError):  # rank 0 then waits for its patience to end
            self._write_json(self._failure(self.rank), {"failure": self.failure})

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        self.storage.write_at_once(f"{self.working}/{name}", json.dumps(values).encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        with self.storage.open(f"{self.working}/{name}") as file:
            values: dict[str, Any] = json.load(file)
        return values

    def _remove_working(self) -> None:
        with suppress(OSError):  # the next start of the run clears it
            # In an object store the former checkpoint of this step may still be there: whoever reads it verifies it.
            if self.working != self.name or self.storage.size(f"{self.working}/{MANIFEST}") is None:
                self.storage.remove(self.working)


def folder_name(step: int) -> str:
    """`step-00001200`."""
    return f"step-{step:08d}"


def _chunks(header: bytes, data: memoryview) -> Iterator[memoryview]:
    yield memoryview(header)
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
