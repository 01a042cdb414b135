"""Exceptions whose message is all that a user needs: the command line prints it as one line, without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """Something the user gave is wrong. The message says what is wrong and what would be right, in one line."""


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """``": did you mean X?"`` with the nearest of ``choices``, or nothing where none is near."""
    close = get_close_matches(str(value), list(choices), n=1)
    return f": did you mean {close[0]}?" if close else ""


class ClusterError(RuntimeError):
    """Machines or processes that are not there, and no mistake of the user's: one line, and exit status 1."""
