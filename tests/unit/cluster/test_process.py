"""A process is the one that was seen, not another that got its number later."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from distmlp.cluster import process
from distmlp.cluster.process import is_alive, start_time


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


def test_a_process_is_alive_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    assert is_alive(sleeper.pid, time.time())
    sleeper.kill()
    for _ in range(100):  # nobody has waited for it: it is a zombie
        if not is_alive(sleeper.pid, time.time()):
            break
        time.sleep(0.05)
    assert not is_alive(sleeper.pid, time.time())
    sleeper.wait()
    assert not is_alive(sleeper.pid, time.time())


def test_a_later_process_with_the_same_number_is_another(sleeper: subprocess.Popen[bytes]) -> None:
    assert not is_alive(sleeper.pid, time.time() - 60)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**70])
def test_what_is_no_process_is_not_alive(pid: int) -> None:
    assert not is_alive(pid, time.time())


@pytest.mark.parametrize("read", [process._from_proc, process._from_ps])
def test_both_ways_to_read_the_start_agree_with_the_clock(read: object, sleeper: subprocess.Popen[bytes]) -> None:
    if read is process._from_proc and sys.platform != "linux":
        pytest.skip("there is no /proc")
    started = read(sleeper.pid)  # type: ignore[operator]
    assert started == pytest.approx(time.time(), abs=2.5)


def test_a_start_that_cannot_be_read_is_not_held_against_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_time(2**22 + 1) is None
    monkeypatch.setattr(process, "start_time", lambda pid: None)
    assert is_alive(os.getpid(), 0.0)
