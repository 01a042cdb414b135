"""A job starts again after a signal or a fault, and not when it has finished, was wrong, or comes no further."""

import pytest

from distmlp.cluster.restart import Verdict, judge
from distmlp.run_state import RunState, Started


def start(step: int, restart: int = 0, job: str = "7") -> Started:
    return Started(time=0.0, step=step, restart=restart, job=job, world_size=2)


def judged(state: RunState | None, *, status: int = 1, restart: int = 0, newest_step: int = 0) -> Verdict:
    return judge(state, status=status, job="7", restart=restart, newest_step=newest_step)


def test_a_finished_run_stays_finished() -> None:
    state = RunState("finished", "trainer.max_steps=9 reached", 0, starts=(start(0),))
    assert judged(state, status=1) == Verdict(0, "the run has finished: trainer.max_steps=9 reached")


def test_a_run_that_a_signal_stopped_goes_on() -> None:
    state = RunState("stopped", "stopped by SIGUSR2", 3, starts=(start(0),))
    assert judged(state, status=1, newest_step=40) == Verdict(3, "starts again, from step 40: stopped by SIGUSR2")


@pytest.mark.parametrize("status", [0, 1, 137])  # srun may return 0 after a node failure
def test_a_run_whose_ranks_were_killed_goes_on(status: int) -> None:
    state = RunState("running", starts=(start(0),))
    assert judged(state, status=status, newest_step=5).status == 3


def test_a_mistake_is_not_tried_again() -> None:
    assert judged(None, status=2).status == 2
    assert judged(RunState("failed", "ConfigError: no", 2, starts=(start(0),))) == Verdict(
        2, "not restarted: ConfigError: no"
    )
    former = RunState("stopped", "stopped by SIGUSR2", 3, starts=(start(0),))
    assert judged(former, status=2, restart=1).status == 2


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (143, 143), (0, 1)])
def test_a_job_that_never_trained_is_not_tried_again(status: int, expected: int) -> None:
    for state in (None, RunState("submitted", job="7")):
        verdict = judged(state, status=status)
        assert (verdict.status, "before training began" in verdict.reason) == (expected, True)


def test_a_cancelled_run_does_not_start_again() -> None:
    state = RunState("stopped", "stopped by SIGUSR2", 3, cancelled=True, starts=(start(0),))
    assert judged(state, status=3, newest_step=9) == Verdict(1, "the run was cancelled")


def test_a_crash_loop_ends_after_three_restarts_without_progress() -> None:
    starts = tuple(start(40, restart) for restart in range(4))
    for count in (1, 2, 3):
        state = RunState("failed", "RuntimeError: broken", 1, starts=starts[:count])
        assert judged(state, restart=count - 1, newest_step=40).status == 3
    verdict = judged(RunState("failed", "RuntimeError: broken", 1, starts=starts), restart=3, newest_step=40)
    assert verdict == Verdict(
        4, "3 restarts came no further than step 40, so it is not restarted: RuntimeError: broken"
    )


def test_progress_starts_the_count_anew() -> None:
    starts = (start(0, 0), start(0, 1), start(0, 2), start(10, 3), start(10, 4), start(10, 5))
    assert judged(RunState("failed", "x", 1, starts=starts), restart=5, newest_step=10).status == 3
    starts = tuple(start(40, restart) for restart in range(4))
    assert judged(RunState("failed", "x", 1, starts=starts), restart=3, newest_step=41).status == 3


def test_starts_of_other_jobs_and_by_hand_do_not_count() -> None:
    by_hand = tuple(start(40, 0, "") for _ in range(5))
    assert judged(RunState("failed", "x", 1, starts=(*by_hand, start(40, 0))), newest_step=40).status == 3


def test_a_resubmitted_job_counts_on() -> None:
    starts = (start(40, 0, "5"), start(40, 1, "6"), start(40, 2, "7"), start(40, 3, "7"))
    assert judged(RunState("failed", "x", 1, starts=starts), restart=3, newest_step=40).status == 4


def test_restarts_that_end_before_they_train_count_too() -> None:
    state = RunState("stopped", "stopped by SIGUSR2", 3, starts=(start(0, 0),))
    assert [judged(state, restart=restart, newest_step=0).status for restart in (1, 2, 3)] == [3, 3, 4]
    assert [judged(state, restart=restart, newest_step=8).status for restart in (1, 2, 3)] == [3, 3, 3]
