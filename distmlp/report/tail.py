"""The end of files that may be gigabytes and grow: the last lines of `metrics.jsonl` and of logs.

Whatever cannot be read counts as not there: this is for looking at runs, also those of others and of the past.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 64 * 1024
# Enough for some thousand lines; lines with the ids of their samples may be longer than a chunk.
MOST = 1024 * 1024
# What a terminal would obey: escape sequences, and control characters other than the tab.
CONTROL = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)

Line = dict[str, Any]


def last_metrics(path: Path, enough: Callable[[list[Line]], bool]) -> list[Line]:
    """The last lines of a `metrics.jsonl`, oldest first: as many as are ``enough``, and no more than `MOST` bytes hold.

    A torn line at either end is left out.
    """
    length = CHUNK
    while True:
        block, is_whole = read_end(path, length)
        lines = parsed(block if is_whole else block.partition(b"\n")[2])
        if is_whole or length >= MOST or enough(lines):
            return lines
        length *= 4


def read_end(path: Path, length: int) -> tuple[bytes, bool]:
    """The last ``length`` bytes, and whether that is all there is."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - length))
            return file.read(length), size <= length
    except OSError:
        return b"", True


def parsed(block: bytes) -> list[Line]:
    """The objects of the whole lines in ``block``; what follows the last line break is still being written."""
    lines = []
    for text in block.split(b"\n")[:-1]:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def last_words(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of a log as a terminal shows them; of a line that overwrites itself, its last state."""
    text = read_end(path, CHUNK)[0].decode(errors="replace")
    rows = (CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n"))
    return [row for row in rows if row][-count:] if count else []


class Follower:
    """Reads what was appended to a `metrics.jsonl` since the last look. The first look begins near the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = 0  # up to here it was read
        self.file_id: int | None = None

    def look(self) -> tuple[list[Line], bool]:
        """The new lines, and whether the file is another than before: then all earlier lines count no more.

        A resumed run takes lines back by putting a shorter file in its place.
        """
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except OSError:
            return [], False

    def _read(self, file: BinaryIO) -> tuple[list[Line], bool]:
        status = os.fstat(file.fileno())
        is_another = status.st_ino != self.file_id or status.st_size < self.place
        if is_another:
            self.file_id, self.place = status.st_ino, 0
        start = max(self.place, status.st_size - MOST)
        file.seek(start)
        block = file.read(status.st_size - start)
        if start > self.place:  # in the middle of a line
            block = block[block.find(b"\n") + 1 :]
        self.place = status.st_size - (len(block) - block.rfind(b"\n") - 1)
        return parsed(block), is_another
