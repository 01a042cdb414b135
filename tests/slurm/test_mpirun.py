"""`mpirun python -m distmlp train` in a SLURM job trains over two nodes the run of one process, as on one machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import REPOSITORY, Cluster
from training import SMALL, assert_same_losses, losses, script, words

RANKS = "mpirun --allow-run-as-root --oversubscribe -n 2"


@pytest.fixture(autouse=True)
def needs_mpirun() -> None:
    if shutil.which("mpirun") is None:
        pytest.skip("needs mpirun of Open MPI")


def test_two_nodes_under_mpirun_train_as_one_process(
    cluster: Cluster, one_process: Callable[..., dict[int, float]], tmp_path: Path
) -> None:
    command = f"{RANKS} python -m distmlp {words()}"
    job = cluster.submit("--nodes=2", "--ntasks-per-node=1", script(tmp_path, command), folder=tmp_path)
    output = tmp_path / f"slurm-{job}.out"
    assert cluster.wait(job)["JobState"] == "COMPLETED", output.read_text()
    assert "2 process(es) on cpu" in output.read_text()
    assert_same_losses(losses(tmp_path), one_process())


def test_two_ranks_of_mpirun_on_one_machine_train_as_one_process(
    one_process: Callable[..., dict[int, float]], tmp_path: Path
) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment = clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [*RANKS.split(), sys.executable, "-m", "distmlp", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert_same_losses(losses(tmp_path), one_process())
