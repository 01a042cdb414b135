"""Where checkpoints lie: a folder of this machine or a shared file system; `object_store.py` has the other kind.

Names are relative to that folder and use `/`. What a rank writes goes to a working folder; `publish` gives it its name.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

WORKING_PREFIX, WORKING_SUFFIX = ".", ".tmp"
FORMER, REMOVED = "old", "removed"  # in place of an attempt: what is being replaced, and what is being removed


class Storage(Protocol):
    """What checkpoints ask of the place where they lie. Every method raises OSError where it cannot be done.

    Attributes:
        appears_whole: a folder gets its name when it is whole; else file by file, and the manifest comes last.
    """

    appears_whole: bool

    def where(self, name: str = "") -> str:
        """For messages: the path or address of ``name``."""

    def working_folder(self, name: str, attempt: str) -> str:
        """Where the files of folder ``name`` are written before it is published."""

    def publish(self, working: str, name: str) -> None:
        """Makes the folder that was written as ``working`` appear as ``name``, replacing what is there."""

    def names(self, folder: str = "") -> list[str]:
        """What lies in ``folder``, sorted; nothing where there is no folder."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no file of this name."""

    def open(self, name: str) -> BinaryIO:
        """A file to be read."""

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Writes a whole file so that it outlives a loss of power."""

    def write_at_once(self, name: str, text: bytes) -> None:
        """Writes a small file that others look for: they see all of it or nothing."""

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all that is in it, where it is there."""

    def set_aside(self, name: str, folder: str) -> str:
        """Moves ``name`` into ``folder``, which lies beside this storage; returns where it now is."""


class LocalStorage:
    """Files below ``root``: synced, and renamed in one step when they are whole."""

    appears_whole = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def where(self, name: str = "") -> str:
        return str(self.root / name)

    def working_folder(self, name: str, attempt: str) -> str:
        return f"{WORKING_PREFIX}{name}.{attempt}{WORKING_SUFFIX}"

    def publish(self, working: str, name: str) -> None:
        former = self.working_folder(name, FORMER)
        sync(self.root / working)
        if os.path.lexists(self.root / name):
            self.remove(former)
            os.replace(self.root / name, self.root / former)  # a removal could be cut in the middle
        os.replace(self.root / working, self.root / name)
        sync(self.root)
        self.remove(former)

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, name: str) -> int | None:
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
                _drop_cached(file.fileno())
            os.fsync(file.fileno())

    def write_at_once(self, name: str, text: bytes) -> None:
        hidden = f"{name}.part"
        self.write(hidden, [text])
        os.replace(self.root / hidden, self.root / name)

    def remove(self, name: str) -> None:
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            if not path.name.startswith(WORKING_PREFIX):  # a removal may be cut in the middle
                hidden = path.with_name(self.working_folder(path.name, REMOVED))
                shutil.rmtree(hidden, ignore_errors=True)
                path = path.rename(hidden)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def set_aside(self, name: str, folder: str) -> str:
        target = _free_name(self.root.parent / folder / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.root / name, target)
        return str(target)


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _drop_cached(descriptor: int) -> None:
    """Starts to move a file's pages to the disk and frees those that are there: they would push training data out."""
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
