"""The one exception for a user's mistake: the command line prints its message as one line and exits with status 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """Something the user gave is wrong. The message says what is wrong and what would be right, in one line."""


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """``": did you mean X?"`` with the nearest of ``choices``, or nothing where none is near."""
    close = get_close_matches(str(value), list(choices), n=1)
    return f": did you mean {close[0]}?" if close else ""
