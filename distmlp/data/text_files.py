"""Text files as chunks that are cut in the same places wherever reading begins, so that work on them can continue."""

from collections.abc import Iterator
from pathlib import Path

from distmlp.errors import ConfigError

CHUNK_BYTES = 1 << 18


def list_text_files(path: str, pattern: str) -> tuple[list[Path], bool]:
    """The files that are not empty, sorted by path, and whether ``path`` is a folder (each file is a document).

    Raises:
        ConfigError: nothing is there, or nothing to read.
    """
    start = Path(path).expanduser()
    if start.is_file():
        if start.stat().st_size == 0:
            raise ConfigError(f"{start}: the file is empty; data.path is expected to hold text")
        return [start], False
    if not start.is_dir():
        raise ConfigError(f"{start}: no such file or folder; give a text file, or a folder of them, with data.path")
    try:
        found = sorted(file for file in start.rglob(pattern) if file.is_file())
    except (ValueError, NotImplementedError):  # such as an empty or an absolute pattern
        raise ConfigError(f"data.files={pattern} is not a pattern of file names such as *.txt") from None
    if not found:
        raise ConfigError(f"{start}: no file in this folder matches data.files={pattern}")
    files = [file for file in found if file.stat().st_size]
    if not files:
        raise ConfigError(f"{start}: all {len(found)} files that match data.files={pattern} are empty")
    return files, True


def read_chunks(path: Path, start: int, chunk_bytes: int) -> Iterator[tuple[int, str]]:
    """Pieces of the file from byte ``start``, each with the byte where it ends; most end with a line.

    Where a piece ends depends on where it began and on the contents alone.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    offset = start
    while True:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(chunk_bytes)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not data:
            return
        data = data if len(data) < chunk_bytes else data[: _cut(data)]
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path}: not UTF-8 at byte {offset + error.start} ({error.reason}); convert the file to UTF-8"
            ) from None
        offset += len(data)
        yield offset, text


def _cut(data: bytes) -> int:
    """After the last line that is whole; else before the last word, else before the last character."""
    if (newline := data.rfind(b"\n")) >= 0:
        return newline + 1
    if (space := data.rfind(b" ")) > 0:
        return space
    last = len(data) - 1
    while last > len(data) - 4 and data[last] & 0xC0 == 0x80:  # UTF-8: not the first byte of a character
        last -= 1
    return last
