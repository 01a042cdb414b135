"""A cancelled run is marked before anything ends it, saves if it can, and is gone at the end or said not to be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distmlp.apps import runs_cancel
from distmlp.apps.runs import run as runs
from distmlp.errors import ConfigError
from distmlp.run_state import RunState, Started, read_state, write_state

MakeRun = Callable[..., Path]
HERE = os.uname().nodename
START = Started(1.0, 0, 0, "12", 1)
SLEEPS = "import time; print('here', flush=True); time.sleep(60)"
GOES_ON = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_cancel, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(runs_cancel, "SECONDS_TO_SAVE", 0.4)
    monkeypatch.setattr(runs_cancel, "SECONDS_TO_END", 0.4)


@pytest.fixture
def make(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The run a/1 below runs/ with such a state."""
    monkeypatch.chdir(tmp_path)
    return lambda *values, **more: make_run(Path("runs/a/1"), state=RunState(*values, **more))


def state(folder: Path) -> RunState:
    found = read_state(folder)
    assert found is not None
    return found


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        runs(["cancel", *words])
    assert "\n" not in str(error.value)
    return str(error.value)


def queue_empties(slurm: Any, folder: Path, after: RunState | None = None) -> None:
    """`scancel` ends the job; the run writes ``after``, as it would, and keeps the mark that it finds then."""
    if after is not None:
        write_state(slurm.folder, after)
    new = f"cp {slurm.folder}/status.json {folder.resolve()}/status.json;" if after else ""
    seen = f"cp {folder.resolve()}/status.json {slurm.folder}/seen.json;"
    slurm.then("scancel", f"{seen} {new} : > {slurm.folder}/squeue.out")


def test_a_waiting_job_is_cancelled(slurm: Any, make: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("submitted", job="12_3")
    slurm.answers("squeue", "12_3|PENDING||Priority\n")
    queue_empties(slurm, folder)
    assert runs(["cancel", "a/1"]) == 0
    assert slurm.calls("scancel") == ["12_3"]
    assert capsys.readouterr().out == "a/1: cancelled before it started\n"
    found = state(folder)
    assert (found.state, found.reason, found.cancelled) == ("stopped", "cancelled before it started", True)


def test_a_running_job_is_marked_first_and_then_saves(
    slurm: Any, make: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("running", job="12", host="node1", starts=(START,))
    slurm.answers("squeue", "12|RUNNING|node1|None\n")
    queue_empties(slurm, folder, RunState("stopped", "stopped by SIGUSR2", 3, "12", cancelled=True))
    assert runs(["cancel", "1"]) == 0
    assert slurm.calls("scancel") == ["--signal=USR2 12"]
    assert '"cancelled": true' in (slurm.folder / "seen.json").read_text()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("a/1: stopped, stopped by SIGUSR2 (stopped by a signal and saved")


def test_a_job_that_its_script_starts_again_is_cancelled_all_the_same(
    slurm: Any, make: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make("running", job="12", host="node1", starts=(START,))
    slurm.answers("squeue", "12|RUNNING|node1|None\n")
    out = slurm.folder / "squeue.out"
    slurm.then(
        "scancel", f'grep -qx 12 {slurm.folder}/scancel.calls && : > {out} || echo "12|PENDING||BeginTime" > {out}'
    )
    assert runs(["cancel", "1"]) == 0
    assert slurm.calls("scancel") == ["--signal=USR2 12", "12"]
    assert capsys.readouterr().out.splitlines()[-1] == "a/1: cancelled; its last checkpoint is what is left"


def test_a_job_that_does_not_end_is_cancelled_and_said_to_be_there(
    slurm: Any, make: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("running", job="12", host="node1", starts=(START,))
    slurm.answers("squeue", "12|COMPLETING|node1|None\n")
    assert runs(["cancel", "1"]) == 0
    assert slurm.calls("scancel") == ["--signal=USR2 12", "12"]
    assert capsys.readouterr().out.splitlines()[-1] == "a/1: job 12 has not ended yet; --now ends it at once"
    assert (state(folder).state, state(folder).cancelled) == ("running", True)


def test_now_does_not_wait(slurm: Any, make: MakeRun) -> None:
    folder = make("running", job="12", starts=(START,))
    slurm.answers("squeue", "12|RUNNING|node1|None\n")
    queue_empties(slurm, folder)
    assert runs(["cancel", "1", "--now"]) == 0
    assert slurm.calls("scancel") == ["12"]


def test_a_stopped_run_whose_job_waits_again_is_cancelled(slurm: Any, make: MakeRun) -> None:
    folder = make("stopped", "stopped by SIGUSR2", 3, "12", starts=(START,))
    slurm.answers("squeue", "12|PENDING||BeginTime\n")
    queue_empties(slurm, folder)
    assert runs(["cancel", "1"]) == 0
    assert slurm.calls("scancel") == ["12"]
    assert state(folder) == RunState("stopped", "stopped by SIGUSR2", 3, "12", starts=(START,), cancelled=True)


def test_a_refused_scancel_leaves_the_run_as_it_was(slurm: Any, make: MakeRun) -> None:
    folder = make("running", job="12", starts=(START,))
    slurm.answers("squeue", "12|RUNNING|node1|None\n")
    slurm.answers(
        "scancel", "", error="scancel: error: Kill job error on job id 12: Access/permission denied\n", status=1
    )
    expected = "a/1 was not cancelled: scancel failed: Kill job error on job id 12: Access/permission denied"
    assert refusal("1") == expected
    assert not state(folder).cancelled


@pytest.fixture
def process() -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts Python with a program that prints when it is ready."""
    started = []

    def start(program: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", program]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "here\n"
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_process_here_gets_sigterm(process: Any, make: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    running = process(SLEEPS)
    folder = make("running", host=HERE, pid=running.pid, changed=time.time(), starts=(START,))
    assert runs(["cancel", "1"]) == 0
    assert running.wait(5) == -signal.SIGTERM
    assert capsys.readouterr().out.splitlines() == [
        f"process {running.pid} saves and ends",
        "a/1: cancelled; its last checkpoint is what is left",
    ]
    assert (state(folder).state, state(folder).cancelled) == ("stopped", True)


def test_a_process_that_goes_on_is_killed_only_now(
    process: Any, make: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    running = process(GOES_ON)
    make("running", host=HERE, pid=running.pid, changed=time.time(), starts=(START,))
    assert runs(["cancel", "1"]) == 0
    assert running.poll() is None
    expected = f"a/1: process {running.pid} has not ended yet; --now ends it at once"
    assert capsys.readouterr().out.splitlines()[-1] == expected
    assert runs(["cancel", "1", "--now"]) == 0
    assert running.wait(5) == -signal.SIGKILL


def test_another_process_with_the_same_number_is_left_alone(process: Any, make: MakeRun) -> None:
    other = process(SLEEPS)
    make("running", host=HERE, pid=other.pid, changed=time.time() - 3600, starts=(START,))
    assert refusal("1") == (f"a/1 is not running: it is lost, its process {other.pid} is gone, and it wrote no end")
    assert other.poll() is None


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"state": "finished", "reason": "done"}, "a/1 is not running: it is finished, done"),
        ({"state": "stopped"}, "a/1 is not running: it is stopped"),
        ({"state": "failed", "reason": "x"}, "a/1 is not running: it is failed, x"),
        ({"state": "running", "host": "far", "pid": 1}, "a/1 runs on far: give this command there"),
        (
            {"state": "running", "host": "far", "pid": 1, "job": "12"},
            "a/1 is job 12, which cannot be reached from here: there is no squeue here",
        ),
        ({"state": "submitted"}, "a/1 is submitted, but its status.json names no job: look for it with squeue"),
    ],
)
def test_what_cannot_be_cancelled_is_refused(values: dict[str, Any], expected: str, make: MakeRun) -> None:
    folder = make(**values)
    assert refusal("a/1") == expected
    assert not state(folder).cancelled


def test_a_run_of_an_earlier_version_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a" / "1")
    assert refusal(str(folder)) == "a/1 cannot be cancelled: unknown, it has no status.json"


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "takes one run, not 0"), (["a", "b"], "takes one run, not 2"), (["a", "--force"], "unknown flag --force")],
)
def test_a_wrong_command_is_refused(words: list[str], message: str) -> None:
    assert message in refusal(*words)
