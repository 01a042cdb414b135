"""`distmlp runs cancel RUN`: lets a run save, and ends it, so that its job does not start again.

`scancel` alone gives a job's ranks as long as the site's `KillWait`, often 30 s, which may be too short to save. So its
steps get SIGUSR2 first, at which they save and end in their own time.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from distmlp.apps.runs import root_of
from distmlp.apps.words import split_words
from distmlp.cluster.process import is_alive
from distmlp.cluster.queue import NoAnswerError, QueuedJob, ask_queue, cancel_job
from distmlp.errors import ConfigError
from distmlp.report.runs import Found
from distmlp.report.standing import IN_MOTION, Standing, standings
from distmlp.report.watched import explained
from distmlp.run_state import RunState, read_state, write_state

SECONDS_TO_SAVE = 120.0
SECONDS_TO_END = 60.0  # twice SLURM's usual KillWait
SECONDS_BETWEEN_LOOKS = 0.5


def run(arguments: list[str]) -> int:
    """Cancels the run in ``arguments`` and returns 0.

    Raises:
        ConfigError: it does not run, or cannot be reached from here.
    """
    from distmlp.report.run_lookup import find_one

    plain, flags = split_words(arguments, {"--root": True, "--now": False})
    if len(plain) != 1:
        raise ConfigError(f"distmlp runs cancel takes one run, not {len(plain)}")
    found = find_one(plain[0], root_of(flags))
    (how,) = standings([found.folder])
    state = _reachable(found.name, how)
    _mark(found.folder, cancelled=True)  # first: what starts its job again reads it as soon as the ranks have ended
    try:
        if how.job is not None:
            _end_job(state.job, how.job, "--now" in flags)
        else:
            _end_process(state, "--now" in flags)
    except (NoAnswerError, OSError) as error:
        _mark(found.folder, cancelled=False)
        raise ConfigError(f"{found.name} was not cancelled: {error}") from None
    _tell(found, state)
    return 0


def _reachable(name: str, how: Standing) -> RunState:
    """The state of a run that can be ended from here."""
    state = how.written
    if state is None:
        raise ConfigError(f"{name} cannot be cancelled: {how.state}, {how.reason}")
    if how.state == "finished" or (how.state not in IN_MOTION and how.job is None):
        raise ConfigError(f"{name} is not running: it is {how.state}{f', {how.reason}' if how.reason else ''}")
    if how.job is None and state.job:
        raise ConfigError(f"{name} is job {state.job}, which cannot be reached from here: {how.doubt}")
    if how.job is None and how.state == "submitted":
        raise ConfigError(f"{name} is submitted, but its status.json names no job: look for it with squeue")
    if how.doubt:
        raise ConfigError(f"{name} runs on {state.host}: give this command there")
    return state


def _mark(folder: Path, **values: object) -> None:
    state = read_state(folder)
    try:
        if state is not None:
            write_state(folder, state.changed_to(**values))
    except OSError as error:
        raise ConfigError(f"{folder / 'status.json'} cannot be written: {error.strerror}; nothing was done") from None


def _end_job(job: str, queued: QueuedJob, now: bool) -> None:
    if not queued.waits and not now:
        cancel_job(job, "USR2")
        print(f"job {job} saves and ends; after {SECONDS_TO_SAVE:.0f} s it is cancelled in any case", flush=True)
        # One that waits again was requeued, by a script that knows nothing of cancelled runs.
        _wait(lambda: _is_gone(job, or_waits=True), SECONDS_TO_SAVE)
    if not _is_gone(job):
        cancel_job(job)
        _wait(lambda: _is_gone(job), SECONDS_TO_END)


def _is_gone(job: str, or_waits: bool = False) -> bool:
    """Whether the queue is without ``job``, as far as it answers."""
    try:
        queued = ask_queue([job]).get(job)
    except NoAnswerError:
        return False
    return queued is None or (or_waits and queued.waits)


def _end_process(state: RunState, now: bool) -> None:
    """Ends rank 0. The other ranks agree with it to stop, and their launcher ends with them."""
    os.kill(state.pid, signal.SIGKILL if now else signal.SIGTERM)
    if not now:
        print(f"process {state.pid} saves and ends", flush=True)
    _wait(lambda: not is_alive(state.pid, state.changed), SECONDS_TO_SAVE)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _tell(found: Found, before: RunState) -> None:
    """Says how it ended, and writes it down where the run could not."""
    (how,) = standings([found.folder])
    state = how.written or before
    if how.state == "lost":
        reason = "cancelled; its last checkpoint is what is left" if state.starts else "cancelled before it started"
        _mark(found.folder, state="stopped", reason=reason, changed=time.time())
        print(f"{found.name}: {reason}")
    elif how.job is not None or how.state in IN_MOTION:
        what = f"job {state.job}" if state.job else f"process {state.pid}"
        print(f"{found.name}: {what} has not ended yet; --now ends it at once")
    else:
        status = state.exit_status
        print(f"{found.name}: {state.state}, {state.reason}" + ("" if status is None else f" ({explained(status)})"))
