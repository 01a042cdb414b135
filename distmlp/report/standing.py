"""What has become of a run: `status.json` held against SLURM's queue and this machine's processes.

A process that is killed writes nothing, so a run that says it is running may be lost.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmlp.cluster.process import is_alive
from distmlp.cluster.queue import NoAnswerError, QueuedJob, ask_queue
from distmlp.run_state import RunState, read_state

IN_MOTION = ("submitted", "running")


@dataclass(frozen=True)
class Standing:
    """What has become of a run.

    Args:
        state: that of `status.json`, or ``lost``: it should be running and is not; or ``unknown``.
        reason: why it is so, in a line; may be empty.
        doubt: why it could not be checked whether it runs; empty where it was, or need not be.
        written: what `status.json` says; None without it.
        job: its job in the queue, if it is in there.
    """

    state: str
    reason: str = ""
    doubt: str = ""
    written: RunState | None = None
    job: QueuedJob | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself. A job that is left in the queue may start the run again."""
        return self.state not in IN_MOTION and (self.state == "finished" or self.job is None)


class Queue:
    """The queue as it was when asked for the jobs of several runs at once."""

    def __init__(self, states: Iterable[RunState | None]) -> None:
        jobs = {state.job for state in states if state and state.job and state.state != "finished"}
        self.no_answer = ""
        self.jobs: dict[str, QueuedJob] = {}
        try:
            self.jobs = ask_queue(jobs)
        except NoAnswerError as error:
            self.no_answer = str(error)


def standings(folders: list[Path]) -> list[Standing]:
    """The standing of each run. SLURM is asked once for all."""
    states = [read_state(folder) for folder in folders]
    queue = Queue(states)
    return [standing(folder, state, queue) for folder, state in zip(folders, states, strict=True)]


def standing(folder: Path, state: RunState | None, queue: Queue) -> Standing:
    """The standing of the run in ``folder``, whose ``state`` was read before ``queue``."""
    if state is None:
        return _without_state(folder)
    found = _judged(state, queue)
    if found.state == "lost":  # or it has ended since
        return _judged(read_state(folder) or state, queue)
    return found


def _judged(state: RunState, queue: Queue) -> Standing:
    job = queue.jobs.get(state.job)
    plain = Standing(state.state, state.reason, written=state, job=job)
    if state.state not in IN_MOTION:
        return plain
    if job is not None and job.waits:
        return Standing("submitted", job.reason, written=state, job=job)
    if job is not None:
        return plain
    if state.job:
        if queue.no_answer:
            return Standing(state.state, state.reason, queue.no_answer, state)
        return Standing("lost", f"its job {state.job} is not in the queue, and it wrote no end", written=state)
    if state.state == "submitted":
        return plain
    if state.host != os.uname().nodename:
        return Standing("running", state.reason, f"{state.host or 'another host'} cannot be asked from here", state)
    if is_alive(state.pid, state.changed):
        return plain
    return Standing("lost", f"its process {state.pid} is gone, and it wrote no end", written=state)


def _without_state(folder: Path) -> Standing:
    """Runs of earlier versions have no `status.json`, but at their end a summary."""
    ended = read_json(folder / "summary.json").get("ended_because")
    if not isinstance(ended, str):
        return Standing("unknown", "it has no status.json")
    return Standing("stopped" if ended.startswith("stopped by") else "finished", ended)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
