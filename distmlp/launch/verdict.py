"""Which of several failed ranks to show: the first in time of those that did not fail because another had."""

import json
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distmlp.launch.rank_side import OURS


@dataclass(frozen=True)
class Failure:
    """How one rank ended.

    Args:
        exit_code: its exit status, or minus the signal that killed it.
        time: when, in seconds since the epoch.
        traceback: of the exception that ended it, where there was one.
        mistake: the line for the user, where it was the user's mistake.
        lost_peer: whether all it says is that another rank is gone.
    """

    rank: int
    exit_code: int
    time: float
    traceback: str = ""
    mistake: str = ""
    lost_peer: bool = False

    @property
    def is_told(self) -> bool:
        """Whether the rank itself said why."""
        return bool(self.traceback or self.mistake)

    @property
    def follows_another(self) -> bool:
        """Whether this is the end of a rank whose peer was gone, or that the agent stopped after another had failed."""
        return self.lost_peer or (not self.is_told and self.exit_code == -signal.SIGTERM)


def read_failure(rank: int, exit_code: int, seen_at: float, error_file: Path) -> Failure:
    """The failure of a rank, with what it wrote into its ``error_file``. ``seen_at`` counts where it wrote nothing."""
    try:
        content = json.loads(error_file.read_text(encoding="utf-8"))
        ours, callstack = content[OURS], content["message"]["extraInfo"]["py_callstack"]
    except (OSError, ValueError, KeyError, TypeError):  # it wrote none, or was killed while it wrote
        return Failure(rank, exit_code, seen_at)
    return Failure(rank, exit_code, ours["time"], callstack, ours["mistake"], ours["lost_peer"])


def first_failure(failures: Iterable[Failure]) -> Failure:
    """The one to show."""
    return min(failures, key=lambda failure: (failure.follows_another, failure.time))


def describe(failure: Failure, last_words: str, log: Path) -> str:
    """What the console shows of a failure. ``last_words``: what the rank printed before it had a ``log``."""
    if failure.mistake:
        return f"distmlp: {failure.mistake}"
    if failure.traceback:
        text = f"distmlp: rank {failure.rank} failed:\n{failure.traceback.rstrip()}"
    elif failure.exit_code < 0:
        text = f"distmlp: rank {failure.rank} was killed by {_signal_name(-failure.exit_code)}"
    else:
        text = f"distmlp: rank {failure.rank} ended with exit status {failure.exit_code}"
    if log.exists():
        return f"{text}\ndistmlp: its log is {log}"
    return "\n".join([text, *([last_words] if last_words and not failure.traceback else [])])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
