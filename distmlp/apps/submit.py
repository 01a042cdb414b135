"""`distmlp submit`: compose as `distmlp train` does, validate all that a job would trip over, write, hand to sbatch."""

import shlex
import sys
import time
from pathlib import Path

from distmlp import run_folder, run_state
from distmlp.apps.submission import Submission, plan_submission
from distmlp.apps.words import split_words
from distmlp.cluster import slurm
from distmlp.cluster.writing import Writing, all_or_nothing
from distmlp.config import all_fields
from distmlp.run_state import RunState

USAGE = "usage: distmlp submit [--config RUN/config.yaml] [--dry-run] cluster=slurm [group=choice] [key=value]"
FLAGS = {"--config": True, "--dry-run": False}


def run(arguments: list[str]) -> int:
    """Submits what ``arguments`` say. Returns the exit status."""
    if "--help" in arguments or "-h" in arguments:
        keys = [f"  {key:<32}{text}" for key, text in dict(all_fields()).items() if key.startswith("cluster.")]
        print("\n".join([USAGE, "", "keys, beside those of distmlp train:", *keys]))
        return 0
    words, flags = split_words(arguments, FLAGS)
    submission = plan_submission(words, Path(flags["--config"]) if "--config" in flags else None)
    if "--dry-run" not in flags:
        slurm.check_script(submission.script)
    if submission.warning:
        print(f"distmlp: warning: {submission.warning}", file=sys.stderr)
    if "--dry-run" in flags:
        print(submission.script, end="")
        return 0
    with all_or_nothing() as writing:
        _write(submission, writing)
        job = slurm.submit(submission.script_file)
    _say(submission, job)
    return 0


def _write(submission: Submission, writing: Writing) -> None:
    for composed, folder in zip(submission.runs, submission.folders, strict=True):
        writing.folder(folder / "logs")
        run_folder.write_text(writing.file(folder / "config.yaml"), composed.as_yaml())
        writing.file(folder / run_state.FILE)
        before = run_state.read_state(folder) or RunState("submitted")
        run_state.write_state(folder, _submitted(before, ""))
    run_folder.write_text(writing.file(submission.script_file), submission.script)


def _submitted(state: RunState, job: str) -> RunState:
    new = RunState("submitted", "waits for its job", job=job, changed=time.time())
    return new.changed_to(starts=state.starts)  # of this run, whatever became of its former job


def _say(submission: Submission, job: str) -> None:
    """Writes down the job of each run, and tells the user."""
    jobs = [f"{job}_{number}" for number in range(len(submission.runs))] if submission.is_array else [job]
    for folder, own in zip(submission.folders, jobs, strict=True):
        state = run_state.read_state(folder)
        if state and state.state == "submitted":  # or the job has started already, and says so itself
            run_state.write_state(folder, _submitted(state, own))
    first, others = shlex.quote(str(submission.folders[0])), f", and {len(jobs) - 1} beside it" * (len(jobs) > 1)
    log = shlex.quote(str(submission.folders[0] / "logs" / f"job-{jobs[0]}.log"))
    lines = {
        "job": job + (f", tasks 0-{len(jobs) - 1}" if submission.is_array else ""),
        "run id": submission.folders[0].name + others,
        "run folder": first + others,
        "follow": f"tail -F {log}, or distmlp runs watch {first}",
        "cancel": f"distmlp runs cancel {first}, or scancel {job}",
    }
    for name, text in lines.items():
        print(f"{name + ':':<12}{text}")
