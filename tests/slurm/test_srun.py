"""`srun python -m distmlp train` on two nodes: one run or one clear line, whoever is late, wrong or broken."""

from collections.abc import Callable
from pathlib import Path

from cluster import Cluster, wait_until
from training import SMALL, assert_same_losses, losses, script, words

TRAIN = f"python -m distmlp {words()}"
Reference = Callable[..., dict[int, float]]


def said(folder: Path, job: str) -> list[str]:
    """The lines of distmlp in what the job printed."""
    return [line for line in (folder / f"slurm-{job}.out").read_text().splitlines() if line.startswith("distmlp: ")]


def test_from_the_login_host(cluster: Cluster, one_process: Reference, tmp_path: Path) -> None:
    done = cluster.run("srun", "--nodes=2", "python", "-m", "distmlp", *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 process(es) on cpu" in done.stderr
    assert_same_losses(losses(tmp_path), one_process())


def test_in_the_shell_of_salloc(cluster: Cluster, one_process: Reference, tmp_path: Path) -> None:
    alone = cluster.run("salloc", "--nodes=1", "bash", "-c", TRAIN, folder=tmp_path)
    assert alone.returncode == 2
    assert "but runs on login, not on node1: write srun python -m distmlp train" in alone.stderr
    done = cluster.run("salloc", "--nodes=2", "bash", "-c", f"srun {TRAIN}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_losses(losses(tmp_path), one_process())


def test_a_batch_script_without_srun_is_told_what_to_add(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("--nodes=2", "--ntasks-per-node=2", script(tmp_path, TRAIN), folder=tmp_path)
    assert cluster.wait(job)["ExitCode"] == "2:0"
    [line] = said(tmp_path, job)
    assert line.startswith(f"distmlp: SLURM job {job} has 4 tasks on 2 node(s), and only srun starts them: write srun")
    assert not (tmp_path / "runs").exists()


def test_numbers_that_contradict_each_other_are_both_named_once(cluster: Cluster, tmp_path: Path) -> None:
    wrong = script(tmp_path, f"srun {TRAIN} trainer.nodes=2 trainer.devices=4")
    job = cluster.submit("--nodes=2", "--ntasks-per-node=1", wrong, folder=tmp_path)
    assert cluster.wait(job)["ExitCode"] == "2:0"
    right = "use srun --nodes=2 --ntasks-per-node=4"
    assert said(tmp_path, job) == [f"distmlp: trainer.nodes=2 × trainer.devices=4 = 8, but SLURM_NTASKS=2: {right}"]
    assert not (tmp_path / "runs").exists()


def test_a_rank_that_is_late_is_named_with_its_node_and_waited_for(
    cluster: Cluster, one_process: Reference, tmp_path: Path
) -> None:
    late = script(tmp_path, f"srun bash -c 'sleep $((SLURM_PROCID * 45)); {TRAIN}'")
    job = cluster.submit("--nodes=2", late, folder=tmp_path)
    output = tmp_path / f"slurm-{job}.out"
    wait_until(lambda: output.exists() and "has not come" in output.read_text(), 90, cluster.logs)
    [line] = [line for line in said(tmp_path, job) if "has not come" in line]
    assert "rank 1 of 2 has not come on node2. Here are node1 (eth0 10.0.0.11): rank 0; waits 2" in line
    assert cluster.wait(job)["JobState"] == "COMPLETED", output.read_text()
    assert_same_losses(losses(tmp_path), one_process())
    log = (tmp_path / "runs" / "test" / "1" / "logs" / "rank-00000.log").read_text()
    assert f"srun: 2 rank(s) on 2 node(s), SLURM job {job}" in log
    assert "node1 (eth0 10.0.0.11): rank 0; node2 (eth0 10.0.0.12): rank 1" in log


def test_the_rank_that_failed_is_shown_and_not_who_lost_it(cluster: Cluster, tmp_path: Path) -> None:
    network = Path(__file__).with_name("slow_network.py").read_text()
    (tmp_path / "slow_network.py").write_text(network)
    broken = "allow_targets=[slow_network] model._target_=slow_network.Broken model.passes=4 model.rank=1"
    job = cluster.submit("--nodes=2", script(tmp_path, f"srun {TRAIN} {broken}"), folder=tmp_path)
    assert cluster.wait(job)["ExitCode"] == "1:0"
    output = (tmp_path / f"slurm-{job}.out").read_text()
    assert "distmlp: rank 1 on node2 failed:\nTraceback" in output
    assert output.count("RuntimeError: this network is broken") == 1
