"""`distmlp runs` beside a real SLURM: what waits says why, what is cancelled saves and does not start again."""

import json
from pathlib import Path
from typing import Any

from cluster import Cluster, wait_until
from training import run_folder, script, words

ENDLESS = ("trainer.max_steps=100000000", "trainer.max_epochs=null")
SCRIPT = (
    "trap : TERM",
    f"srun --kill-on-bad-exit=1 python -m distmlp {words(*ENDLESS)} &",
    "while :; do wait $!; status=$?; jobs -r | grep -q . || break; done",
    f"python -m distmlp requeue --status $status {words(*ENDLESS).removeprefix('train ')}; status=$?",
    'if [ $status = 3 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
    "exit $status",
)


def row(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """The one run in ``folder`` as `distmlp runs` sees it."""
    found: dict[str, Any] = json.loads(cluster.output("python", "-m", "distmlp", "runs", "--json", folder=folder))
    return found


def test_a_job_is_listed_cancelled_and_not_requeued(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("--nodes=2", "--requeue", script(tmp_path, *SCRIPT), folder=tmp_path)
    wait_until((run_folder(tmp_path) / "metrics.jsonl").exists, 100, lambda: "no step was taken")
    seen = row(cluster, tmp_path)
    assert (seen["state"], seen["job"], seen["host"], seen["doubt"]) == ("running", job, "node1", "")
    said = cluster.output("python", "-m", "distmlp", "runs", "cancel", "test/1", folder=tmp_path)
    assert "test/1: stopped, stopped by SIGUSR2" in said
    ended = cluster.job(job)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0")
    assert row(cluster, tmp_path)["state"] == "stopped"
    assert list((run_folder(tmp_path) / "checkpoints").iterdir())


def test_a_run_whose_job_vanished_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.mkdir(parents=True)
    job = cluster.submit("--hold", "--nodes=1", script(tmp_path, "sleep 100"), folder=tmp_path)
    state = {"state": "submitted", "job": job, "starts": []}
    (folder / "status.json").write_text(json.dumps(state))
    seen = row(cluster, tmp_path)
    assert (seen["state"], seen["reason"]) == ("submitted", "JobHeldUser")
    cluster.output("scancel", job)
    wait_until(lambda: row(cluster, tmp_path)["state"] == "lost", 30, lambda: str(row(cluster, tmp_path)))
