"""Reading a run's ``metrics.jsonl`` back: the one source for every picture and table.

A line belongs to a logged step; its keys vary. A crash can leave the last line torn, and a resumed run logs some steps
again, so the last line is forgiven and, of two values at one position, the later one counts.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distmlp.errors import ConfigError

METRICS_FILE = "metrics.jsonl"
_NUM_SUGGESTIONS = 3

FloatArray = npt.NDArray[np.float64]


def find_run(path: Path) -> Path:
    """The run folder that ``path`` means: itself, or the run in it that was written to last.

    Raises:
        ConfigError: neither holds a ``metrics.jsonl``; the message names the newest runs nearby.
    """
    if (path / METRICS_FILE).is_file():
        return path
    if path.is_file() and path.name == METRICS_FILE:
        return path.parent
    inside = list(path.glob(f"*/{METRICS_FILE}")) if path.is_dir() else []
    if inside:
        return max(inside, key=lambda file: file.stat().st_mtime_ns).parent
    raise ConfigError(
        f"no run at {path}: looked for {path / METRICS_FILE} and {path / '*' / METRICS_FILE}{_newest(path)}"
    )


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, oldest first; a torn last line (see the module) is left out.

    Args:
        run_folder: a run folder, or the folder of a run name, which means the newest run in it.

    Raises:
        ConfigError: no file there, nothing in it, or an invalid line that is not the last one.
    """
    file = find_run(run_folder) / METRICS_FILE
    try:
        *whole, torn = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(whole, start=1):
        if not text.strip():
            continue
        try:
            lines.append(_parsed(text))
        except ValueError as error:
            if number == len(whole) and not torn:
                break
            raise ConfigError(
                f"{file}, line {number}: not a JSON object ({error}); mend or delete that line"
            ) from error
    if not lines:
        raise ConfigError(f"{file} holds no logged step yet{_newest(file.parent)}")
    return lines


def _parsed(text: bytes) -> dict[str, Any]:
    value = json.loads(text.decode())
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    return value


def _newest(path: Path) -> str:
    """``; newest runs: …`` for the runs in ``path``, else beside it, else under the default root; empty without any."""
    for base in (path, path.parent, Path("runs")):
        found = [file.parent for depth in ("*", "*/*") for file in base.glob(f"{depth}/{METRICS_FILE}")]
        others = sorted((run for run in found if run != path), key=lambda run: run.name, reverse=True)
        if others:
            return f"; newest runs: {', '.join(str(run) for run in others[:_NUM_SUGGESTIONS])}"
    return ""


@dataclass(frozen=True)
class RunMetrics:
    """A run's lines with the name it goes by in a legend: ``name/id``."""

    label: str
    lines: Sequence[dict[str, Any]]

    def has(self, key: str) -> bool:
        """Whether any line holds a number under ``key``."""
        return any(_is_number(line.get(key)) for line in self.lines)

    def series(self, key: str, position: str) -> tuple[FloatArray, FloatArray]:
        """Rising positions and the values of ``key``, both of shape (points,); a value may be NaN or infinite."""
        points = {
            float(line[position]): float(line[key])
            for line in self.lines
            if _is_number(line.get(key)) and _is_number(line.get(position)) and math.isfinite(line[position])
        }
        positions = sorted(points)
        return np.array(positions, dtype=np.float64), np.array([points[at] for at in positions], dtype=np.float64)


def load_runs(runs: Sequence[Path]) -> list[RunMetrics]:
    """The runs in the order given, each once, however often and in whichever spelling it was named."""
    folders = dict.fromkeys(find_run(run).resolve() for run in runs)
    return [RunMetrics(f"{folder.parent.name}/{folder.name}", read_metrics(folder)) for folder in folders]


def position_key(runs: Sequence[RunMetrics]) -> str:
    """What to draw over: ``epoch`` if it tells apart all logged steps of all runs, else ``samples``, else ``step``.

    Raises:
        ConfigError: neither ``samples`` nor ``step`` is there in all runs.
    """
    if all(_epochs_tell_apart(run) for run in runs):
        return "epoch"
    for key in ("samples", "step"):
        if all(run.has(key) for run in runs):
            return key
    lacking = next(run for run in runs if not run.has("step"))
    raise ConfigError(f"{lacking.label}: no line of {METRICS_FILE} has a number under 'samples' or 'step'")


def _epochs_tell_apart(run: RunMetrics) -> bool:
    """Whole epochs put all steps of an epoch on one spot; fractions of them, or one line an epoch, do not."""
    pairs = {(line.get("epoch"), line.get("samples", line.get("step"))) for line in run.lines}
    epochs = {epoch for epoch, _ in pairs}
    return all(_is_number(epoch) for epoch in epochs) and 1 < len(epochs) == len(pairs)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
