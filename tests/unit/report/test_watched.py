"""What a watcher knows follows the files; what it shows follows what it knows."""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distmlp.report import watch, watched
from distmlp.report.loss_plot import plot_loss
from distmlp.report.runs import Found
from distmlp.report.watched import Watched, newest_log
from distmlp.run_state import RunState, Started, write_state

MakeRun = Callable[..., Path]
HERE = os.uname().nodename


def step(number: int, **values: Any) -> dict[str, Any]:
    place = {"step": number, "epoch": number // 20, "samples": number * 64, "seconds": number / 10}
    return {**place, "train/loss": 1 / number, **values}


def running(**values: Any) -> RunState:
    start = Started(time.time(), 0, 0, "", 1)
    return RunState("running", host=HERE, pid=os.getpid(), changed=time.time(), starts=(start,)).changed_to(**values)


def watcher(folder: Path) -> Watched:
    found = Watched(Found(folder, 0.0))
    found.look()
    return found


def append(folder: Path, *lines: dict[str, Any]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_speed_and_time_left_are_of_the_last_steps(make_run: MakeRun, tmp_path: Path) -> None:
    lines = [step(number) for number in range(1, 101)]
    lines += [step(number, seconds=10 + (number - 100)) for number in range(101, 201)]  # ten times slower
    seen = watcher(make_run(tmp_path / "a" / "1", lines, running(), max_steps=500))
    assert seen.where() == f"running on {HERE}"
    assert seen.progress() == "step 200/500  epoch 11  64.0 samples/s  5 min left"
    assert seen.metrics() == "train/loss 0.005"
    append(seen.run.folder, {"step": 200, "epoch": 9, "samples": 12800, "seconds": 111.0, "val/loss": 0.25})
    seen.look()
    assert seen.metrics() == "train/loss 0.005  val/loss 0.25"


def test_a_resume_takes_lines_back(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a" / "1", [step(number) for number in range(1, 51)], running(), max_steps=500)
    seen = watcher(folder)
    assert len(seen.steps) == 50
    (folder / "shorter").write_text("".join(json.dumps(step(number)) + "\n" for number in range(1, 11)))
    os.replace(folder / "shorter", folder / "metrics.jsonl")
    (folder / "config.yaml").write_text("trainer: {max_steps: 900}")
    seen.look()
    assert [line["step"] for line in seen.steps] == list(range(1, 11))
    assert seen.progress().startswith("step 10/900  ")


def test_a_run_without_metrics_yet(make_run: MakeRun, tmp_path: Path) -> None:
    seen = watcher(make_run(tmp_path / "a" / "1", state=running()))
    assert seen.progress() == "step –"
    assert seen.metrics() == ""
    assert seen.log(5) == ("", [])


def test_slurm_is_not_asked_at_each_look(make_run: MakeRun, tmp_path: Path, slurm: Any) -> None:
    slurm.answers("squeue", "12|PENDING||Priority\n")
    folder = make_run(tmp_path / "a" / "1", state=RunState("submitted", job="12"))
    seen = watcher(folder)
    for _ in range(20):
        seen.look()
    assert len(slurm.calls("squeue")) == 1
    assert seen.where() == "submitted (Priority), job 12"
    seen.asked_at -= watched.SECONDS_BETWEEN_QUESTIONS
    slurm.answers("squeue", "12|RUNNING|node[1-2]|None\n")
    write_state(folder, running(job="12", host="node1"))
    seen.look()
    assert seen.where() == "running, job 12 on node1"


def test_the_newest_log_of_a_job_comes_before_that_of_a_rank(tmp_path: Path) -> None:
    assert newest_log(tmp_path) is None
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "rank-00000.log").write_text("rank\n")
    assert newest_log(tmp_path) == logs / "rank-00000.log"
    for name, seconds in (("job-9.log", 20), ("job-10.log", 10)):
        (logs / name).write_text(name)
        os.utime(logs / name, (seconds, seconds))
    assert newest_log(tmp_path) == logs / "job-9.log"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (RunState("finished", "max_steps reached", 0), "finished: max_steps reached (exit status 0: finished)"),
        (
            RunState("stopped", "by USR2", 3),
            "stopped: by USR2 (exit status 3: stopped by a signal and saved; the same ",
        ),
        (RunState("failed", "ValueError: x", 1), "failed: ValueError: x (exit status 1: failed; its log says why)"),
        (RunState("failed", "no such key", 2), "failed: no such key (exit status 2: a mistake in its configuration "),
        (RunState("failed", "3 times", 4), "failed: 3 times (exit status 4: gave up after repeated faults)"),
        (RunState("failed", "killed", 137), "failed: killed (exit status 137: ended by signal 9)"),
        (RunState("stopped", "cancelled"), "stopped: cancelled"),
    ],
)
def test_how_it_ended_is_explained(state: RunState, expected: str, make_run: MakeRun, tmp_path: Path) -> None:
    assert watcher(make_run(tmp_path / "a" / "1", state=state)).ending().startswith(expected)


def watched_text(seen: Watched, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, height: int = 40) -> str:
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.01)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80, height=height, color_system=None)
    watch.watch(console, seen)
    return text.getvalue()


@pytest.fixture
def finished(make_run: MakeRun, tmp_path: Path) -> Watched:
    state = RunState("finished", "max_steps reached", 0, host=HERE)
    folder = make_run(tmp_path / "a" / "1", [step(number) for number in range(1, 51)], state, max_steps=50)
    (folder / "logs").mkdir()
    (folder / "logs" / "rank-00000.log").write_text("".join(f"line {number} [red]\n" for number in range(100)))
    return Watched(Found(folder, 0.0))


def test_a_terminal_gets_header_picture_log_and_ending(finished: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = watched_text(finished, monkeypatch, terminal=True).splitlines()
    text = "\n".join(lines)
    assert f"a/1  finished on {HERE}" in text
    assert "step 50/50  epoch 3" in text
    assert "⠉" in text  # braille: the picture
    assert "logs/rank-00000.log ──" in text
    assert "line 99 [red]" in text
    assert "line 89" not in text
    assert lines[-1].endswith("finished: max_steps reached (exit status 0: finished)")


@pytest.mark.parametrize("height", [8, 16, 24, 50])
def test_the_view_fits_the_terminal(height: int, finished: Watched) -> None:
    finished.look()
    text = io.StringIO()
    console = Console(file=text, width=80, height=height)
    console.print(watch.view(finished, console))
    lines = text.getvalue().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= 80


def test_without_plotext_there_are_numbers(finished: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotext", None)
    text = watched_text(finished, monkeypatch, terminal=True)
    assert "⠉" not in text
    assert "train/loss 0.02" in text
    assert "line 99" in text


def test_a_pipe_gets_a_line_for_each_change(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "a" / "1", [step(1)], running(), max_steps=50)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            append(folder, step(2))
        if looks == 5:
            write_state(folder, running(state="stopped", reason="stopped by SIGTERM", exit_status=3))

    monkeypatch.setattr(time, "sleep", sleep)
    lines = watched_text(Watched(Found(folder, 0.0)), monkeypatch, terminal=False).splitlines()
    assert [line.split("  ")[:2] for line in lines[:2]] == [[f"running on {HERE}", f"step {n}/50"] for n in (1, 2)]
    assert lines[2].startswith(f"stopped on {HERE}  step 2/50")
    assert lines[3].startswith("stopped: stopped by SIGTERM (exit status 3")
    assert len(lines) == 4


def test_the_picture_is_as_large_as_asked_and_skips_what_is_no_number() -> None:
    losses = [1 / step for step in range(1, 1000)]
    losses[10:20] = [float("nan"), float("inf")] * 5
    lines = plot_loss(range(1, 1000), losses, 60, 12).splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 60
    assert lines[-1].split() == ["5", "502", "999"]  # thinned, the last one kept
    assert plot_loss([1], [0.5], 60, 12) == ""
    assert plot_loss([1, 2], [float("nan"), 1.0], 60, 12) == ""
