"""What status.json says is held against the queue and the processes: no more is claimed than these tell."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distmlp.report.standing import Standing, standings
from distmlp.run_state import RunState, write_state

MakeRun = Callable[..., Path]
HERE = os.uname().nodename


def of(make_run: MakeRun, tmp_path: Path, **values: Any) -> Standing:
    """The standing of a run with such a status.json."""
    [found] = standings([make_run(tmp_path / "runs" / "a" / "1", state=RunState(**{"changed": time.time()} | values))])
    return found


@pytest.mark.parametrize(
    ("state", "queue", "expected"),
    [
        ("submitted", "12|PENDING||Priority", ("submitted", "Priority")),
        ("submitted", "12|RUNNING|node1|None", ("submitted", "why")),  # it is still loading
        ("submitted", "", ("lost", "its job 12 is not in the queue, and it wrote no end")),
        ("running", "12|RUNNING|node1|None", ("running", "why")),
        ("running", "12|COMPLETING|node1|None", ("running", "why")),
        ("running", "12|PENDING||BeginTime", ("submitted", "BeginTime")),  # its node failed
        ("running", "12|COMPLETED|node1|None", ("lost", "its job 12 is not in the queue, and it wrote no end")),
        ("running", "13|RUNNING|node1|None", ("lost", "its job 12 is not in the queue, and it wrote no end")),
        ("stopped", "", ("stopped", "why")),
        ("failed", "12|PENDING||BeginTime", ("failed", "why")),
        ("finished", "", ("finished", "why")),
    ],
)
def test_a_job_of_slurm(
    state: str, queue: str, expected: tuple[str, str], slurm: Any, make_run: MakeRun, tmp_path: Path
) -> None:
    slurm.answers("squeue", queue + "\n")
    found = of(make_run, tmp_path, state=state, reason="why", job="12", host="node1", pid=1)
    assert (found.state, found.reason, found.doubt) == (*expected, "")


@pytest.mark.parametrize("state", ["submitted", "running"])
def test_without_an_answer_nothing_is_claimed(state: str, slurm: Any, make_run: MakeRun, tmp_path: Path) -> None:
    slurm.answers("squeue", "", error="squeue: error: no controller\n", status=1)
    found = of(make_run, tmp_path, state=state, job="12", host="node1", pid=1)
    assert (found.state, found.doubt) == (state, "squeue failed: no controller")
    assert not found.is_over


@pytest.mark.usefixtures("no_slurm")
def test_what_has_ended_needs_no_answer(make_run: MakeRun, tmp_path: Path) -> None:
    found = of(make_run, tmp_path, state="stopped", job="12")
    assert (found.state, found.doubt, found.is_over) == ("stopped", "", True)


def test_one_question_for_all_runs(slurm: Any, make_run: MakeRun, tmp_path: Path) -> None:
    states = [RunState("running", job=str(number)) for number in range(1, 30)] + [RunState("finished", job="77")]
    folders = [make_run(tmp_path / f"runs/a/{number}", state=state) for number, state in enumerate(states)]
    assert {one.state for one in standings(folders)} == {"lost", "finished"}
    [call] = slurm.calls("squeue")
    assert "77" not in call


def test_runs_without_jobs_ask_nothing(slurm: Any, make_run: MakeRun, tmp_path: Path) -> None:
    of(make_run, tmp_path, state="running", host=HERE, pid=os.getpid())
    assert slurm.calls("squeue") == []


def test_a_run_that_ends_while_slurm_is_asked_is_not_lost(slurm: Any, make_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a" / "1"
    write_state(tmp_path, RunState("finished", "done", 0, "12"))
    slurm.then("squeue", f"cp {tmp_path}/status.json {folder}/status.json")
    found = of(make_run, tmp_path, state="running", job="12")
    assert (found.state, found.reason) == ("finished", "done")


def test_a_process_here(make_run: MakeRun, tmp_path: Path) -> None:
    found = of(make_run, tmp_path, state="running", host=HERE, pid=os.getpid())
    assert (found.state, found.doubt) == ("running", "")
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    found = of(make_run, tmp_path, state="running", host=HERE, pid=ended.pid)
    assert (found.state, found.reason) == ("lost", f"its process {ended.pid} is gone, and it wrote no end")
    with subprocess.Popen(["sleep", "60"]) as later:  # the same number, started after status.json was written
        try:
            found = of(make_run, tmp_path, state="running", host=HERE, pid=later.pid, changed=time.time() - 1000)
        finally:
            later.kill()
    assert found.state == "lost"


def test_of_a_process_elsewhere_nothing_is_claimed(make_run: MakeRun, tmp_path: Path) -> None:
    found = of(make_run, tmp_path, state="running", host="far-away", pid=2**22 + 1)
    assert (found.state, found.doubt) == ("running", "far-away cannot be asked from here")


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({"ended_because": "trainer.max_epochs=2 reached"}, ("finished", "trainer.max_epochs=2 reached")),
        ({"ended_because": "stopped by SIGTERM"}, ("stopped", "stopped by SIGTERM")),
        ({"ended_because": 3}, ("unknown", "it has no status.json")),
        ([], ("unknown", "it has no status.json")),
        (None, ("unknown", "it has no status.json")),
    ],
)
def test_a_run_of_an_earlier_version(
    summary: object, expected: tuple[str, str], make_run: MakeRun, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "runs" / "a" / "1")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    [found] = standings([folder])
    assert (found.state, found.reason) == expected


@pytest.mark.parametrize(
    ("state", "queue", "is_over"),
    [
        ("finished", "12|COMPLETING|node1|None", True),
        ("stopped", "12|RUNNING|node1|None", False),  # its script may start it again
        ("stopped", "12|PENDING||BeginTime", False),
        ("failed", "", True),
        ("running", "12|RUNNING|node1|None", False),
    ],
)
def test_a_run_is_over_when_nothing_can_start_it_again(
    state: str, queue: str, is_over: bool, slurm: Any, make_run: MakeRun, tmp_path: Path
) -> None:
    slurm.answers("squeue", queue + "\n")
    assert of(make_run, tmp_path, state=state, job="12").is_over is is_over
