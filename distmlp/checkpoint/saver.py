"""Saves while training goes on: training waits for the copy out of device memory only, a thread does the rest."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import Storage
from distmlp.checkpoint.writer import SaveError, StepWriter
from distmlp.log import log
from distmlp.shards import Shard

GRACE_SECONDS = 30.0  # for a save in hand when training broke off


class Saver:
    """This rank's side of all saves of a run; all ranks must call `save` for the same steps.

    Args:
        storage: where checkpoints lie.
        rank: this one.
        world_size: how many write.
        attempt: a word that the ranks of this start share, and no other start.
        asynchronous: False: `save` returns when the checkpoint is there.
        pinned: snapshots go to page-locked memory, as GPUs like it.
        on_saved: rank 0 calls it, in the thread, with the step and the state of a checkpoint that is there.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        rank: int,
        world_size: int,
        attempt: str,
        asynchronous: bool,
        pinned: bool,
        on_saved: Callable[[int, dict[str, Any]], None],
    ) -> None:
        self.storage = storage
        self.rank = rank
        self.world_size = world_size
        self.attempt = attempt
        self.asynchronous = asynchronous
        self.on_saved = on_saved
        self.snapshot = Snapshot(pinned)
        self.thread: threading.Thread | None = None
        self.preparation: threading.Thread | None = None
        self.stop_waiting = threading.Event()
        self.failures = 0

    @property
    def is_busy(self) -> bool:
        """Whether a save is in hand."""
        return self.thread is not None and self.thread.is_alive()

    def prepare(self, shards: list[Shard]) -> None:
        """Gets the memory for saves of what looks like ``shards``, beside training: the first save need not wait."""
        self.preparation = threading.Thread(target=self._prepare, args=(shards,), name="prepare-saves")
        self.preparation.start()

    def save(
        self, step: int, shards: list[Shard], rank_state: dict[str, Any], run_state: dict[str, Any] | None = None
    ) -> None:
        """Copies ``shards`` and starts to write them; a save in hand is waited for first.

        Args:
            step: optimizer steps taken.
            shards: what this rank holds.
            rank_state: JSON of this rank.
            run_state: JSON of the whole run, on rank 0.
        """
        started = time.monotonic()
        self.wait()
        self.snapshot.take(shards)
        stalled = time.monotonic() - started
        writer = StepWriter(
            self.storage,
            step,
            attempt=self.attempt,
            rank=self.rank,
            world_size=self.world_size,
            stop_waiting=self.stop_waiting,
        )
        self.thread = threading.Thread(
            target=self._write, args=(writer, rank_state, run_state, started, stalled), name=f"save-{step}"
        )
        self.thread.start()
        if not self.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Returns when no save is in hand."""
        if self.preparation is not None:
            self.preparation.join()
            self.preparation = None
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def give_up(self) -> None:
        """After training broke off: finishes this rank's part, and waits a little for the others'."""
        timer = threading.Timer(GRACE_SECONDS, self.stop_waiting.set)
        timer.start()
        self.wait()
        timer.cancel()

    def _prepare(self, shards: list[Shard]) -> None:
        with suppress(RuntimeError, MemoryError):  # the first save tries again, where an error is heard
            self.snapshot.prepare(shards)

    def _write(
        self,
        writer: StepWriter,
        rank_state: dict[str, Any],
        run_state: dict[str, Any] | None,
        started: float,
        stalled: float,
    ) -> None:
        try:
            if run_state is None:
                writer.write_part(self.snapshot, rank_state)
                return
            with suppress(SaveError):  # `commit` tells it, and clears up
                writer.write_part(self.snapshot, rank_state)
            num_bytes = writer.commit(run_state)
            log.info(
                "checkpoint of step %d: %.1f MB, training waited %.3f s, written in %.2f s",
                writer.step,
                num_bytes / 1e6,
                stalled if self.asynchronous else time.monotonic() - started,
                time.monotonic() - started,
            )
            self.on_saved(writer.step, run_state)
        except SaveError as error:
            self.failures += 1
            log.warning("the checkpoint of step %d was not written: %s", writer.step, error)
        except Exception as error:  # a fault of ours in the thread must not pass in silence, nor end the run
            self.failures += 1
            log.exception("the checkpoint of step %d was not written: %r", writer.step, error)
