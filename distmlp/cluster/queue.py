"""SLURM's queue: which jobs are in it, and `scancel`. Called as programs, since sites differ in all else.

`squeue` is asked once for all jobs, and in its old text format, which every version has.
"""

import os
import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

SECONDS = 10.0
JOB = re.compile(r"\d+(_\d+)?")
# What squeue may still list of a job that is over.
OVER = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
WAITING = frozenset("PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT".split())


class NoAnswerError(Exception):
    """SLURM could not be asked; the message says why in a few words."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue.

    Args:
        state: in SLURM's words, such as ``PENDING`` or ``RUNNING``.
        reason: why it waits, such as ``Priority``; ``None`` where it does not.
        nodes: where it runs, such as ``node[1-2]``; may be empty.
    """

    state: str
    reason: str
    nodes: str

    @property
    def waits(self) -> bool:
        """Whether it has not started yet, or will start again."""
        return self.state in WAITING


def ask_queue(jobs: Collection[str]) -> dict[str, QueuedJob]:
    """Those of ``jobs`` (ids as in ``12``, ``12_3``) that are in the queue.

    Raises:
        NoAnswerError: there is no squeue here, or it gave no answer.
    """
    asked = sorted({job for job in jobs if JOB.fullmatch(job)})
    if not asked:
        return {}
    # An array's waiting tasks are one line without --array; --states=all, since a requeued job has states of its own.
    words = ["--noheader", "--array", "--states=all", f"--jobs={','.join(asked)}", "--format=%i|%T|%N|%r"]
    done = _called("squeue", words)
    if done.returncode and "Invalid job id" in done.stderr:  # the only one asked for is long gone
        return {}
    if done.returncode:
        raise NoAnswerError(_reason("squeue", done))
    return dict(_parsed(line) for line in done.stdout.splitlines() if line.count("|") >= 3 and not _is_over(line))


def cancel_job(job: str, signal_name: str = "") -> None:
    """Cancels ``job``, or only sends the signal to its steps: ``USR2`` lets ranks save for as long as they need.

    Raises:
        NoAnswerError: there is no scancel here, it gave no answer, or it refused; the message has its words.
    """
    assert JOB.fullmatch(job), job
    done = _called("scancel", [*([f"--signal={signal_name}"] if signal_name else []), job])
    if done.returncode:
        raise NoAnswerError(_reason("scancel", done))


def _called(program: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    # SQUEUE_STATES and the like are a user's wishes for the listing in the terminal, and would hide jobs here.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SCANCEL_"))}
    try:
        return subprocess.run(
            [program, *words], env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except FileNotFoundError:
        raise NoAnswerError(f"there is no {program} here") from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{program} gave no answer in {SECONDS:.0f} s") from None
    except OSError as error:
        raise NoAnswerError(f"{program} cannot be started: {error.strerror}") from None


def _reason(program: str, done: subprocess.CompletedProcess[str]) -> str:
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"{program} failed: {said[-1].removeprefix(f'{program}: ').removeprefix('error: ')}"


def _parsed(line: str) -> tuple[str, QueuedJob]:
    job, state, nodes, reason = line.split("|", 3)
    return job.strip(), QueuedJob(state.strip(), reason.strip(), nodes.strip())


def _is_over(line: str) -> bool:
    return _parsed(line)[1].state in OVER
