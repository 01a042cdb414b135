"""`srun torchrun … -m distmlp train` over two nodes is the same run as one process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster
from training import assert_same_losses, losses, script, words

TORCHRUN = """
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --ntasks-per-node=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 1 --rdzv-id "$SLURM_JOB_ID" \\
    --rdzv-backend c10d --rdzv-endpoint "$head:29500" -m distmlp"""


@pytest.mark.timeout(400)
def test_two_nodes_under_torchrun_train_as_one_process(
    cluster: Cluster, one_process: Callable[..., dict[int, float]], tmp_path: Path
) -> None:
    job = cluster.submit("--nodes=2", script(tmp_path, f"{TORCHRUN} {words()}"), folder=tmp_path)
    output = tmp_path / f"slurm-{job}.out"
    assert cluster.wait(job, seconds=200)["JobState"] == "COMPLETED", output.read_text()
    assert "2 process(es) on cpu" in output.read_text()
    assert_same_losses(losses(tmp_path), one_process())
    assert len(one_process()) == 20
