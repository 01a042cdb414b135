"""The file of a job array: a line of overrides for each run."""

import shlex
from pathlib import Path

from distmlp.compose import parse
from distmlp.errors import ConfigError

# One script runs them all, and their folders lie side by side.
SHARED = ("cluster", "run", "resume", "allow_targets")


def read_runs(file: Path) -> list[list[str]]:
    """The words of each run. Empty lines and what stands behind # do not count; quotes are the shell's.

    Raises:
        ConfigError: the file cannot be read, has no runs, or a line says what all runs must share; the line is named.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cluster.array={file} cannot be read: {reason}") from None
    runs = []
    for number, line in enumerate(lines, start=1):
        try:
            words = shlex.split(line, comments=True)
            for word in words:
                head = str(parse(word).key_or_group).partition(".")[0]
                if head in SHARED:
                    raise ConfigError(f"{word}: the runs of an array share {head}, give it on the command line")
        except ValueError as error:  # a ConfigError too
            raise ConfigError(f"{file} line {number}: {error}") from None
        if words:
            runs.append(words)
    if not runs:
        raise ConfigError(f"cluster.array={file} holds no run: give a line of overrides for each")
    return runs
