"""The text of `job.sbatch`: a pure function of a `Job`.

The script acts and decides nothing: `distmlp requeue` says whether the job shall start again, since exit statuses do
not survive torchrun and srun. Values reach it quoted, in sbatch's way or the shell's.
"""

import shlex
from dataclasses import dataclass

from distmlp.cluster.container import Container
from distmlp.cluster.quoting import for_pattern, for_sbatch, hydra_word, one_line
from distmlp.schema.cluster import SlurmCluster

TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
# Ports below those that Linux gives to clients; ids of jobs that share a node are close to each other.
FIRST_PORT, NUM_PORTS = 15000, 16000

HEAD = """\
# Written by `distmlp submit`. To do it again by hand: sbatch {script}
# The job trains, saves before its time is over, and starts again until the run has ended.
"""

TRAP = """\
# SIGTERM for the whole job (scancel, preemption) must not end this shell: it has work to do when the ranks have saved.
ended=no
trap 'ended=yes' TERM
"""

WAIT = """\
pid=$!
# A signal ends `wait` early, so until srun is gone; then its status.
while kill -0 "$pid" 2> /dev/null; do wait "$pid" || true; done
status=0
wait "$pid" || status=$?
"""

RANKS_BY_TORCHRUN = """\
# One task for each node: torchrun starts the ranks. Its port is the job's, so that jobs on one node do not meet.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$(({first} + SLURM_JOB_ID % {count}))
# How long after a signal it kills what still saves; its own default is 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={grace}
"""

START_AGAIN = """\
# SLURM would start a cancelled job again too, if asked. Who ended it from outside meant that, or starts it again by
# other means; only the limit of time means nothing by it.
job={job}
reason=$(squeue --noheader --jobs="$job" --format=%r) || reason=
case $next,$ended,$reason in
    3,no,* | 3,yes,TimeLimit)
        # Where that is refused, or not installed, a new job takes over, and knows how often there was one before.
        restarts=$((${{DISTMLP_RESTARTS:-0}} + ${{SLURM_RESTART_COUNT:-0}} + 1))
        scontrol requeue "$job" || env --unset=SLURM_RESTART_COUNT "DISTMLP_RESTARTS=$restarts" \\
            sbatch --dependency="afterany:$job" {array}{script} || true
        ;;
    3,*)
        echo "The job was ended from outside: starting it again is left to SLURM."
        next=143
        ;;
    *) ;;
esac
"""
# Keys that are options of sbatch, with the same name but for the underscore.
OPTIONS = ("partition", "account", "qos", "constraint", "time", "cpus_per_task", "mem", "dependency")


@dataclass(frozen=True)
class Job:
    """What a job script says.

    Args:
        cluster: what the user asks SLURM for.
        root, name, run_id: where the run folder is. Of an array ``run_id`` is what all ids begin with.
        script: where the script itself will lie.
        work_dir: where it runs.
        python: the command that runs Python on a node, or inside the container.
        nodes, ranks_per_node, gpus_per_node: the plan; no GPUs where the last is 0.
        words: more words for `distmlp train`.
        array_size: runs of the array; 0: a single run.
    """

    cluster: SlurmCluster
    root: str
    name: str
    run_id: str
    script: str
    work_dir: str
    python: str
    nodes: int
    ranks_per_node: int
    gpus_per_node: int = 0
    words: tuple[str, ...] = ()
    array_size: int = 0
    container: Container | None = None


def render(job: Job) -> str:
    """The script.

    Raises:
        ConfigError: a value cannot be written into it.
    """
    _check_texts(job)
    options = "".join(f"#SBATCH {line}\n" for line in _options(job))
    head = HEAD.format(script=shlex.quote(job.script)) + _preparation(job.cluster)
    trap = TRAP if job.cluster.requeue else "trap : TERM\n"
    return "\n".join(["#!/bin/bash\n" + options, head, _words(job), trap, _training(job), _end(job)])


def _check_texts(job: Job) -> None:
    """Quotes do not help against a line break in `#SBATCH`. The schema has checked what comes from ``cluster``."""
    for key in ("root", "name", "run_id", "script", "work_dir", "python"):
        one_line(getattr(job, key), key)
    for word in [*job.words, *(job.container.mounts if job.container else [])]:
        one_line(word, "the word")


def _options(job: Job) -> list[str]:
    cluster, pattern = job.cluster, for_pattern(f"{job.root}/{job.name}/{job.run_id}")
    options = {
        "job-name": job.name,
        "output": f"{pattern}-%a/logs/job-%A_%a.log" if job.array_size else f"{pattern}/logs/job-%j.log",
        "open-mode": "append",
        "chdir": job.work_dir,
        "nodes": job.nodes,
        "ntasks-per-node": 1 if cluster.launcher == "torchrun" else job.ranks_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        **{key.replace("_", "-"): getattr(cluster, key) for key in OPTIONS},
        "array": _array(job),
        "signal": f"USR2@{cluster.grace_seconds}",
    }
    flags = ["--requeue" if cluster.requeue else "--no-requeue"]
    lines = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [_option(line) for line in [*lines, *flags, *cluster.sbatch]]


def _array(job: Job) -> str | None:
    limit = f"%{job.cluster.array_limit}" if job.cluster.array_limit else ""
    return f"0-{job.array_size - 1}{limit}" if job.array_size else None


def _option(line: str) -> str:
    name, equals, value = line.partition("=")
    return f"{name}={for_sbatch(value)}" if equals else name


def _preparation(cluster: SlurmCluster) -> str:
    """What the user asked for, before `set -u`: modules and activations of environments use unset variables."""
    lines = ["set -eo pipefail"]
    lines += [f"module load {shlex.quote(module)}" for module in cluster.modules]
    for entry in cluster.environment:
        name, equals, value = entry.partition("=")
        given = f"export {name}={shlex.quote(value)}"
        lines.append(given if equals else f': "${{{name}:?is not set in this job}}"; export {name}')
    lines += cluster.lines
    return "\n".join([*lines, "set -u"] if len(lines) > 1 else ["set -euo pipefail"]) + "\n"


def _words(job: Job) -> str:
    """The array ``words``: what tells the run to `distmlp train` and `distmlp requeue`."""
    place = hydra_word("run.root", job.root), hydra_word("run.name", job.name)
    parent = shlex.quote(f"{job.root}/{job.name}")
    lines = [f'run_id={job.run_id}-"$SLURM_ARRAY_TASK_ID"' if job.array_size else f"run_id={job.run_id}"]
    lines += ["words=(", f'    --config {parent}/"$run_id"/config.yaml', f"    {' '.join(map(shlex.quote, place))}"]
    lines += ['    "run.id=\\"$run_id\\""', f"    trainer.nodes={job.nodes} trainer.devices={job.ranks_per_node}"]
    lines += [f"    {shlex.quote(word)}" for word in job.words]
    return "\n".join([*lines, ")", ""])


def _training(job: Job) -> str:
    srun = ["srun", "--kill-on-bad-exit=1"]
    if job.cluster.cpus_per_task:  # since SLURM 22.05 srun does not take it from the job
        srun.append(f"--cpus-per-task={job.cluster.cpus_per_task}")
    lines = [[*srun, *(job.container.step_options() if job.container else [])]]
    python = [*(job.container.command(gpus=job.gpus_per_node > 0) if job.container else []), shlex.quote(job.python)]
    text = ""
    if job.cluster.launcher == "torchrun":
        text = RANKS_BY_TORCHRUN.format(first=FIRST_PORT, count=NUM_PORTS, grace=job.cluster.grace_seconds)
        lines += [[*python, "-m", "torch.distributed.run"], [f"--nnodes={job.nodes}"]]
        lines[-1] += [f"--nproc-per-node={job.ranks_per_node}", "--max-restarts=0"]
        lines += [['--rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"', "--rdzv-backend=c10d"]]
        lines[-1] += ['--rdzv-endpoint="$head:$port"']
        lines += [[f"--signals-to-handle={TORCHRUN_SIGNALS}"], ["-m", "distmlp", "train", '"${words[@]}"']]
    else:
        text = "# One task for each rank.\n"
        lines += [[*python, "-m", "distmlp", "train", '"${words[@]}"']]
    return text + _command(lines) + " &\n" + WAIT


def _end(job: Job) -> str:
    lines = [[shlex.quote(job.python), "-m", "distmlp", "requeue"], ["--status", '"$status"', '"${words[@]}"']]
    if job.container:
        lines = [job.container.single(), *lines]
    text = "# Whether the run has ended is known to Python alone; 3 means: start the job again.\nnext=0\n"
    text += _command(lines) + " || next=$?\n"
    if job.cluster.requeue and job.array_size:  # the plain id of a task may stand for the whole array
        name, array = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}", '--array="$SLURM_ARRAY_TASK_ID" '
        text += START_AGAIN.format(job=name, array=array, script=shlex.quote(job.script))
    elif job.cluster.requeue:
        text += START_AGAIN.format(job="$SLURM_JOB_ID", array="", script=shlex.quote(job.script))
    return text + 'exit "$next"\n'


def _command(lines: list[list[str]]) -> str:
    return " \\\n    ".join(" ".join(line) for line in lines if line)
