"""Two processes never hold the lock of a run at the same time, and a killed one holds nothing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distmlp.errors import ConfigError
from distmlp.run_lock import locked

HOLDER = """
import sys, time
from pathlib import Path
from distmlp.run_lock import locked
with locked(Path(sys.argv[1]), seconds=0, warn=print):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    warnings: list[str] = []
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(ConfigError, match="is being written by another process: wait for it, stop it, or")
        with refused, locked(tmp_path, seconds=0, warn=warnings.append):
            pass
        assert warnings == []
        holder.send_signal(signal.SIGKILL)
        with locked(tmp_path, seconds=30, warn=warnings.append):
            pass


def test_who_waits_says_so_and_then_gets_it(tmp_path: Path) -> None:
    warnings: list[str] = []
    command = [sys.executable, "-c", HOLDER.replace("100", "1.5"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with locked(tmp_path, seconds=30, warn=warnings.append):
            assert time.monotonic() - started > 0.5
    assert len(warnings) == 1


def test_the_same_process_gets_it_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path, seconds=0, warn=print):
            pass
