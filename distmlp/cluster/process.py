"""A process of this machine, known by its id and by a time at which it was there: ids are used again."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

# Boot time is known to a second, and start times to a hundredth.
TOLERANCE_SECONDS = 2.0


def is_alive(pid: int, seen_at: float) -> bool:
    """Whether the process that had the id ``pid`` at the time ``seen_at``, in seconds since 1970, is still there.

    Where its start cannot be read, a process with this id is taken for it.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    except OverflowError:
        return False
    started = start_time(pid)
    return started is None or started <= seen_at + TOLERANCE_SECONDS


def start_time(pid: int) -> float | None:
    """When the process started, in seconds since 1970; infinity for one that has ended and was not yet waited for."""
    return _from_proc(pid) if sys.platform == "linux" else _from_ps(pid)


def _from_proc(pid: int) -> float | None:
    try:
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
        if fields[0] in "ZX":
            return float("inf")
        return None if boot is None else int(boot[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _from_ps(pid: int) -> float | None:
    try:
        words = ["ps", "-o", "stat=,etime=", "-p", str(pid)]
        state, elapsed = subprocess.run(words, capture_output=True, text=True, timeout=10).stdout.split()
        days, _, clock = elapsed.rpartition("-")
        seconds = 0
        for part in clock.split(":"):
            seconds = 60 * seconds + int(part)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return float("inf") if state.startswith("Z") else time.time() - seconds - 86400 * int(days or 0)
