"""SLURM is asked once, in a way that its user's settings do not bend, and its silence is told from an empty queue."""

from typing import Any

import pytest

from distmlp.cluster import queue
from distmlp.cluster.queue import NoAnswerError, QueuedJob, ask_queue, cancel_job


def test_one_call_asks_for_all_jobs(slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    slurm.answers("squeue", "12|RUNNING|node[1-2]|None\n7_3|PENDING||Resources\n8|COMPLETED|node1|None\n")
    assert ask_queue(["12", "7_3", "8", "9", "12"]) == {
        "12": QueuedJob("RUNNING", "None", "node[1-2]"),
        "7_3": QueuedJob("PENDING", "Resources", ""),
    }
    [call] = slurm.calls("squeue")
    assert "--jobs=12,7_3,8,9" in call
    assert "SQUEUE_STATES" not in (slurm.folder / "squeue.env").read_text()


def test_a_reason_may_hold_any_character(slurm: Any) -> None:
    slurm.answers("squeue", "1|PENDING||ReqNodeNotAvail, UnavailableNodes:node[1|2]\n\nslurm says: hello\n")
    assert ask_queue(["1"]) == {"1": QueuedJob("PENDING", "ReqNodeNotAvail, UnavailableNodes:node[1|2]", "")}


@pytest.mark.parametrize("job", ["", "--help", "12;ls", "12 13", "x", "12_", "1\n2"])
def test_what_is_no_job_is_not_asked_for(job: str, slurm: Any) -> None:
    assert ask_queue([job]) == {}
    assert slurm.calls("squeue") == []


def test_a_job_that_slurm_has_forgotten_is_not_in_the_queue(slurm: Any) -> None:
    slurm.answers("squeue", "", error="slurm_load_jobs error: Invalid job id specified\n", status=1)
    assert ask_queue(["12"]) == {}


def test_slurm_that_fails_gives_no_answer(slurm: Any) -> None:
    slurm.answers("squeue", "", error="squeue: error: Unable to contact slurm controller\n", status=1)
    with pytest.raises(NoAnswerError, match=r"^squeue failed: Unable to contact slurm controller$"):
        ask_queue(["12"])


def test_slurm_that_is_silent_gives_no_answer(slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.3)
    slurm.answers("squeue", "", seconds=30)
    with pytest.raises(NoAnswerError, match="squeue gave no answer in"):
        ask_queue(["12"])


@pytest.mark.usefixtures("no_slurm")
def test_a_machine_without_slurm_gives_no_answer() -> None:
    with pytest.raises(NoAnswerError, match="there is no squeue here"):
        ask_queue(["12"])
    with pytest.raises(NoAnswerError, match="there is no scancel here"):
        cancel_job("12")


def test_scancel_gets_the_job_and_the_signal(slurm: Any) -> None:
    cancel_job("12_3", "USR2")
    cancel_job("12_3")
    assert slurm.calls("scancel") == ["--signal=USR2 12_3", "12_3"]
    slurm.answers("scancel", "", error="scancel: error: Access/permission denied\n", status=1)
    with pytest.raises(NoAnswerError, match=r"^scancel failed: Access/permission denied$"):
        cancel_job("12")


@pytest.mark.parametrize(("state", "waits"), [("PENDING", True), ("REQUEUED", True), ("RUNNING", False)])
def test_a_job_waits_before_it_starts_and_before_it_starts_again(state: str, waits: bool) -> None:
    assert QueuedJob(state, "", "").waits is waits
