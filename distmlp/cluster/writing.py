"""Files of a submission, which are all written or none: where sbatch refuses, what was made is taken away again."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distmlp import run_folder
from distmlp.errors import ConfigError


class Writing:
    """What was written so far, and what was there before."""

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._files: list[tuple[Path, str | None]] = []

    def folder(self, path: Path) -> None:
        """Makes the folder and those above it.

        Raises:
            ConfigError: it cannot be made.
        """
        missing = [one for one in (path, *path.parents) if not one.exists()]
        for one in reversed(missing):
            try:
                one.mkdir(exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot make {one}: {error.strerror}; choose another run.root") from None
            self._folders.append(one)

    def file(self, path: Path) -> Path:
        """``path``, which is about to be written."""
        self._files.append((path, path.read_text(encoding="utf-8") if path.exists() else None))
        return path

    def take_back(self) -> None:
        """Brings all back to what it was. A folder in which somebody else has put something stays."""
        for path, before in reversed(self._files):
            if before is None:
                path.unlink(missing_ok=True)
            else:
                run_folder.write_text(path, before)
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def all_or_nothing() -> Iterator[Writing]:
    """``with all_or_nothing() as writing:`` an error inside takes back what was written."""
    writing = Writing()
    try:
        yield writing
    except BaseException:
        writing.take_back()
        raise
