"""`distmlp train trainer.devices=2` starts its ranks itself: what the console shows, how it ends, what stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ENDLESS = ("train", "trainer.devices=2", "trainer.max_epochs=100000", "tracking=none", "run.id=x")
NETWORK = """
import os
from torch import nn

class Faulty(nn.Sequential):
    def __init__(self, num_outputs):
        super().__init__(nn.Flatten(), nn.Linear(784, num_outputs))
        self.calls = 0
        print("made on rank", os.environ["RANK"])

    def forward(self, x):
        self.calls += 1
        if self.calls == 5:
            os.write(1, b"written on rank %s\\n" % os.environ["RANK"].encode())
        if self.calls == 9 and os.environ["RANK"] == "1":
            raise ArithmeticError("nine is enough")
        return super().forward(x)
"""


@contextmanager
def training(folder: Path, environment: dict[str, str], words: tuple[str, ...] = ENDLESS) -> Iterator[Any]:
    """A run in ``folder`` that has logged its first steps, with its ranks in ``.ranks``; killed at the end."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "distmlp", *words]
    environment = environment | {"TMPDIR": str(folder)}  # a killed launcher leaves its folder
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            wait_for(lambda: any(folder.glob("runs/*/*/metrics.jsonl")) or process.poll() is not None)
            process.ranks = {rank.environ()["RANK"]: rank for rank in psutil.Process(process.pid).children()}  # type: ignore[attr-defined]
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def are_gone(ranks: dict[str, psutil.Process]) -> bool:
    return not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks.values())


def test_ctrl_c_saves_once_and_leaves_no_process(process_environment: dict[str, str], tmp_path: Path):
    with training(tmp_path, process_environment) as run:
        assert set(run.ranks) == {"0", "1"}
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 3, err
    assert are_gone(run.ranks)
    assert "Traceback" not in err
    assert out.count("ended:      stopped by SIGTERM") == 1
    folder = tmp_path / "runs" / "digits-mlp" / "x"
    summary = json.loads((folder / "summary.json").read_text())
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{summary['steps']:08d}"
    assert (checkpoint / "manifest.json").exists()


def test_the_ranks_of_a_killed_launcher_end(process_environment: dict[str, str], tmp_path: Path):
    with training(tmp_path, process_environment) as run:
        run.kill()
        assert set(run.ranks) == {"0", "1"}
        wait_for(lambda: are_gone(run.ranks), seconds=10)


def test_a_killed_rank_is_named(process_environment: dict[str, str], tmp_path: Path):
    with training(tmp_path, process_environment) as run:
        os.kill(run.ranks["1"].pid, signal.SIGKILL)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 1, err
    assert are_gone(run.ranks)
    said = [line for line in err.splitlines() if not line.startswith("step ")]
    assert said[-2:] == [
        "distmlp: rank 1 was killed by SIGKILL",
        "distmlp: its log is runs/digits-mlp/x/logs/rank-00001.log",
    ]
    assert "Traceback" not in err


def test_the_rank_that_raised_is_shown_once(distmlp: Any, tmp_path: Path):
    (tmp_path / "faulty.py").write_text(NETWORK)
    words = ("train", "model._target_=faulty.Faulty", "allow_targets=[faulty]", "tracking=none", "run.id=x")
    done = distmlp(*words, "trainer.devices=2")
    log = (tmp_path / "runs" / "digits-custom" / "x" / "logs" / "rank-00001.log").read_text()
    assert "nine is enough" in log
    assert "written on rank 1" in log
    assert "written on rank 1" not in done.stdout + done.stderr
    assert "written on rank 0" in done.stdout
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1, done.stderr
    before, _, traceback = done.stderr.partition("distmlp: rank 1 failed:\n")
    assert traceback.startswith("Traceback")
    assert traceback.splitlines()[-2:] == [
        "ArithmeticError: nine is enough",
        "distmlp: its log is runs/digits-custom/x/logs/rank-00001.log",
    ]
    assert all(line.startswith(("distmlp: ", "step ")) for line in before.splitlines()), before
    assert "made on rank 1" in log  # caught while there was no log yet
    assert "made on rank 1" not in done.stdout


def test_a_mistake_that_ranks_find_is_one_line_and_no_folder(distmlp: Any, tmp_path: Path):
    done = distmlp("train", "trainer.devices=2", "data=arrays", "data.inputs=absent.npz")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "absent.npz" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_runs_each_job_in_its_own_processes(distmlp: Any, metrics: Any, tmp_path: Path):
    words = ("trainer.devices=2", "trainer.max_epochs=1", "tracking=none", "run.id=sweep", "optimizer.lr=0.01,0.02")
    done = distmlp("train", "--multirun", *words)
    assert done.returncode == 0, done.stderr
    for number, rate in enumerate(("0.01", "0.02")):
        folder = tmp_path / "runs" / "digits-mlp" / f"sweep-{number}"
        summary = json.loads((folder / "summary.json").read_text())
        (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"{number} ")]
        assert f"optimizer.lr={rate}" in row
        assert "finished" in row
        assert f"{summary['final']['test/accuracy']:.4f}" in row
        assert str(folder.relative_to(tmp_path)) in row
        assert f"lr: {rate}" in (folder / "config.yaml").read_text()
        assert len(list(folder.glob("logs/rank-*.log"))) == 2
