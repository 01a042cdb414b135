"""`distmlp requeue`: called by a job script when its ranks have ended; says whether the job shall start again.

The script acts on it, since inside a container there may be no SLURM: exit status 3 asks for another start, any other
is what the job shall end with.
"""

import sys
from pathlib import Path

from distmlp import run_folder
from distmlp.apps.continued import checkpoints_place, compose_resumed
from distmlp.apps.words import split_words
from distmlp.cluster.restart import judge
from distmlp.errors import ConfigError
from distmlp.run_state import read_state
from distmlp.runtime import job_id, num_restarts

USAGE = "usage: distmlp requeue --status N [--config RUN/config.yaml] [the words of the job's distmlp train]"


def run(arguments: list[str]) -> int:
    """Judges the run that ``arguments`` describe. Returns the status that the job script acts on."""
    if {"--help", "-h"} & set(arguments):
        print(USAGE)
        return 0
    words, flags = split_words(arguments, {"--status": True, "--config": True})
    if not flags.get("--status", "").isdecimal():
        raise ConfigError("distmlp requeue needs the exit status of the ranks: --status 1")
    composed = compose_resumed(words, Path(flags["--config"]) if "--config" in flags else None)
    if composed.config.run.id is None:
        raise ConfigError("distmlp requeue needs to know the run: give run.id=…, as to distmlp train")
    config = composed.named().config
    state = read_state(run_folder.place(config.run.root, str(config.run.name), str(config.run.id)))
    verdict = judge(
        state,
        status=int(flags["--status"]),
        job=job_id(),
        restart=num_restarts(),
        newest_step=_newest_step(checkpoints_place(config)),
    )
    print(f"distmlp: {verdict.reason}", file=sys.stderr)
    return verdict.status


def _newest_step(place: str) -> int:
    from distmlp.checkpoint.object_store import open_storage
    from distmlp.checkpoint.select import checkpoint_names

    names = checkpoint_names(open_storage(place))
    return max((int(name.rpartition("-")[2]) for name in names), default=0)
