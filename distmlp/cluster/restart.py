"""Whether a job whose ranks have ended shall start again: what its run has recorded decides, beside an exit status."""

from dataclasses import dataclass
from itertools import takewhile

from distmlp.run_state import RunState, Started

FINISHED, FAILED, MISTAKE, STOPPED, GAVE_UP = 0, 1, 2, 3, 4
MAX_RESTARTS_WITHOUT_PROGRESS = 3


@dataclass(frozen=True)
class Verdict:
    """What becomes of a job.

    Args:
        status: what it shall end with; ``STOPPED`` asks for another start.
        reason: why, in a line.
    """

    status: int
    reason: str


def judge(state: RunState | None, *, status: int, job: str, restart: int, newest_step: int) -> Verdict:
    """What becomes of a job whose ranks have ended.

    Args:
        state: of its run; None: it has none.
        status: that the ranks ended with, as far as their launcher passed it on.
        job: its id.
        restart: how often it had been restarted.
        newest_step: of the run's newest checkpoint; 0 if there is none.
    """
    started = state.starts[-1] if state and state.starts else None
    if state is None or started is None:
        return Verdict(status or FAILED, f"the job ended with status {status} before training began: not restarted")
    if state.cancelled:
        return Verdict(FAILED if status == STOPPED else status, "the run was cancelled")  # 3 would start it again
    if (started.job, started.restart) != (job, restart):
        if status == MISTAKE:
            return Verdict(MISTAKE, "its configuration or its data are wrong: not restarted")
        return _again(state, restart, newest_step, f"restart {restart} ended before training went on")
    if state.state == "finished":
        return Verdict(FINISHED, f"the run has finished: {state.reason}")
    if state.exit_status == MISTAKE:
        return Verdict(MISTAKE, f"not restarted: {state.reason}")
    killed = "its ranks were killed, or their machine was lost"
    return _again(state, restart, newest_step, killed if state.state == "running" else state.reason)


def _again(state: RunState, restart: int, newest_step: int, reason: str) -> Verdict:
    step = state.starts[-1].step
    if newest_step <= step:
        without_progress = restart - _first_at(step, state.starts).restart
        if without_progress >= MAX_RESTARTS_WITHOUT_PROGRESS:
            return Verdict(
                GAVE_UP,
                f"{without_progress} restarts came no further than step {step}, so it is not restarted: {reason}",
            )
    return Verdict(STOPPED, f"starts again, from step {max(step, newest_step)}: {reason}")


def _first_at(step: int, starts: tuple[Started, ...]) -> Started:
    """The first of the newest starts that went on from ``step``, in this job and those that it was resubmitted from."""
    same: list[Started] = []
    for start in takewhile(lambda start: start.step == step, reversed(starts)):
        if same and start.restart >= same[-1].restart:  # of another job, or by hand
            break
        same.append(start)
    return same[-1]
