"""`distmlp train --multirun`: the runs of a sweep, one after the other, and one table at the end.

Each is a fresh process: no run leaves anything behind, such as a process group, that the next one would meet.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from distmlp import run_folder
from distmlp.apps.planned_world import planned_world
from distmlp.errors import ConfigError
from distmlp.launch.rank_side import PARENT_KEY
from distmlp.launch.signals import Relay
from distmlp.runtime import has_launcher
from distmlp.sweep import Job, make_jobs

STATES = {None: "not started", 0: "finished", 2: "mistake", 3: "stopped"}
METRICS = ("accuracy", "mae", "loss")


@dataclass
class Jobs:
    """The jobs of a sweep and how those that ran have ended."""

    jobs: list[Job]
    statuses: list[int] = field(default_factory=list)
    running: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str]) -> int:
        """Runs all, until a signal arrives, which goes to the running one. Returns the exit status of the sweep."""
        with Relay(lambda: [self.running.pid] if self.running and self.running.poll() is None else []) as relay:
            for number, job in enumerate(self.jobs):
                if relay.received:
                    break
                words = " ".join(job.chosen)
                print(f"distmlp: job {number}, {number + 1} of {len(self.jobs)}: {words}", file=sys.stderr, flush=True)
                environment = os.environ | {PARENT_KEY: str(os.getpid())}
                self.running = subprocess.Popen([*command, *job.words], env=environment, start_new_session=True)
                relay.pass_on()  # what arrived while it was being started
                self.statuses.append(self.running.wait())
        if relay.received:
            return 3 if 3 in self.statuses else 128 + relay.received[0]
        return 1 if any(self.statuses) else 0


def run_jobs(words: list[str], frozen: Path | None) -> int:
    """Composes and checks all jobs of the sweep in ``words``, then runs them. Returns the exit status."""
    if has_launcher():
        raise ConfigError("--multirun starts the processes of each run itself: leave out torchrun, set trainer.devices")
    jobs = Jobs(make_jobs(words, frozen))
    for job in jobs.jobs:
        planned_world(job.composed.config)
    command = [sys.executable, "-m", "distmlp", "train", *(["--config", str(frozen)] if frozen else [])]
    status = jobs.run(command)
    _show(jobs)
    return status


def _show(jobs: Jobs) -> None:
    folders = [_folder(job) for job in jobs.jobs]
    final = [_final_metrics(folder) for folder in folders]
    name = next((name for name in METRICS if all(f"val/{name}" in metrics for metrics in final if metrics)), "loss")
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "overrides", "ended", f"val/{name}", f"test/{name}", "run folder"):
        table.add_column(heading, justify="right" if "/" in heading else "left", overflow="fold")
    for number, (job, folder, metrics) in enumerate(zip(jobs.jobs, folders, final, strict=True)):
        status = jobs.statuses[number] if number < len(jobs.statuses) else None
        values = [f"{metrics[key]:.4f}" if key in metrics else "" for key in (f"val/{name}", f"test/{name}")]
        state = STATES.get(status) or f"failed ({_status(status)})"
        table.add_row(str(number), " ".join(job.chosen), state, *values, str(folder) if folder.exists() else "")
    Console().print(table)


def _status(status: int | None) -> str:
    return signal.Signals(-status).name if status is not None and status < 0 else str(status)


def _folder(job: Job) -> Path:
    run = job.composed.named().config.run
    return run_folder.place(run.root, str(run.name), str(run.id))


def _final_metrics(folder: Path) -> dict[str, float]:
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it ended before there was one
        return {}
    return {key: value for key, value in summary["final"].items() if value is not None}
