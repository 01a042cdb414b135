"""`distmlp submit` on a real cluster: the job trains, goes on when it is stopped, and stays away when cancelled."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, wait_until
from training import SMALL, assert_same_losses, losses, run_folder

LONG = ("trainer.max_steps=1500", "trainer.max_epochs=null")
# A line of the user's that a job runs: this site lets nobody requeue.
NO_REQUEUE = r'cluster.lines=["scontrol() { [ \"$1\" != requeue ] && command scontrol \"$@\"; }"]'


def submit(cluster: Cluster, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ("python", "-m", "distmlp", "submit", *SMALL[1:], "cluster=slurm", *words)
    return cluster.run(*command, folder=folder)


def submitted(cluster: Cluster, folder: Path, *words: str) -> str:
    """The id of the job, which is what the first line says."""
    done = submit(cluster, folder, *words)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^job: +([0-9]+)", done.stdout)[0]


def status(folder: Path, run_id: str = "1") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run_folder(folder).parent / run_id / "status.json").read_text())
    return values


def log(folder: Path, job: str) -> str:
    file = run_folder(folder) / "logs" / f"job-{job}.log"
    return file.read_text() if file.exists() else ""


def wait_for_steps(folder: Path, job: str) -> None:
    """Until the run has taken steps."""
    wait_until(lambda: (run_folder(folder) / "metrics.jsonl").exists() and losses(folder), 90, lambda: log(folder, job))


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_a_job_trains_the_run_of_one_process(
    cluster: Cluster, one_process: Callable[..., dict[int, float]], tmp_path: Path, launcher: str
) -> None:
    job = submitted(cluster, tmp_path, "cluster.nodes=2", f"cluster.launcher={launcher}", "cluster.time=5")
    assert cluster.wait(job)["JobState"] == "COMPLETED", log(tmp_path, job)
    assert_same_losses(losses(tmp_path), one_process())
    assert (status(tmp_path)["state"], status(tmp_path)["job"]) == ("finished", job)
    assert "2 process(es) on cpu" in log(tmp_path, job)


def test_a_job_that_is_stopped_is_requeued_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    job = submitted(cluster, tmp_path, "cluster.nodes=2", *LONG)
    wait_for_steps(tmp_path, job)
    cluster.signal(job, "USR2")
    assert cluster.wait(job, restarts=1)["JobState"] == "COMPLETED", log(tmp_path, job)
    first, second = status(tmp_path)["starts"]
    assert (first["step"], first["restart"], second["restart"]) == (0, 0, 1)
    assert 0 < second["step"] < 1500
    assert sorted(losses(tmp_path)) == list(range(1, 1501))


def test_where_nobody_may_requeue_another_job_takes_over(cluster: Cluster, tmp_path: Path) -> None:
    job = submitted(cluster, tmp_path, *LONG, NO_REQUEUE)
    wait_for_steps(tmp_path, job)
    cluster.signal(job, "USR2")
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "3:0"), log(tmp_path, job)
    (other,) = re.findall(r"Submitted batch job ([0-9]+)", log(tmp_path, job))
    assert cluster.wait(other)["JobState"] == "COMPLETED", log(tmp_path, other)
    first, second = status(tmp_path)["starts"]
    assert (first["job"], second["job"], second["restart"]) == (job, other, 1)
    assert second["step"] > 0


def test_a_cancelled_job_saves_and_does_not_come_back(cluster: Cluster, tmp_path: Path) -> None:
    job = submitted(cluster, tmp_path, *LONG)
    wait_for_steps(tmp_path, job)
    cluster.output("scancel", job)
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    time.sleep(3)  # SLURM would put a job that was requeued while it ended back into the queue at its end
    assert cluster.job(job)["JobState"] == "CANCELLED", log(tmp_path, job)
    assert cluster.output("squeue", "--noheader") == ""
    assert status(tmp_path)["state"] == "stopped", log(tmp_path, job)
    assert list((run_folder(tmp_path) / "checkpoints").glob("step-*"))


def test_a_run_whose_job_waits_is_not_submitted_twice(cluster: Cluster, tmp_path: Path) -> None:
    job = submitted(cluster, tmp_path, 'cluster.sbatch=["--hold"]')
    assert (status(tmp_path)["state"], status(tmp_path)["job"]) == ("submitted", job)
    again = submit(cluster, tmp_path)
    assert again.returncode == 2
    assert re.search(rf"job {job} of .*/runs/test/1 is in the queue", again.stderr)


def test_an_array_trains_a_run_for_each_line(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "grid.txt").write_text("optimizer.lr=0.001\n# larger\noptimizer.lr=0.01\n")
    job = submitted(cluster, tmp_path, "cluster.array=grid.txt")
    for number in (0, 1):
        assert cluster.wait(f"{job}_{number}")["JobState"] == "COMPLETED"
        found = status(tmp_path, f"1-{number}")
        assert (found["state"], found["job"]) == ("finished", f"{job}_{number}")
        assert (run_folder(tmp_path).parent / f"1-{number}" / "logs" / f"job-{job}_{number}.log").is_file()
    rates = [(run_folder(tmp_path).parent / f"1-{n}" / "config.yaml").read_text().count("lr: 0.001\n") for n in (0, 1)]
    assert rates == [1, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster.partition=nowhere"], "sbatch refuses: .*invalid partition specified: nowhere"),
        (["cluster.nodes=4"], "sbatch refuses: .*Requested node configuration is not available"),
        # What --test-only lets through is refused when files are written already.
        (["cluster.dependency=afterok:x"], "sbatch refuses: .*[Dd]ependency"),
    ],
)
def test_what_sbatch_refuses_is_one_line_and_no_file(
    cluster: Cluster, tmp_path: Path, words: list[str], message: str
) -> None:
    done = submit(cluster, tmp_path, *words)
    assert done.returncode == 2, done.stdout
    assert re.search(message, done.stderr)
    assert len([line for line in done.stderr.splitlines() if "warning: compute nodes" not in line]) == 1
    assert list(tmp_path.iterdir()) == []


def test_values_reach_sbatch_and_the_run_whole_and_run_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The job id of SLURM's symbols is not in a path that holds a percent sign, and no command in a name is run."""
    comment = "it's $(touch injected) `touch injected` ; é 100%j #x"
    root = tmp_path / comment.replace("/", "")
    job = submitted(cluster, tmp_path, f'run.root="{root}"', f'cluster.sbatch=["--comment={comment}"]')
    ended = cluster.wait(job)
    shown = cluster.output("scontrol", "--oneliner", "show", "job", job)
    assert ended["JobState"] == "COMPLETED", shown
    assert f"Comment={comment} " in shown
    assert (root / "test" / "1" / "logs" / f"job-{job}.log").is_file()
    assert json.loads((root / "test" / "1" / "status.json").read_text())["state"] == "finished"
    assert not list(tmp_path.rglob("injected"))
