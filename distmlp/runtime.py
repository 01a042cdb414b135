"""Who this process is: rank and world size, and where ranks meet; read from the environment here and nowhere else.

Ranks are started by torchrun (or by `distmlp train` itself, which uses its agent), srun, mpirun, DeepSpeed's launcher
or Kubernetes. Without any of them the world is this one process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distmlp.errors import ConfigError
from distmlp.hostlist import expand_counts, expand_hosts

Launcher = Literal["none", "torchrun", "srun", "mpirun", "Kubernetes", "environment"]
Environment = Mapping[str, str]
KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
HYDRA = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")  # MPICH, Intel MPI
INTERACTIVE_STEP = "4294967290"  # the shell of salloc on a node, which is no task of a program


@dataclass(frozen=True)
class World:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    launcher: Launcher = field(default="none", compare=False)

    @property
    def num_nodes(self) -> int:
        return self.world_size // self.local_world_size

    def describe(self, environment: Environment = os.environ) -> str:
        """How the ranks came to be, in a line."""
        if self.launcher == "none":
            return "no launcher: one process"
        job = f", SLURM job {job_id(environment)}" if job_id(environment) else ""
        return f"{self.launcher}: {self.world_size} rank(s) on {self.num_nodes} node(s){job}"


def discover(environment: Environment = os.environ) -> World:
    """The world that the launcher describes in ``environment``.

    Raises:
        ConfigError: the variables are incomplete, not numbers, or contradict each other; or this is a process of a
            SLURM job with several tasks which srun did not start.
    """
    world = _started_world(environment)
    if world is None:
        _check_allocation(environment)
        return World(0, 1, 0, 1)
    if not (0 <= world.rank < world.world_size and 0 <= world.local_rank < world.local_world_size):
        raise ConfigError(
            f"RANK={world.rank} of WORLD_SIZE={world.world_size} and LOCAL_RANK={world.local_rank} of "
            f"LOCAL_WORLD_SIZE={world.local_world_size} contradict each other: ranks count from 0"
        )
    if world.world_size % world.local_world_size:
        raise ConfigError(
            f"WORLD_SIZE={world.world_size} is no multiple of LOCAL_WORLD_SIZE={world.local_world_size}: "
            "give every node the same number of processes (torchrun --nproc-per-node, srun --ntasks-per-node)"
        )
    return world


def has_launcher(environment: Environment = os.environ) -> bool:
    """Whether somebody started this process as a rank. Its variables may still be wrong, which `discover` says."""
    if any(key in environment for key in KEYS):
        return True
    return OPEN_MPI[1] in environment or HYDRA[3] in environment or _num_tasks(environment) > 1


def own_rank(environment: Environment = os.environ) -> int:
    """The rank that a launcher gave this process, as far as it says one; else 0."""
    keys = ("RANK", OPEN_MPI[0], HYDRA[0], *(("SLURM_PROCID",) if _num_tasks(environment) > 1 else ()))
    return _number(environment, *keys)


def _started_world(environment: Environment) -> World | None:
    if "TORCHELASTIC_RUN_ID" in environment:
        world = _world(environment, KEYS, "torchrun")
        _check_agents(environment, world)
        return world
    if OPEN_MPI[1] in environment:
        return _world(environment, OPEN_MPI, "mpirun")
    if HYDRA[3] in environment:
        return _world(environment, HYDRA, "mpirun")
    of_deepspeed = [key.replace("LOCAL_WORLD_SIZE", "LOCAL_SIZE") for key in KEYS]
    keys = of_deepspeed if "LOCAL_SIZE" in environment and KEYS[3] not in environment else list(KEYS)
    if all(key in environment for key in keys):
        return _world(environment, keys, "environment")
    if _num_tasks(environment) > 1:
        return _srun_world(environment)
    given = [key for key in keys if key in environment]
    if not given:
        return None
    if given == ["RANK", "WORLD_SIZE"] and "KUBERNETES_SERVICE_HOST" in environment:  # a pod is a rank
        number = _numbers(environment, given)
        return World(number[0], number[1], 0, 1, "Kubernetes")
    return _world(environment, keys, "environment")


def _world(environment: Environment, keys: list[str] | tuple[str, ...], launcher: Launcher) -> World:
    missing = [key for key in keys if key not in environment]
    if missing:
        given = next(key for key in keys if key in environment)
        raise ConfigError(f"{given} is set and {missing[0]} is not: start ranks with torchrun, or unset {given}")
    rank, world_size, local_rank, local_world_size = _numbers(environment, keys)
    return World(rank, world_size, local_rank, local_world_size, launcher)


def _numbers(environment: Environment, keys: list[str] | tuple[str, ...]) -> list[int]:
    try:
        return [int(environment[key]) for key in keys]
    except ValueError:
        values = ", ".join(f"{key}={environment[key]}" for key in keys)
        raise ConfigError(f"the launcher's variables must be whole numbers, they are {values}") from None


def _number(environment: Environment, *keys: str) -> int:
    """The first of ``keys`` that holds a number, else 0."""
    return next((int(environment[key]) for key in keys if environment.get(key, "").isdecimal()), 0)


def _num_tasks(environment: Environment) -> int:
    """Tasks of the srun step that this process is one of; 0 if it is none."""
    is_task = environment.get("SLURM_STEP_ID", INTERACTIVE_STEP) != INTERACTIVE_STEP and "SLURM_PROCID" in environment
    return _number(environment, "SLURM_STEP_NUM_TASKS") if is_task else 0


def _srun_world(environment: Environment) -> World:
    node = _number(environment, "SLURM_NODEID")
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = expand_counts(tasks)
    if len(set(counts)) != 1:
        raise ConfigError(
            f"srun started SLURM_STEP_TASKS_PER_NODE={tasks}: give every node the same number of tasks, "
            "srun --ntasks-per-node=…"
        )
    rank, local_rank = _numbers(environment, ("SLURM_PROCID", "SLURM_LOCALID"))
    world = World(rank, _num_tasks(environment), local_rank, counts[0], "srun")
    if world.rank != node * world.local_world_size + world.local_rank:
        raise ConfigError(
            f"task {rank} is process {local_rank} of node {node}, so tasks are dealt out one by one: use srun "
            "--distribution=block, which puts neighbouring ranks on one node"
        )
    slurm = dict(zip(KEYS, (rank, world.world_size, local_rank, world.local_world_size), strict=True))
    for key, value in slurm.items():
        if environment.get(key, str(value)) != str(value):
            raise ConfigError(
                f"{key}={environment[key]}, but srun says {value}: unset {key}, srun's numbers are enough"
            )
    return world


def _check_agents(environment: Environment, world: World) -> None:
    """Several agents that srun started, each with a world of its own, would train the same run several times."""
    tasks = _num_tasks(environment)
    if tasks > 1 and tasks != world.num_nodes:
        raise ConfigError(
            f"srun started {tasks} tasks, but torchrun formed a world of {world.num_nodes} node(s): start one task a "
            f"node, each with torchrun --nnodes={tasks} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT"
        )


def _check_allocation(environment: Environment) -> None:
    """Refuses to train in one process where a SLURM job was given more, or outside of the nodes that it was given."""
    if not job_id(environment) or environment.get("SLURM_STEP_ID", INTERACTIVE_STEP) != INTERACTIVE_STEP:
        return
    nodes = max(1, _number(environment, "SLURM_JOB_NUM_NODES", "SLURM_NNODES"))
    tasks = max(nodes, _number(environment, "SLURM_NTASKS", "SLURM_NPROCS"))
    command = "srun python -m distmlp train …"
    if tasks > 1:
        raise ConfigError(
            f"SLURM job {job_id(environment)} has {tasks} tasks on {nodes} node(s), and only srun starts them: write "
            f"{command} (or ask for one task on one node, whose GPUs distmlp train uses by itself)"
        )
    hosts = expand_hosts(environment.get("SLURM_JOB_NODELIST", ""))
    here = os.uname().nodename.partition(".")[0]
    if hosts and "SLURMD_NODENAME" not in environment and here not in hosts:
        raise ConfigError(
            f"this shell holds SLURM job {job_id(environment)}, but runs on {here}, not on {hosts[0]}: write {command}"
        )


def job_id(environment: Environment = os.environ) -> str:
    """The SLURM job that this process belongs to, ``12``, or ``12_3`` in an array; empty outside of SLURM."""
    if environment.get("SLURM_ARRAY_JOB_ID") and environment.get("SLURM_ARRAY_TASK_ID"):
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "")


def num_restarts(environment: Environment = os.environ) -> int:
    """How often SLURM has restarted this job, with the jobs before it that were resubmitted."""
    return _number(environment, "DISTMLP_RESTARTS") + _number(environment, "SLURM_RESTART_COUNT")


def threads_of_a_task(world: World, environment: Environment = os.environ) -> int | None:
    """Threads for each process that srun started; None where somebody else decides."""
    if world.launcher != "srun" or "OMP_NUM_THREADS" in environment:
        return None
    on_node = _number(environment, "SLURM_CPUS_ON_NODE")
    return _number(environment, "SLURM_CPUS_PER_TASK") or max(1, on_node // world.local_world_size)


@dataclass(frozen=True)
class MeetingPoint:
    """Where the ranks of a run find each other.

    Args:
        host: name or address of the machine of rank 0.
        port: of the store there; 0: rank 0 takes a free one, and the others ask for it by ``key``.
        key: tells this start of the run from all else that runs on these machines.
        is_open: the launcher keeps a store there already.
        hosts: of the ranks in their order, one for each node, as far as the launcher says.
    """

    host: str
    port: int
    key: str
    is_open: bool = False
    hosts: tuple[str, ...] = ()


def meeting_point(world: World, environment: Environment = os.environ) -> MeetingPoint:
    """Where the ranks of ``world`` meet.

    Raises:
        ConfigError: nothing says where rank 0 is.
    """
    host, port = environment.get("MASTER_ADDR", ""), _number(environment, "MASTER_PORT")
    slurm = [environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    hosts = tuple(expand_hosts(environment.get("SLURM_STEP_NODELIST", ""))) if world.launcher == "srun" else ()
    if world.launcher == "torchrun":
        key = f"{environment['TORCHELASTIC_RUN_ID']}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        return MeetingPoint(host, port, key, environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True")
    if world.launcher == "srun":
        return MeetingPoint(host or hosts[0], port if host else 0, "srun-" + "-".join(slurm), hosts=hosts)
    if world.launcher == "mpirun" and not host:
        name = environment.get("PMIX_NAMESPACE", f"{os.getppid()}" if world.num_nodes == 1 else "-".join(slurm))
        of_job = expand_hosts(environment.get("SLURM_JOB_NODELIST", ""))
        if world.num_nodes == 1 or of_job:
            return MeetingPoint("127.0.0.1" if world.num_nodes == 1 else of_job[0], 0, f"mpirun-{name}")
    if not host or not port:
        raise ConfigError(
            f"{world.describe(environment)}, but MASTER_ADDR={host or '(unset)'} and MASTER_PORT={port or '(unset)'}: "
            "set both for all ranks, to the host of rank 0 and a free port there"
        )
    return MeetingPoint(host, port, world.launcher)


def check_world(world: World, *, nodes: int | Literal["auto"], devices: int | Literal["auto"]) -> None:
    """Ends with a `ConfigError` where the configuration and the launcher disagree; both numbers are named."""
    if nodes != "auto" and devices != "auto" and nodes * devices != world.world_size:
        variable = {"srun": "SLURM_NTASKS", "mpirun": "the number of MPI processes"}.get(world.launcher, "WORLD_SIZE")
        raise ConfigError(
            f"trainer.nodes={nodes} × trainer.devices={devices} = {nodes * devices}, but {variable}="
            f"{world.world_size}: {_right_command(world, nodes, devices)}"
        )
    if nodes not in ("auto", world.num_nodes):
        raise ConfigError(f"trainer.nodes={nodes}, but the launcher started {world.num_nodes} node(s)")
    if devices not in ("auto", world.local_world_size):
        raise ConfigError(
            f"trainer.devices={devices}, but {world.local_world_size} process(es) were started on this node: "
            f"{_right_command(world, nodes, devices)}"
        )


def _right_command(world: World, nodes: int | Literal["auto"], devices: int | Literal["auto"]) -> str:
    if world.launcher == "srun":
        return f"use srun --nodes={world.num_nodes if nodes == 'auto' else nodes} --ntasks-per-node={devices}"
    if nodes in ("auto", 1):
        return f"use torchrun --standalone --nproc-per-node={devices} -m distmlp train …"
    return f"use torchrun --nnodes={nodes} --nproc-per-node={devices} … -m distmlp train … on each node"


def check_split_size(world: World, num_samples: int) -> None:
    """Ends with a `ConfigError` where a split has too few samples for every rank to take one."""
    if num_samples < world.world_size:
        raise ConfigError(f"the smallest split has {num_samples} sample(s), fewer than WORLD_SIZE={world.world_size}")
