"""Run folders as rows: which there are, the newest first, and how each is doing.

Of a run only small files and the end of its `metrics.jsonl` are read, and only of the runs that are shown.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmlp.report.standing import Standing, read_json, standings
from distmlp.report.tail import Line, last_metrics

MARKS = ("status.json", "config.yaml", "metrics.jsonl", "summary.json")
DEPTH = 2  # runs/<name>/<id>
LOSS = "train/loss"


@dataclass(frozen=True)
class Found:
    """A run folder, and when a file of it last changed, in seconds since 1970."""

    folder: Path
    changed: float

    @property
    def name(self) -> str:
        """``name/id``."""
        folder = self.folder if self.folder.name and self.folder.parent.name else self.folder.absolute()
        return f"{folder.parent.name}/{folder.name}"


@dataclass(frozen=True)
class Row:
    """A run as the table shows it. What is not known is None, or empty.

    Args:
        name: ``name/id``.
        folder: its run folder.
        state: see `Standing`.
        reason: why it is so.
        doubt: why it could not be checked.
        step: the last one logged.
        total_steps: those it will take, where its configuration says it.
        loss: the training loss that was logged last.
        metric: what the run calls its score, such as ``val/loss``.
        score: its last value.
        job: of SLURM.
        host: of rank 0, or the nodes of its job.
        seconds: how long it has been running, or how long ago it ended.
    """

    name: str
    folder: str
    state: str
    reason: str
    doubt: str
    step: int | None
    total_steps: int | None
    loss: float | None
    metric: str
    score: float | None
    job: str
    host: str
    seconds: float


def find_runs(places: list[Path], unreadable: list[str]) -> list[Found]:
    """All runs in ``places``, the newest first; a place is a run, the folder of a name, or a root.

    Args:
        places: existing folders.
        unreadable: gets a line for each folder that may not be read.
    """
    found: dict[Path, Found] = {}
    for place in places:
        for run in _below(place, DEPTH, unreadable):
            found.setdefault(run.folder.resolve(), run)  # a link to a run is no other run
    return sorted(found.values(), key=lambda run: (run.changed, run.name), reverse=True)


def _below(folder: Path, depth: int, unreadable: list[str]) -> Iterator[Found]:
    try:
        changed = last_change(folder)
        if changed is not None:
            yield Found(folder, changed)
            return
        inside = sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path.name)) if depth else []
    except OSError as error:
        unreadable.append(f"{folder}: {error.strerror}")
        return
    for path in inside:
        if path.is_dir() and not path.name.startswith("."):
            yield from _below(path, depth - 1, unreadable)


def last_change(folder: Path) -> float | None:
    """When the run in ``folder`` last wrote one of its files; None where it holds no run.

    Raises:
        PermissionError: the folder may not be read.
    """
    times = []
    for mark in MARKS:
        try:
            times.append((folder / mark).stat().st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return max(times, default=None)


def rows(found: list[Found]) -> list[Row]:
    """A row for each run. SLURM is asked once for all of them."""
    now = time.time()
    return [_row(run, how, now) for run, how in zip(found, standings([run.folder for run in found]), strict=True)]


def _row(run: Found, how: Standing, now: float) -> Row:
    config = read_config(run.folder)
    metric = score_name(config)
    values = last_values(run.folder, metric)
    state = how.written
    since = state.starts[-1].time if state and state.starts and how.state == "running" else run.changed
    return Row(
        name=run.name,
        folder=str(run.folder),
        state=how.state,
        reason=how.reason,
        doubt=how.doubt,
        step=values.get("step"),
        total_steps=total_steps(config, values),
        loss=values.get(LOSS),
        metric=metric,
        score=values.get(metric),
        job=state.job if state else "",
        host=(state.host if state else "") or (how.job.nodes if how.job else ""),
        seconds=round(max(0.0, now - since), 1),
    )


def last_values(folder: Path, metric: str) -> Line:
    """The newest value of each metric, with the last ``step``; ``evaluated`` is the line of the last validation."""

    def enough(lines: list[Line]) -> bool:
        return any(LOSS in line for line in lines) and any(metric in line for line in lines)

    summary = read_json(folder / "summary.json")
    final = summary.get("final")
    values: Line = dict(final) if isinstance(final, dict) else {}
    for line in last_metrics(folder / "metrics.jsonl", enough):
        values.update({name: value for name, value in line.items() if isinstance(value, int | float)})
        if any(name.startswith("val/") for name in line):
            values["evaluated"] = line
    if "step" not in values and "steps" in summary:
        values["step"] = summary["steps"]
    return values


def read_config(folder: Path) -> dict[str, Any]:
    """The frozen configuration as plain values, of whatever version; empty where it cannot be read."""
    import yaml

    try:
        values = yaml.safe_load((folder / "config.yaml").read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A group of the configuration."""
    values = config.get(name)
    return values if isinstance(values, dict) else {}


def score_name(config: dict[str, Any]) -> str:
    """The metric by which the run keeps its best checkpoints."""
    metric = section(config, "checkpoint").get("metric")
    return metric if isinstance(metric, str) and metric.startswith("val/") else "val/loss"


def total_steps(config: dict[str, Any], values: Line) -> int | None:
    """The steps until the limit that comes first; None where a limit is in something else, or is not known yet."""
    trainer = section(config, "trainer")
    if trainer.get("max_samples") is not None:
        return None
    limits = (trainer.get("max_steps"), _steps_of_all_epochs(trainer, values.get("evaluated")))
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _steps_of_all_epochs(trainer: dict[str, Any], evaluated: Line | None) -> int | None:
    """Where each epoch ends with a validation, the last of these tells how many steps an epoch has."""
    epochs = trainer.get("max_epochs")
    if evaluated is None or not isinstance(epochs, int) or trainer.get("validate_every_steps") is not None:
        return None
    step, epoch = evaluated.get("step"), evaluated.get("epoch")
    if not isinstance(step, int) or not isinstance(epoch, int) or step % (epoch + 1):
        return None  # this run was stopped by a limit inside an epoch
    return step // (epoch + 1) * epochs
