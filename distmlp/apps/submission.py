"""What `distmlp submit` will write and submit: runs, their folders, the script. All is checked, nothing written."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmlp import run_folder
from distmlp.apps.continued import WORDS, check_same_run, checkpoints_place, compose_resumed
from distmlp.apps.planned_world import check_elsewhere
from distmlp.cluster.array import read_runs
from distmlp.cluster.needs import container_of, needed_paths
from distmlp.cluster.paths import check_paths
from distmlp.cluster.plan import Plan, check_batch, plan_ranks
from distmlp.cluster.queue import NoAnswerError, ask_queue
from distmlp.cluster.quoting import hydra_word
from distmlp.cluster.script import Job, render
from distmlp.cluster.site import site_words
from distmlp.compose import Composed
from distmlp.config import Config
from distmlp.errors import ConfigError
from distmlp.run_state import read_state
from distmlp.schema.cluster import SlurmCluster

SCRIPT = "job.sbatch"


@dataclass(frozen=True)
class Submission:
    """A job, ready to be written.

    Args:
        runs: configurations, as `distmlp train` will compose them in the job; several in an array.
        folders: theirs.
        script_file: where the script goes: into the first run's folder, since nothing lies beside the folders of runs.
        script: its text.
        is_array: whether this is an array, be it of one run.
        warning: what may go wrong, in a line; or nothing.
    """

    runs: list[Composed]
    folders: list[Path]
    script_file: Path
    script: str
    is_array: bool
    warning: str


def plan_submission(words: list[str], frozen: Path | None) -> Submission:
    """What ``words`` ask for.

    Raises:
        ConfigError: a word is wrong, numbers disagree, a path is missing or out of the nodes' sight, or a run's folder
            belongs to somebody else. Nothing was written.
    """
    base = _compose(words, frozen).named()
    cluster = base.config.cluster
    if not isinstance(cluster, SlurmCluster):
        raise ConfigError("submit needs to know the cluster: give cluster=slurm")
    _check_environment(cluster)
    named = [base] if cluster.array is None else _array(base, words, frozen, read_runs(Path(cluster.array)))
    plan = _common_plan([run.config for run in named], cluster)
    runs = [_as_in_the_job(run, plan) for run in named]
    folders = [run_folder.place(run.config.run.root, str(run.config.run.name), str(run.config.run.id)) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        _check_free(base.config.resume.source, run, folder)
    needed = list(dict.fromkeys(path for run in runs for path in needed_paths(run.config, cluster)))
    first = runs[0].config
    job = Job(
        cluster=cluster,
        root=first.run.root,
        name=str(first.run.name),
        run_id=str(base.config.run.id),
        script=str(folders[0] / SCRIPT),
        work_dir=str(Path.cwd()),
        python=cluster.python or ("python" if cluster.container else sys.executable),
        nodes=plan.nodes,
        ranks_per_node=plan.ranks_per_node,
        gpus_per_node=plan.ranks_per_node if plan.kind == "cuda" else 0,
        words=tuple(_words(first)),
        array_size=len(runs) if cluster.array else 0,
        container=container_of(needed, cluster),
    )
    return Submission(runs, folders, folders[0] / SCRIPT, render(job), bool(cluster.array), check_paths(needed))


def _compose(words: list[str], frozen: Path | None) -> Composed:
    """The site's values lie under the user's words, and over the group's file."""
    chosen = any(word.lstrip("+") == "cluster=slurm" for word in words)
    site, file = site_words() if chosen else ([], "")
    try:
        return compose_resumed([*site, *words], frozen)
    except ConfigError as error:
        if not site or "cluster." not in str(error):
            raise
        raise ConfigError(f"{error} (with the values of {file})") from None


def _check_environment(cluster: SlurmCluster) -> None:
    for name in cluster.environment:
        if "=" not in name and name not in os.environ:
            raise ConfigError(f"cluster.environment names {name}, which is not set here: export it first")


def _array(base: Composed, words: list[str], frozen: Path | None, lines: list[list[str]]) -> list[Composed]:
    if base.config.resume.source not in ("auto", "never"):
        raise ConfigError(
            f"resume={base.config.resume.source} is for one run, and cluster.array has many: leave it out"
        )
    runs = []
    for number, line in enumerate(lines):
        try:
            composed = _compose([*words, *line], frozen)
        except ConfigError as error:
            raise ConfigError(f"run {number} of cluster.array ({' '.join(line)}): {error}") from None
        place = base.values["run"] | {"id": f"{base.config.run.id}-{number}"}
        cluster = composed.values["cluster"] | {"array": None, "array_limit": None}  # the frozen file is of one run
        runs.append(Composed.of(composed.values | {"run": place, "cluster": cluster}))
    return runs


def _common_plan(configs: list[Config], cluster: SlurmCluster) -> Plan:
    plans = []
    for number, config in enumerate(configs):
        plan = plan_ranks(config, cluster)
        check_elsewhere(config, plan.world, plan.kind)
        check_batch(config, plan.world)
        plans.append(plan)
        if plan != plans[0]:
            raise ConfigError(
                f"run {number} of cluster.array has {plan.describe()}, and run 0 {plans[0].describe()}: one script has "
                "one plan; submit them apart"
            )
    return plans[0]


def _as_in_the_job(run: Composed, plan: Plan) -> Composed:
    """The configuration that `distmlp train` composes in the job, to the letter: it compares it with the frozen one."""
    values = run.values
    trainer = values["trainer"] | {"nodes": plan.nodes, "devices": plan.ranks_per_node}
    if plan.kind == "cuda":  # a job that gets no GPU must not train without
        trainer["accelerator"] = "gpu"
    place = values["run"] | {"root": str(Path(values["run"]["root"]).absolute())}
    resume = values["resume"]
    if resume["source"] == "never":  # was checked here; the job itself must go on from what it has saved
        resume = resume | {"source": "auto"}
    return Composed.of(values | {"trainer": trainer, "run": place, "resume": resume})


def _check_free(source: str, run: Composed, folder: Path) -> None:
    """A run's folder is new, or of this very run, which no other job works on."""
    from distmlp.checkpoint.object_store import open_storage
    from distmlp.checkpoint.select import checkpoint_names

    if not folder.exists():
        if source == "must":
            raise ConfigError(f"resume=must: {folder} does not exist; give the run.id of the run, or resume=RUN_FOLDER")
        return
    if source == "never":
        raise ConfigError(f"{folder} exists: leave run.id unset, choose another, or use resume=auto to go on")
    state = read_state(folder)
    if state and state.job and _is_queued(state.job):
        raise ConfigError(f"job {state.job} of {folder} is in the queue: wait for it, or distmlp runs cancel {folder}")
    if source in WORDS and not checkpoint_names(open_storage(checkpoints_place(run.config))):
        check_same_run(run, folder)


def _is_queued(job: str) -> bool:
    """Whether SLURM says so; where it says nothing, the lock of the run keeps a second job out."""
    try:
        return bool(ask_queue([job]))
    except NoAnswerError:
        return False


def _words(config: Config) -> list[str]:
    """What no file may say: the code that may run, and how a run is resumed."""
    words: dict[str, Any] = {"allow_targets": config.allow_targets, "resume.allow": list(config.resume.allow)}
    words["resume"] = config.resume.source if config.resume.source != "auto" else ""
    return [hydra_word(key, value) for key, value in words.items() if value]
