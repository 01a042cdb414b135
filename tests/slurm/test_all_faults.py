"""The rest of what may happen to a job, in the order of how long it takes; `make launch` runs this file too."""

from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from disturbed import Disturbed, assert_same_run, network

Steps = list[dict[str, Any]]


def test_a_job_whose_run_has_finished_stays_finished(cluster: Cluster, tmp_path: Path, expected: Steps) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.0))
    assert job.wait()["JobState"] == "COMPLETED"
    assert job.cluster.job(job.id)["Restarts"] == "0"
    assert_same_run(job.lines(), expected)
    cluster.output("scontrol", "requeue", job.id)  # by hand: it finds nothing to do
    job.wait("COMPLETED", restarts=1)
    assert_same_run(job.lines(), expected)
    assert job.state.state == "finished"


def test_a_job_that_is_cancelled_saves_and_does_not_start_again(cluster: Cluster, tmp_path: Path) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.1))
    job.wait_for_step(5)
    cluster.output("scancel", job.id)
    assert job.wait("CANCELLED")["Restarts"] == "0"
    assert (job.state.state, job.state.reason) == ("stopped", "stopped by SIGTERM")
    assert cluster.output("squeue", "--noheader").strip() == ""


def test_an_urgent_job_takes_the_nodes(cluster: Cluster, tmp_path: Path, expected: Steps) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.1), options=("--exclusive",))
    job.wait_for_step(20)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--wrap=sleep 1", folder=tmp_path)
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    job.wait("COMPLETED", restarts=1)
    assert_same_run(job.lines(), expected)
    assert job.state.starts[1].step >= 20  # it had the time to save


def test_a_node_is_cut_off(cluster: Cluster, tmp_path: Path, expected: Steps) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.1), "checkpoint.every_steps=10")
    job.wait_for_step(25)
    cluster.cut("node2")
    assert job.wait("COMPLETED", restarts=1)["NodeList"] == "node[1,3]"
    assert_same_run(job.lines(), expected)
    assert 20 <= job.state.starts[1].step < 80


def test_a_job_without_scontrol_starts_again_where_the_site_requeues_by_exit_status(
    tmp_path: Path, expected: Steps, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("scontrol", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    with Cluster(tmp_path_factory.mktemp("requeue-exit"), 2, "RequeueExit=3") as site:
        path = site.output("printenv", "PATH").strip()
        job = Disturbed.submit(site, tmp_path, *network(0.1), options=(f"--export=ALL,PATH={tmp_path}:{path}",))
        job.wait_for_step(20)
        site.signal(job.id, "USR2")
        job.wait("COMPLETED", restarts=1)
        assert_same_run(job.lines(), expected)


def test_the_time_is_over(cluster: Cluster, tmp_path: Path, expected: Steps) -> None:
    # SLURM looks twice a minute, and sends the signal early rather than late: here after 60 to 90 s.
    job = Disturbed.submit(cluster, tmp_path, *network(1.3), options=("--time=2", "--signal=USR2@30"))
    job.wait("RUNNING", restarts=1, seconds=200)
    job.wait("COMPLETED", restarts=1, seconds=300)
    assert_same_run(job.lines(), expected)
    assert "stopped by SIGUSR2" in job.log()


def test_a_run_that_comes_no_further_ends_after_three_restarts(cluster: Cluster, tmp_path: Path) -> None:
    broken = ("model._target_=slow_network.Broken", "model.passes=4", "model.rank=0")
    job = Disturbed.submit(cluster, tmp_path, *broken)
    ended = job.wait("FAILED", restarts=3, seconds=300)
    assert (ended["Restarts"], ended["ExitCode"]) == ("3", "4:0")
    assert "3 restarts came no further than step 0, so it is not restarted: RuntimeError: this network is" in job.log()
    assert [line["step"] for line in job.lines()] == [1, 2, 3]


def test_a_mistake_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.0), "trainer.devices=4")
    ended = job.wait()
    assert (ended["JobState"], ended["Restarts"], ended["ExitCode"]) == ("FAILED", "0", "2:0")
    said = [line for line in job.log().splitlines() if "trainer.devices=4" in line]
    right = "use srun --nodes=2 --ntasks-per-node=4"
    assert said == [f"distmlp: trainer.devices=4, but 1 process(es) were started on this node: {right}"]
    assert not job.run.exists()


def test_two_jobs_on_the_same_nodes_do_not_meet(cluster: Cluster, tmp_path: Path, expected: Steps) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    jobs = [Disturbed.submit(cluster, folder, *network(0.0), options=("--oversubscribe",)) for folder in folders]
    for job in jobs:
        assert job.wait()["JobState"] == "COMPLETED"
        assert_same_run(job.lines(), expected)
