"""A run that is being watched: reads only what its files have got since the last look."""

import math
import time
from collections import deque
from pathlib import Path
from typing import Any

from distmlp.report.runs import LOSS, Found, last_values, read_config, score_name, total_steps
from distmlp.report.spans import span
from distmlp.report.standing import Standing, standings
from distmlp.report.tail import Follower, Line, last_words

KEPT = 2000  # logged steps, for the picture
MEASURED = 50  # logged steps, for the speed
SECONDS_BETWEEN_QUESTIONS = 10.0  # to SLURM, which all users share


class Watched:
    """A run, and what is known of it since the last `look`."""

    def __init__(self, run: Found) -> None:
        self.run = run
        self.config: dict[str, Any] = {}
        self.follower = Follower(run.folder / "metrics.jsonl")
        self.steps: deque[Line] = deque(maxlen=KEPT)
        self.values: Line = {}
        self.standing = Standing("unknown")
        self.asked_at = -math.inf

    def look(self) -> None:
        """Reads what is new."""
        now = time.monotonic()
        if now - self.asked_at >= self._seconds_between_questions():
            self.asked_at = now
            (self.standing,) = standings([self.run.folder])
        lines, is_another = self.follower.look()
        if is_another:  # a start wrote it anew, and its configuration before
            self.config = read_config(self.run.folder)
            self.steps.clear()
            self.values = last_values(self.run.folder, self.score_name)
        for line in lines:
            self._take(line)

    def _seconds_between_questions(self) -> float:
        written = self.standing.written
        return SECONDS_BETWEEN_QUESTIONS if written and written.job else 0.0

    def _take(self, line: Line) -> None:
        self.values.update({name: value for name, value in line.items() if isinstance(value, int | float)})
        if any(name.startswith("val/") for name in line):
            self.values["evaluated"] = line
        if isinstance(line.get(LOSS), int | float) and isinstance(line.get("step"), int):
            self.steps.append(line)

    @property
    def score_name(self) -> str:
        """What the run calls its score."""
        return score_name(self.config)

    def where(self) -> str:
        """``running, job 12 on node1``."""
        state, how = self.standing.written, self.standing
        parts = [f"{how.state}?" if how.doubt else how.state]
        if how.state == "submitted" and how.reason:
            parts[0] += f" ({how.reason})"
        if state and state.job:
            parts.append(f"job {state.job}")
        host = (state.host if state else "") or (how.job.nodes if how.job else "")
        return ", ".join(parts) + (f" on {host}" if host else "")

    def progress(self) -> str:
        """``step 230/900  epoch 10  12.3k samples/s  40 s left``."""
        step, total = self.values.get("step"), total_steps(self.config, self.values)
        parts = [f"step {step if step is not None else '–'}" + (f"/{total}" if total else "")]
        if isinstance(self.values.get("epoch"), int):
            parts.append(f"epoch {self.values['epoch'] + 1}")
        rate, steps_a_second = self._speed("samples"), self._speed("step")
        if rate and not self.standing.is_over:
            parts.append(f"{rate / 1000:.1f}k samples/s" if rate >= 1000 else f"{rate:.1f} samples/s")
            if total and step is not None and steps_a_second:
                parts.append(f"{span((total - step) / steps_a_second)} left")
        return "  ".join(parts)

    def _speed(self, key: str) -> float:
        """How fast ``key`` grows over the last logged steps, by the seconds of training; 0 where that is not known."""
        lines = [line for line in list(self.steps)[-MEASURED:] if {key, "seconds"} <= line.keys()]
        seconds = lines[-1]["seconds"] - lines[0]["seconds"] if lines else 0.0
        return float(lines[-1][key] - lines[0][key]) / seconds if seconds > 0 else 0.0

    def metrics(self) -> str:
        """``train/loss 0.0063  val/loss 0.0679``: the newest values."""
        names = [LOSS, *sorted(name for name in self.values if "/" in name and name != LOSS)]
        return "  ".join(f"{name} {self.values[name]:.4g}" for name in names if name in self.values)

    def log(self, count: int) -> tuple[str, list[str]]:
        """The name of the newest log, and its last lines."""
        file = newest_log(self.run.folder)
        return (f"logs/{file.name}", last_words(file, count)) if file else ("", [])

    def ending(self) -> str:
        """How the run ended, and what its exit status means."""
        how, state = self.standing, self.standing.written
        status = state.exit_status if state else None
        meaning = "" if status is None or how.state == "lost" else f" (exit status {status}: {explained(status)})"
        return f"{how.state}{f': {how.reason}' if how.reason else ''}{meaning}"


def newest_log(folder: Path) -> Path | None:
    """The log of the newest job, or that of rank 0."""
    try:
        jobs = list((folder / "logs").glob("job-*.log"))
        newest = max(jobs, key=lambda file: file.stat().st_mtime, default=folder / "logs" / "rank-00000.log")
        return newest if newest.is_file() else None
    except OSError:
        return None


def explained(status: int) -> str:
    """What an exit status of `distmlp train` means."""
    known = {
        0: "finished",
        2: "a mistake in its configuration or command",
        3: "stopped by a signal and saved; the same command goes on",
        4: "gave up after repeated faults",
    }
    return known.get(status) or (f"ended by signal {status - 128}" if status > 128 else "failed; its log says why")
