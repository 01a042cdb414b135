"""Folders for what was found out about files once: named by what the files are, written whole, locked while they fill.

A key holds paths, sizes and times of change rather than contents: looking is instant for any size, and a file that
changed gets a folder of its own.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from distmlp.errors import ConfigError

LOG_SECONDS = 60.0  # between two lines of progress where there is no terminal; shorter work prints none


def identity(path: Path) -> list[str | int]:
    """Absolute path, size in bytes and time of change in nanoseconds."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def cache_folder(cache_dir: str | None, key: object) -> Path:
    """The folder of ``key`` (anything that JSON can hold) below ``cache_dir``, or below the user's cache folder."""
    import pooch

    root = Path(cache_dir).expanduser() if cache_dir else Path(pooch.os_cache("distmlp")) / "tokens"
    return root / hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, so that of several processes that start together one does the work.

    Raises:
        ConfigError: the folder cannot be made or written, or its disk is full.
    """
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            yield
    except OSError as error:
        raise ConfigError(
            f"{folder}: prepared tokens cannot be stored there: {error.strerror or error}; make room, or choose "
            "another data.cache_dir"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Writes the whole file or none of it: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is no file, or none that can be read (then it is made again)."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def byte_progress(title: str, total_bytes: int, done_bytes: int = 0) -> Any:
    """A tqdm bar over bytes on stderr: live on a terminal, elsewhere a line every `LOG_SECONDS`."""
    bar = {"desc": title, "total": total_bytes, "initial": done_bytes, "unit": "B", "unit_scale": True}
    if sys.stderr.isatty():
        return tqdm(**bar)
    line = "{desc}: {percentage:.0f}% of {total_fmt}B, {rate_fmt}, {remaining} left\n"
    seldom = {"delay": LOG_SECONDS, "mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS}
    return tqdm(**bar, **seldom, bar_format=line, leave=False)
