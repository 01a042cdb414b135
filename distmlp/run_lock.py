"""One live process writes into a run folder: rank 0 holds a lock there while it trains.

The lock is the operating system's, so it ends with its process, however that ends. On NFS it also ends with its
machine, though only when the server has given that up, which a restarted job waits for.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distmlp.errors import ClusterError, ConfigError

FILE = ".lock"
SECONDS_TO_WAIT = 150.0  # beyond the 90 s that an NFS server gives a lost client
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path, *, seconds: float, warn: Callable[[str], None]) -> Iterator[None]:
    """While entered, nobody else is in here for the same ``folder``.

    Args:
        folder: of a run.
        seconds: to wait for whoever holds the lock.
        warn: told where the file system has no locks, or why this process waits.

    Raises:
        ConfigError: another process trains this run.
        ClusterError: it does so after all these ``seconds``.
    """
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, folder, seconds, warn)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, seconds: float, warn: Callable[[str], None]) -> None:
    started, has_warned = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() - started >= seconds:
                line = f"{folder} is being written by another process"
                if seconds:  # of this run, before its job was restarted
                    raise ClusterError(f"{line}, after {seconds:.0f} s still") from None
                raise ConfigError(f"{line}: wait for it, stop it, or choose another run.id") from None
            if not has_warned:
                warn(f"{folder} is still locked by the former start of this run: waits up to {seconds:.0f} s")
                has_warned = True
            time.sleep(0.5)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warn(f"the file system of {folder} has no locks: nothing keeps a second process from writing there")
            return
