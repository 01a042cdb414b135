"""Jobs of a sweep run one after the other: one that fails stops no other, a signal starts no other."""

import os
import signal
import sys

import pytest

from distmlp.apps.multirun import Jobs, run_jobs
from distmlp.errors import ConfigError
from distmlp.sweep import make_jobs

# Stands for `distmlp train`: ends with the number after `seed=` as its status, and tells its parent of seed 9.
JOB = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
seed = int(sys.argv[1].removeprefix("seed="))
if seed == 9:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
sys.exit(seed)
"""
COMMAND = [sys.executable, "-c", JOB]


@pytest.mark.parametrize(
    ("word", "statuses", "status"), [("seed=0,0", [0, 0], 0), ("seed=0,5,0", [0, 5, 0], 1), ("seed=0,9,1", [0, 3], 3)]
)
def test_a_sweep_succeeds_when_all_its_jobs_do(word: str, statuses: list[int], status: int) -> None:
    jobs = Jobs(make_jobs([word]))
    assert jobs.run(COMMAND) == status
    assert jobs.statuses == statuses


def test_torchrun_must_not_start_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(key, "1")
    with pytest.raises(ConfigError, match=r"^--multirun starts the processes of each run itself: leave out torchrun"):
        run_jobs(["seed=0,1"], None)


def test_a_job_is_told_whose_child_it_is() -> None:
    checks = "import os, sys; sys.exit(int(os.environ['DISTMLP_PARENT']) != os.getppid())"
    jobs = Jobs(make_jobs(["seed=1"]))
    assert jobs.run([sys.executable, "-c", checks]) == 0
    assert "DISTMLP_PARENT" not in os.environ
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
