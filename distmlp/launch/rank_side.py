"""What a rank does for whoever launched it, ourselves or torchrun: it ends with its parent, and leaves its reason.

The reason goes into the error file of torch's elastic agent, in its form, which torchrun shows as the root cause.
"""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from distmlp.errors import ClusterError, ConfigError
from distmlp.launch.handover import Handover
from distmlp.log import console, is_off_the_console, log, one_line, send_output_to
from distmlp.runtime import own_rank

PARENT_KEY = "DISTMLP_PARENT"
ERROR_FILE_KEY = "TORCHELASTIC_ERROR_FILE"
OURS = "distmlp"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What gloo, NCCL and the store say when the process at the other end is gone.
LOST_PEER = ("gloo/", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")


def die_with_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """Asks Linux to kill this process when the one that started it is gone, be it by SIGKILL.

    For processes that distmlp or torchrun started; others may well outlive their parent.
    """
    parent = int(environment.pop(PARENT_KEY, 0))
    if sys.platform != "linux" or not (parent or ERROR_FILE_KEY in environment):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it went before we asked
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def reported_to_launcher(handover: Handover | None) -> Iterator[None]:
    """Leaves the reason of a failure for the launcher. Our own says it to the user, so the rank itself is silent then.

    Under torchrun a user's mistake goes on to the command line, where one rank prints it for all.
    """
    error_file = os.environ.get(ERROR_FILE_KEY)
    if error_file:
        faulthandler.enable(all_threads=True)
    try:
        yield
    except Exception as error:
        is_mistake = isinstance(error, ConfigError)
        if error_file and (handover or not is_mistake):
            _write_error_file(Path(error_file), error)
        if not is_mistake:
            log.info("this process failed", exc_info=True)
        if not error_file and is_off_the_console() and not isinstance(error, ConfigError | ClusterError):
            _tell(error)
        if handover and error_file and not isinstance(error, BrokenPipeError):
            raise SystemExit(2 if is_mistake else 1) from None
        raise


def _tell(error: Exception) -> None:
    """Says on the console why this rank failed, under a launcher that does not ask each rank for it."""
    rank = f"distmlp: rank {own_rank()} on {os.uname().nodename}"
    text = f"{rank} lost another rank" if lost_a_peer(error) else f"{rank} failed:\n{traceback.format_exc().rstrip()}"
    print(text, file=console())


def _write_error_file(path: Path, error: Exception) -> None:
    now, is_victim = time.time(), lost_a_peer(error)
    # torchrun shows the earliest, and knows whole seconds only: who merely lost another must not come first.
    info = {"py_callstack": traceback.format_exc(), "timestamp": str(int(now) + is_victim)}
    content = {
        "message": {"message": f"{type(error).__name__}: {error}", "extraInfo": info},
        OURS: {
            "time": now,
            "mistake": " ".join(str(error).split()) if isinstance(error, ConfigError) else "",
            "lost_peer": is_victim,
        },
    }
    try:
        path.write_text(json.dumps(content), encoding="utf-8")
    except OSError as fault:
        log.warning("%s cannot be written: %s", path, one_line(fault))


def lost_a_peer(error: BaseException) -> bool:
    """Whether ``error`` says only that another rank is gone."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return False
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in LOST_PEER)


def keep_off_the_console(file: Path) -> None:
    """Sends what this rank prints to its log ``file``, with what it has printed into the agent's files so far."""
    error_file = os.environ.get(ERROR_FILE_KEY)
    early = early_output(Path(error_file).parent) if error_file else ""
    send_output_to(file)
    if early:
        print(early, file=sys.stderr)


def early_output(folder: Path) -> str:
    """What a rank printed into the files in ``folder``, where the agent caught it until there was a log."""
    files = [folder / name for name in ("stdout.log", "stderr.log")]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()).strip()
