"""`status.json`: how a run is doing, written by rank 0 when it starts and when it ends, and by `distmlp submit`.

What restarts a job reads it, since exit statuses do not survive: torchrun turns each into 1, and srun may return 0
after a node was lost. A process that is killed writes nothing, so ``running`` may be stale: its job or its process id
tells.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distmlp.run_folder import write_json

State = Literal["submitted", "running", "finished", "stopped", "failed"]
FILE = "status.json"


@dataclass(frozen=True)
class Started:
    """One start of a run.

    Args:
        time: when, in seconds since 1970.
        step: the optimizer step that it went on from; 0 for a new run.
        restart: how often its job had been restarted by then.
        job: the id of its SLURM job, ``12`` or ``12_3``; empty outside of SLURM.
        world_size: its processes.
    """

    time: float
    step: int
    restart: int
    job: str
    world_size: int


@dataclass(frozen=True)
class RunState:
    """How a run is doing.

    Args:
        state: ``submitted``, waits for its job; ``running``; ``finished``, reached a limit; ``stopped`` by a signal,
            saved, can go on; ``failed``.
        reason: why it is so, in a line.
        exit_status: of rank 0; None while it runs.
        job: the id of its newest SLURM job; empty outside of SLURM.
        host: where rank 0 runs or ran.
        pid: process id of rank 0 on that host.
        changed: when this was written, in seconds since 1970.
        starts: all of them, the newest last.
        cancelled: whether `distmlp runs cancel` ended it: its job is not to start again.
    """

    state: State
    reason: str = ""
    exit_status: int | None = None
    job: str = ""
    host: str = ""
    pid: int = 0
    changed: float = 0.0
    starts: tuple[Started, ...] = ()
    cancelled: bool = False

    def changed_to(self, **values: Any) -> "RunState":
        """The same with other ``values``."""
        return replace(self, **values)


def read_state(folder: Path) -> RunState | None:
    """The state of the run in ``folder``; None where it has none that can be read."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        starts = tuple(Started(**one) for one in values.pop("starts"))
        return RunState(**values, starts=starts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_state(folder: Path, state: RunState) -> None:
    """Writes all of ``state`` or nothing."""
    write_json(folder / FILE, asdict(state))
