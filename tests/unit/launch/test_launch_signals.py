"""The first signal is passed on once, as SIGTERM; the second kills; what came too early waits."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from distmlp.launch.signals import Relay

PATIENT = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True)); print('up', flush=True)\nwhile True: time.sleep(1)"  # noqa: E501


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", PATIENT], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_the_first_signal_is_passed_on_and_the_second_kills(child: subprocess.Popen[bytes]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Relay(lambda: [child.pid]) as relay:
        os.kill(os.getpid(), signal.SIGINT)
        relay.pass_on()  # a second time, which must not reach it
        assert child.stdout
        assert child.stdout.readline() == b"told\n"
        assert child.poll() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.wait(10) == -signal.SIGKILL
    assert relay.received == [signal.SIGINT, signal.SIGTERM]
    assert child.stdout.read() == b""
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_before_there_is_a_process_waits_for_it(number: int, child: subprocess.Popen[bytes]) -> None:
    processes: list[int] = []
    with Relay(lambda: processes) as relay:
        os.kill(os.getpid(), number)
        processes.append(child.pid)
        relay.pass_on()
        assert child.stdout
        assert child.stdout.readline() == b"told\n"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Relay(lambda: []) as relay:
            os.kill(os.getpid(), signal.SIGHUP)
        assert relay.received == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
