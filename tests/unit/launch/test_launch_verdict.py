"""The failure that is shown is the first in time of those that are nobody else's fault."""

import json
import os
import signal
from pathlib import Path

import pytest

from distmlp.errors import ConfigError
from distmlp.launch.handover import Handover
from distmlp.launch.rank_side import ERROR_FILE_KEY, lost_a_peer, reported_to_launcher
from distmlp.launch.verdict import Failure, describe, first_failure, read_failure

RAISED = Failure(2, 1, 10.5, traceback="Traceback …\nValueError: x")
LOST = Failure(0, 1, 10.4, traceback="Traceback …\nRuntimeError: Connection closed by peer", lost_peer=True)
STOPPED = Failure(1, -signal.SIGTERM, 10.0)
KILLED = Failure(3, -signal.SIGKILL, 10.6)


def test_the_first_in_time_is_shown_and_not_the_lowest_rank() -> None:
    assert first_failure([LOST, STOPPED, RAISED, KILLED]) is RAISED
    assert first_failure([LOST, STOPPED, KILLED]) is KILLED
    assert first_failure([LOST, STOPPED]) is STOPPED
    assert first_failure([LOST]) is LOST
    earlier = Failure(5, 1, 10.1, traceback="Traceback …")
    assert first_failure([RAISED, earlier]) is earlier


def test_what_is_said_of_each_kind(tmp_path: Path) -> None:
    log = tmp_path / "rank.log"
    assert describe(RAISED, "", log) == "distmlp: rank 2 failed:\nTraceback …\nValueError: x"
    assert describe(KILLED, "its last words", log) == "distmlp: rank 3 was killed by SIGKILL\nits last words"
    assert describe(Failure(1, 7, 0.0), "", log) == "distmlp: rank 1 ended with exit status 7"
    assert describe(Failure(1, -60, 0.0), "", log) == "distmlp: rank 1 was killed by signal 60"
    log.touch()
    assert describe(KILLED, "in the log", log).splitlines()[1:] == [f"distmlp: its log is {log}"]
    assert describe(Failure(0, 2, 0.0, "Traceback …", mistake="lr=x"), "", log) == "distmlp: lr=x"


def raise_in_a_rank(error: Exception, handover: Handover | None) -> None:
    with reported_to_launcher(handover):
        raise error


def test_a_rank_leaves_its_reason_in_the_form_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    file = tmp_path / "error.json"
    monkeypatch.setenv(ERROR_FILE_KEY, str(file))
    with pytest.raises(SystemExit, match=r"^1$"):
        raise_in_a_rank(ArithmeticError("nine"), Handover(tmp_path))
    failure = read_failure(1, 1, 0.0, file)
    assert failure.traceback.endswith("ArithmeticError: nine\n")
    assert (failure.mistake, failure.lost_peer) == ("", False)
    of_torch = ProcessFailure(local_rank=1, pid=1, exitcode=1, error_file=str(file))
    assert of_torch.message["extraInfo"]["py_callstack"] == failure.traceback  # type: ignore[index]
    assert of_torch.timestamp == int(failure.time)

    with pytest.raises(RuntimeError):
        raise_in_a_rank(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), None)
    assert read_failure(1, 1, 0.0, file).lost_peer
    with pytest.raises(SystemExit, match=r"^2$"):
        raise_in_a_rank(ConfigError("data.path=x\nis absent"), Handover(tmp_path))
    assert read_failure(1, 2, 0.0, file).mistake == "data.path=x is absent"


def test_under_torchrun_a_mistake_goes_to_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ERROR_FILE_KEY, str(tmp_path / "error.json"))
    with pytest.raises(ConfigError):
        raise_in_a_rank(ConfigError("x"), None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"message": "of torch itself"})])
def test_a_rank_that_left_no_reason_failed_when_it_was_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text(text)
    for file in (tmp_path / "error.json", tmp_path / "absent.json"):
        assert read_failure(3, -9, 12.5, file) == Failure(3, -9, 12.5)


def test_a_lost_connection_is_told_from_other_errors() -> None:
    import torch.distributed

    assert lost_a_peer(torch.distributed.DistBackendError("NCCL error"))
    assert not lost_a_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_a_peer(ValueError("gloo/"))
