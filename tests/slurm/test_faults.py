"""Whatever ends a job's ranks, the job starts again and its run is the one that nothing happened to, bit for bit."""

from pathlib import Path
from typing import Any

from cluster import Cluster
from disturbed import Disturbed, assert_same_run, network


def test_a_signal_before_the_time_limit(cluster: Cluster, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.1))
    job.wait_for_step(20)
    cluster.signal(job.id, "USR2")
    job.wait("COMPLETED", restarts=1)
    assert_same_run(job.lines(), expected)
    first, second = job.state.starts
    assert (first.step, first.restart, second.restart) == (0, 0, 1)
    assert 20 <= second.step < 80
    assert f"starts again, from step {second.step}: stopped by SIGUSR2" in job.log()
    assert job.state.state == "finished"


def test_a_node_loses_its_power(cluster: Cluster, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    job = Disturbed.submit(cluster, tmp_path, *network(0.1), "checkpoint.every_steps=10")
    job.wait_for_step(25)
    cluster.power_off("node2")
    assert job.wait("COMPLETED", restarts=1)["NodeList"] == "node[1,3]"
    assert_same_run(job.lines(), expected)
    assert [start.step % 10 for start in job.state.starts] == [0, 0]
    assert 20 <= job.state.starts[1].step < 80  # no more than an interval was lost
