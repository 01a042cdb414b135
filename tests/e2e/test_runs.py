"""A real run in the background is listed, watched and cancelled, each by a command of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ENDLESS = ("train", "trainer.max_epochs=1000000", "tracking=none", "run.id=x", "trainer.accelerator=cpu")
Distmlp = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def started(folder: Path, environment: dict[str, str], *words: str) -> "Iterator[subprocess.Popen[str]]":
    """`distmlp` with ``words``; killed at the end."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "distmlp", *words]
    environment = environment | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def training(folder: Path, environment: dict[str, str], *words: str) -> "Iterator[subprocess.Popen[str]]":
    """An endless run that has logged its first steps."""
    with started(folder, environment, *ENDLESS, *words) as process:
        end = time.monotonic() + 120
        while not (folder / "runs" / "digits-mlp" / "x" / "metrics.jsonl").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield process


def status(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "runs" / "digits-mlp" / "x" / "status.json").read_text())
    return values


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_is_listed_and_cancelled(
    num_ranks: int, distmlp: Distmlp, process_environment: dict[str, str], tmp_path: Path
) -> None:
    with training(tmp_path, process_environment, f"trainer.devices={num_ranks}") as run:
        row = json.loads(distmlp("runs", "--json").stdout)
        assert (row["name"], row["state"], row["doubt"]) == ("digits-mlp/x", "running", "")
        assert row["host"] == os.uname().nodename
        assert row["step"] >= 10
        assert row["loss"] > 0
        done = distmlp("runs", "cancel", "x")
        assert done.returncode == 0, done.stderr
        assert run.wait(timeout=60) == 3
    state = status(tmp_path)
    assert (state["state"], state["exit_status"], state["cancelled"]) == ("stopped", 3, True)
    assert f"process {state['pid']} saves and ends" in done.stdout
    assert "digits-mlp/x: stopped, stopped by SIGTERM (stopped by a signal and saved" in done.stdout
    assert len(list((tmp_path / "runs" / "digits-mlp" / "x" / "checkpoints").iterdir())) == 1
    again = distmlp("runs", "cancel", "x")
    assert again.returncode == 2
    assert again.stderr == "distmlp: digits-mlp/x is not running: it is stopped, stopped by SIGTERM\n"


def test_a_cancelled_run_that_goes_on_is_cancelled_no_more(
    distmlp: Distmlp, process_environment: dict[str, str], tmp_path: Path
) -> None:
    with training(tmp_path, process_environment) as run:
        distmlp("runs", "cancel", "x")
        run.wait(timeout=60)
    steps = json.loads(distmlp("runs", "--json").stdout)["step"]
    assert distmlp(*ENDLESS, f"trainer.max_steps={steps + 1}").returncode == 0
    state = status(tmp_path)
    assert (state["state"], state["cancelled"]) == ("finished", False)


def test_a_killed_run_is_lost(distmlp: Distmlp, process_environment: dict[str, str], tmp_path: Path) -> None:
    with training(tmp_path, process_environment) as run:
        run.kill()
        run.wait()
        row = json.loads(distmlp("runs", "--json").stdout)
    assert row["state"] == "lost"
    assert row["reason"] == f"its process {run.pid} is gone, and it wrote no end"
    watched = distmlp("runs", "watch", "digits-mlp/x")
    assert watched.returncode == 0
    assert watched.stdout.splitlines()[-1] == f"lost: {row['reason']}"


def test_a_run_is_watched_to_its_end(process_environment: dict[str, str], tmp_path: Path) -> None:
    with (
        training(tmp_path, process_environment) as run,
        started(tmp_path, process_environment, "runs", "watch", "x") as watcher,
    ):
        assert watcher.stdout is not None
        seen = [watcher.stdout.readline() for _ in range(2)]
        run.send_signal(signal.SIGTERM)
        rest, error = watcher.communicate(timeout=60)
    assert (watcher.returncode, error) == (0, "")
    lines = [*seen, *rest.splitlines()]
    assert all(line.startswith(f"running on {os.uname().nodename}  step ") for line in seen)
    assert seen[0] != seen[1]
    assert "train/loss " in seen[1]
    assert lines[-1].startswith("stopped: stopped by SIGTERM (exit status 3: stopped by a signal and saved")


def test_ctrl_c_leaves_the_watched_run_alone(process_environment: dict[str, str], tmp_path: Path) -> None:
    with (
        training(tmp_path, process_environment) as run,
        started(tmp_path, process_environment, "runs", "watch", "x") as watcher,
    ):
        assert watcher.stdout is not None
        watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        rest, error = watcher.communicate(timeout=60)
        assert run.poll() is None
        assert status(tmp_path)["state"] == "running"
    assert (watcher.returncode, error) == (0, "")
    assert rest.splitlines()[-1] == "watched no longer; the run goes on"
