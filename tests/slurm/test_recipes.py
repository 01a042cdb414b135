"""The batch scripts of `slurm/`, as they stand: they train the run of one process, and start again until it is done."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import REPOSITORY, Cluster, wait_until
from training import SMALL, assert_same_losses, losses, run_folder

RECIPES = REPOSITORY / "slurm"
WORDS = SMALL[1:]  # the scripts say `train`
ENDLESS = (*(word for word in WORDS if "max_steps" not in word), "trainer.max_epochs=1000000")


def starts(folder: Path) -> list[str]:
    """The job of each start of the run in ``folder``."""
    file = run_folder(folder) / "status.json"
    return [start["job"] for start in json.loads(file.read_text())["starts"]] if file.exists() else []


def has_saved(folder: Path) -> bool:
    return any((run_folder(folder) / "checkpoints").glob("step-*/manifest.json"))


def stop_once_it_trains(cluster: Cluster, job: str, folder: Path) -> None:
    """Sends the signal that SLURM sends before the time limit."""
    lines = run_folder(folder) / "metrics.jsonl"
    wait_until(lambda: lines.exists() and lines.stat().st_size, 120, lambda: cluster.logs())
    cluster.signal(job, "USR2")


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("train", ("--ntasks-per-node=2",)),
        ("train_torchrun", ("--nodes=2",)),
    ],
)
def test_two_ranks_train_as_one_process(
    recipe: str, flags: tuple[str, ...], cluster: Cluster, one_process: Callable[..., dict[int, float]], tmp_path: Path
) -> None:
    job = cluster.submit(*flags, f"{RECIPES}/{recipe}.sbatch", *WORDS, folder=tmp_path)
    output = tmp_path / f"slurm-{job}.out"
    assert cluster.wait(job)["JobState"] == "COMPLETED", output.read_text()
    assert "2 process(es) on cpu" in output.read_text()
    assert_same_losses(losses(tmp_path), one_process())


def test_an_array_trains_a_run_for_each_line(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("optimizer.lr=0.01\n'optimizer.lr=0.02' seed=3\n")
    common = [word for word in WORDS if not word.startswith("run.id")]
    array = cluster.submit("--array=0-1", f"{RECIPES}/array.sbatch", "lines.txt", *common, folder=tmp_path)
    folders = [tmp_path / "runs" / "test" / f"slurm-{array}_{task}" for task in range(2)]
    wait_until(lambda: all((folder / "summary.json").exists() for folder in folders), 120, cluster.logs)
    texts = [(folder / "config.yaml").read_text() for folder in folders]
    assert ["lr: 0.01" in texts[0], "lr: 0.02" in texts[1], "seed: 3\n" in texts[1]] == [True] * 3


def test_jobs_that_share_a_node_do_not_meet(
    cluster: Cluster, one_process: Callable[..., dict[int, float]], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    jobs = []
    for folder in folders:
        folder.mkdir()
        script = f"{RECIPES}/train_torchrun.sbatch"
        jobs.append(cluster.submit("--nodelist=node1,node2", "--nodes=2", script, *WORDS, folder=folder))
    for job, folder in zip(jobs, folders, strict=True):
        assert cluster.wait(job)["JobState"] == "COMPLETED", (folder / f"slurm-{job}.out").read_text()
        assert_same_losses(losses(folder), one_process())


def test_a_job_stopped_under_torchrun_starts_again_and_a_cancelled_one_does_not(
    cluster: Cluster, tmp_path: Path
) -> None:
    job = cluster.submit(f"{RECIPES}/train_torchrun.sbatch", *ENDLESS, folder=tmp_path)
    stop_once_it_trains(cluster, job, tmp_path)
    cluster.wait(job, "RUNNING", restarts=1)
    wait_until(lambda: starts(tmp_path) == [job, job], 120, cluster.logs)
    assert has_saved(tmp_path)
    cluster.output("scancel", job)
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    assert cluster.output("squeue", "--noheader", "--states=PENDING,RUNNING").strip() == ""


def test_where_requeueing_is_refused_the_job_submits_itself_again(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    export = f"--export=ALL,PATH={tmp_path}:{cluster.output('printenv', 'PATH', folder=tmp_path).strip()}"
    flags = (export, "--nodes=2", "--gpus-per-node=1", "--time=7")
    job = cluster.submit(*flags, f"{RECIPES}/train.sbatch", *ENDLESS, folder=tmp_path)
    stop_once_it_trains(cluster, job, tmp_path)
    wait_until(lambda: len(starts(tmp_path)) == 2, 120, cluster.logs)
    assert int(cluster.job(job)["ExitCode"].partition(":")[0]) == 3
    again = starts(tmp_path)[1]
    found = cluster.job(again)
    assert again != job
    assert (found["NumNodes"], found["TimeLimit"], found["TresPerNode"]) == ("2", "00:07:00", "gres:gpu:1")
