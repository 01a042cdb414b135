"""The cluster that tests run on does what a real one does: what else they find is about distmlp."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
from cluster import Cluster, wait_until
from training import script


def waiting(*first: str) -> str:
    """A step whose tasks do what comes ``first``, leave a file `RESTARTS-NODE`, and wait."""
    lines = (*first, 'touch "${SLURM_RESTART_COUNT:-0}-$SLURMD_NODENAME"', "while :; do sleep 0.1; done")
    return "srun bash -c '" + "\n".join(lines) + "'"


def wait_for_tasks(folder: Path, *names: str) -> None:
    wait_until(lambda: all((folder / name).exists() for name in names), 30, lambda: f"{names}: {os.listdir(folder)}")


def test_a_job_runs_on_two_nodes_that_have_names_addresses_and_processes_of_their_own(
    cluster: Cluster, tmp_path: Path
) -> None:
    step = "srun sh -c 'hostname; hostname -i; ps -A'"
    job = cluster.submit("--nodes=2", script(tmp_path, step), folder=tmp_path)
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    printed = (tmp_path / f"slurm-{job}.out").read_text()
    assert all(word in printed for word in ("node1", "10.0.0.11", "node2", "10.0.0.12"))
    assert printed.count("slurmd\n") == 2
    assert "slurmctld" not in printed


def test_a_job_on_a_node_without_power_starts_again_on_those_that_are_left(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("--nodes=2", "--requeue", script(tmp_path, waiting()), folder=tmp_path)
    wait_for_tasks(tmp_path, "0-node1", "0-node2")
    cluster.power_off("node2")
    assert cluster.wait(job, "RUNNING", restarts=1)["NodeList"] == "node[1,3]"
    wait_for_tasks(tmp_path, "1-node1", "1-node3")


def test_a_node_that_comes_back_at_once_has_lost_its_jobs(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("--nodes=3", "--requeue", script(tmp_path, waiting()), folder=tmp_path)
    wait_for_tasks(tmp_path, "0-node1", "0-node2", "0-node3")
    cluster.power_off("node3")
    cluster.power_on("node3")
    cluster.wait(job, "PENDING", restarts=1, seconds=10)
    wait_for_tasks(tmp_path, "1-node1", "1-node2", "1-node3")


def test_a_node_behind_a_cut_cable_is_noticed_and_its_job_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("--nodes=2", "--requeue", script(tmp_path, waiting()), folder=tmp_path)
    wait_for_tasks(tmp_path, "0-node1", "0-node2")
    cluster.cut("node2")
    assert cluster.wait(job, "RUNNING", restarts=1)["NodeList"] == "node[1,3]"
    assert cluster.node_state("node2") == "down*"
    assert "sleep 0.1" in cluster.output("ps", "-A", "-o", "args", on="node2")  # it is cut off, not dead


def test_a_signal_reaches_the_tasks_of_a_step_on_all_nodes_and_not_the_batch_shell(
    cluster: Cluster, tmp_path: Path
) -> None:
    step = waiting('trap "touch USR2-$SLURMD_NODENAME; exit" USR2')
    job = cluster.submit("--nodes=2", script(tmp_path, step), folder=tmp_path)
    wait_for_tasks(tmp_path, "0-node1", "0-node2")
    cluster.signal(job, "USR2")
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    wait_for_tasks(tmp_path, "USR2-node1", "USR2-node2")


def test_an_urgent_job_takes_the_nodes_of_another_which_starts_again_afterwards(
    cluster: Cluster, tmp_path: Path
) -> None:
    # A task that the warning ends within the grace time ends its job too, which then does not start again by itself.
    step = waiting('trap "touch TERM-$SLURMD_NODENAME" TERM')
    cluster.submit("--nodes=3", "--exclusive", "--requeue", script(tmp_path, step), folder=tmp_path)
    wait_for_tasks(tmp_path, "0-node1", "0-node2", "0-node3")
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--wrap=sleep 1", folder=tmp_path)
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    wait_for_tasks(tmp_path, "TERM-node1", "1-node1", "1-node2", "1-node3")


def test_each_task_can_have_a_gpu(cluster: Cluster) -> None:
    printed = cluster.output("srun", "--ntasks=2", "--gpus-per-task=1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert sorted(printed.split()) == ["0", "1"]


KILLED = """
import os, pathlib, signal, sys
from cluster import Cluster
cluster = Cluster(pathlib.Path(sys.argv[1]), 2)
print(*(machine.pid for machine in cluster._machines.values()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_cluster_ends_with_the_process_that_started_it_however_that_ends(cluster: Cluster, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    pids = [int(word) for word in ran.stdout.split()]
    assert len(pids) == 3
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 10, lambda: str(pids))
    assert not {"br0", "node1", "node2"} & set(os.listdir("/sys/class/net"))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    command_lines = [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if str(tmp_path) in line]
