"""A file or a folder that appears under its name only when all of it is written, and takes no other's place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distmlp.checkpoint.storage import sync
from distmlp.errors import ConfigError


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yields the name to write to; what lies there at the end of the block becomes ``target``.

    Raises:
        ConfigError: there is something of that name, or it cannot be written; then nothing of it stays.
    """
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists and stays as it is: choose another place with --to")
    working = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield working
        _sync_all(working)
        _rename(working, target)
        sync(target.parent)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        _remove(working)


def _rename(working: Path, target: Path) -> None:
    """Unlike a plain rename, it never replaces what somebody else put there meanwhile."""
    if working.is_dir():
        os.rename(working, target)  # replaces an empty folder at the most
        return
    try:
        os.link(working, target)
    except FileExistsError:
        raise ConfigError(f"{target} exists and stays as it is: choose another place with --to") from None
    except OSError:  # a file system without hard links
        os.rename(working, target)


def _sync_all(path: Path) -> None:
    for entry in path.iterdir() if path.is_dir() else ():
        sync(entry)
    sync(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
