"""Real processes are killed and started again with the same words: the run is the one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

WORDS = """tracking=none trainer.accelerator=cpu trainer.log_every_steps=1 trainer.log_sample_ids=true model.dropout=0.1
    optimizer.lr=0.001 trainer.max_epochs=6 checkpoint.every_steps=7 data.global_batch_size=63""".split()
NUM_STEPS = 6 * 20


def kill_between(words: list[str], folder: Path, environment: dict[str, str], step: int) -> None:
    """Starts a run and kills all of its processes, with SIGKILL, once it has logged ``step``."""
    with subprocess.Popen(
        [sys.executable, "-m", "distmlp", *words], env=environment, cwd=folder.parents[2], stderr=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + 120
            while not (folder / "metrics.jsonl").exists() or last_step(folder) < step:
                assert time.monotonic() < end
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.02)
        finally:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                os.kill(one.pid, signal.SIGKILL)


def last_step(folder: Path) -> int:
    lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if line]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    ranks: int,
    distmlp: Callable[..., subprocess.CompletedProcess[str]],
    process_environment: dict[str, str],
    metrics: Callable[[Path], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    words = ["train", *WORDS, *(["trainer.devices=2", "strategy=fsdp2"] if ranks == 2 else [])]
    whole = tmp_path / "runs" / "digits-mlp" / "whole"
    assert distmlp(*words, "run.id=whole").returncode == 0
    folder = whole.with_name("killed")
    for step in (20, 60):
        kill_between([*words, "run.id=killed"], folder, process_environment, step)
    done = distmlp(*words, "run.id=killed")
    assert done.returncode == 0, done.stderr
    assert "goes on from" in done.stderr
    assert without_times(metrics(folder)) == without_times(metrics(whole))
    ids = [line["sample_ids"] for line in metrics(folder) if "sample_ids" in line]
    assert len(ids) == NUM_STEPS
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (whole / "checkpoints").iterdir())  # and no leftovers
    last = [str(run / "checkpoints" / names[-1]) for run in (folder, whole)]
    assert " tensors are equal, 0 differ" in distmlp("checkpoint", "diff", *last).stdout
