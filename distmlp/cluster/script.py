"""The text of `job.sbatch`: a pure function of a `Job`.

The script acts and decides nothing: `distmlp requeue` says whether the job shall start again, since exit statuses do
not survive torchrun and srun. Values reach it quoted, in sbatch's way or the shell's.
"""

import shlex
from dataclasses import dataclass

from distmlp.cluster.container import Container
from distmlp.cluster.quoting import for_pattern, for_sbatch, hydra_word, one_line

TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
# Ports below those that Linux gives to clients; ids of jobs that share a node are close to each other.
FIRST_PORT, NUM_PORTS = 15000, 16000

HEAD = """\
# Written by `distmlp submit`. To do it again by hand: sbatch {script}
# The job trains, saves before its time is over, and starts again until the run has ended.
set -eo pipefail
"""

TRAP = """\
# SIGTERM for the whole job (scancel, preemption) must not end this shell, which has work to do when the ranks have saved.
ended_from_outside=no
trap 'ended_from_outside=yes' TERM
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
"""

START_AGAIN = """\
# Who ended the job meant it, or requeues it himself. SLURM would start a cancelled job again if it were asked to.
if [ "$next" -eq 3 ] && [ "$ended_from_outside" = no ]; then
    # Where that is refused, or not installed, a new job takes over, and knows how often there was one before.
    scontrol requeue "$job" || DISTMLP_RESTARTS=$((${{DISTMLP_RESTARTS:-0}} + ${{SLURM_RESTART_COUNT:-0}} + 1)) \\
        sbatch --dependency="afterany:$job" {array}{script} || true
fi
"""


@dataclass(frozen=True)
class Job:
    """What a job script says.

    Args:
        options: those of sbatch that the user chose, as (name, value); an empty value for a flag.
        root, name, run_id: where the run folder is. Of an array ``run_id`` is what all ids begin with.
        script: where the script itself will lie.
        work_dir: where it runs.
        nodes, ranks_per_node, gpus_per_node: the plan; no GPUs where the last is 0.
        launcher: ``srun`` or ``torchrun``.
        python: the command that runs Python on a node, or inside the container.
        words: more words for `distmlp train`.
        array_size: runs of the array; 0: a single run.
        array_limit: of these at once; 0: all.
        cpus_per_task: cores; 0: SLURM's default.
    """

    options: tuple[tuple[str, str], ...]
    root: str
    name: str
    run_id: str
    script: str
    work_dir: str
    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    launcher: str
    python: str
    words: tuple[str, ...] = ()
    array_size: int = 0
    array_limit: int = 0
    cpus_per_task: int = 0
    requeue: bool = True
    grace_seconds: int = 120
    modules: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    container: Container | None = None

    @property
    def tasks_per_node(self) -> int:
        return 1 if self.launcher == "torchrun" else self.ranks_per_node


def render(job: Job) -> str:
    """The script.

    Raises:
        ConfigError: a value cannot be written into it.
    """
    parts = ["#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in _options(job))]
    parts += [HEAD.format(script=shlex.quote(job.script)), _preparation(job), _words(job), TRAP]
    parts += [_training(job), _end(job)]
    text = "\n".join(part for part in parts if part)
    for line in text.split("\n"):
        one_line(line, "a line of job.sbatch,")
    return text


def _options(job: Job) -> list[str]:
    pattern = for_pattern(f"{job.root}/{job.name}/{job.run_id}")
    log = f"{pattern}-%a/logs/job-%A_%a.log" if job.array_size else f"{pattern}/logs/job-%j.log"
    limit = f"%{job.array_limit}" if job.array_limit else ""
    options = [
        ("job-name", job.name),
        ("output", log),
        ("open-mode", "append"),
        ("chdir", job.work_dir),
        ("nodes", str(job.nodes)),
        ("ntasks-per-node", str(job.tasks_per_node)),
        ("gpus-per-node", str(job.gpus_per_node) if job.gpus_per_node else None),
        ("cpus-per-task", str(job.cpus_per_task) if job.cpus_per_task else None),
        ("array", f"0-{job.array_size - 1}{limit}" if job.array_size else None),
        ("signal", f"USR2@{job.grace_seconds}"),
        ("requeue" if job.requeue else "no-requeue", ""),
        *job.options,
    ]
    return [
        f"--{name}={for_sbatch(one_line(value, f'--{name}'))}" if value else f"--{name}"
        for name, value in options
        if value is not None
    ]


def _preparation(job: Job) -> str:
    """What the user asked for, before `set -u`: modules and activations of environments use unset variables."""
    lines = [f"module load {shlex.quote(module)}" for module in job.modules]
    for entry in job.environment:
        name, equals, value = entry.partition("=")
        given = f"export {name}={shlex.quote(value)}"
        lines.append(given if equals else f': "${{{name}:?is not set in this job}}"; export {name}')
    return "".join(f"{line}\n" for line in [*lines, *job.lines, "set -u"])


def _words(job: Job) -> str:
    """The array ``words``: what tells the run to `distmlp train` and `distmlp requeue`."""
    place = hydra_word("run.root", job.root), hydra_word("run.name", job.name)
    parent = shlex.quote(f"{job.root}/{job.name}")
    if job.array_size:
        lines = [f'run_id={job.run_id}-"$SLURM_ARRAY_TASK_ID"']
        lines += [
            "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID  # the plain id of a task may stand for the whole array"
        ]
    else:
        lines = [f"run_id={job.run_id}", "job=$SLURM_JOB_ID"]
    lines += ["words=(", f'    --config {parent}/"$run_id"/config.yaml', f"    {' '.join(map(shlex.quote, place))}"]
    lines += ['    "run.id=\\"$run_id\\""', f"    trainer.nodes={job.nodes} trainer.devices={job.ranks_per_node}"]
    lines += [f"    {shlex.quote(word)}" for word in job.words]
    return "\n".join([*lines, ")", ""])


def _training(job: Job) -> str:
    srun = ["srun", "--kill-on-bad-exit=1"]
    if job.cpus_per_task:  # since SLURM 22.05 srun does not take it from the job
        srun.append(f"--cpus-per-task={job.cpus_per_task}")
    lines = [[*srun, *(job.container.step_options() if job.container else [])]]
    python = [*(job.container.command(gpus=job.gpus_per_node > 0) if job.container else []), shlex.quote(job.python)]
    text = ""
    if job.launcher == "torchrun":
        text = RANKS_BY_TORCHRUN.format(first=FIRST_PORT, count=NUM_PORTS)
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
    if job.requeue:
        array = '--array="$SLURM_ARRAY_TASK_ID" ' if job.array_size else ""
        text += START_AGAIN.format(array=array, script=shlex.quote(job.script))
    return text + 'exit "$next"\n'


def _command(lines: list[list[str]]) -> str:
    return " \\\n    ".join(" ".join(line) for line in lines if line)
