"""Who this process is: rank and world size, read from the launcher's environment here and nowhere else.

Ranks come from torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`). Without a launcher the world is this
one process.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from distmlp.errors import ConfigError

TORCHRUN_KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def speaks_for_all(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process tells the user of a mistake that others may find too: the first rank that asks does.

    It asks the store of torchrun's agent, since a rank other than 0 may be the only one that finds it.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
        with suppress(RuntimeError, ValueError):  # no store, or no longer
            store = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False)
            return bool(store.add("distmlp/mistakes_told", 1) == 1)
    return environment.get("RANK", "0") == "0"


def has_launcher(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody started this process as a rank."""
    return any(key in environment for key in TORCHRUN_KEYS)


@dataclass(frozen=True)
class World:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def num_nodes(self) -> int:
        return self.world_size // self.local_world_size


def discover(environment: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher describes in ``environment``.

    Raises:
        ConfigError: torchrun's variables are incomplete, not numbers, or contradict each other, or srun started several
            processes without torchrun.
    """
    given = [key for key in TORCHRUN_KEYS if key in environment]
    if not given:
        _refuse_bare_srun(environment)
        return World(0, 1, 0, 1)
    missing = [key for key in TORCHRUN_KEYS if key not in environment]
    if missing:
        raise ConfigError(f"{given[0]} is set and {missing[0]} is not: start ranks with torchrun, or unset {given[0]}")
    try:
        world = World(*(int(environment[key]) for key in TORCHRUN_KEYS))
    except ValueError:
        values = ", ".join(f"{key}={environment[key]}" for key in TORCHRUN_KEYS)
        raise ConfigError(f"the launcher's variables must be whole numbers, they are {values}") from None
    if not (0 <= world.rank < world.world_size and 0 <= world.local_rank < world.local_world_size):
        raise ConfigError(
            f"RANK={world.rank} of WORLD_SIZE={world.world_size} and LOCAL_RANK={world.local_rank} of "
            f"LOCAL_WORLD_SIZE={world.local_world_size} contradict each other: ranks count from 0"
        )
    if world.world_size % world.local_world_size:
        raise ConfigError(
            f"WORLD_SIZE={world.world_size} is no multiple of LOCAL_WORLD_SIZE={world.local_world_size}: "
            "give every node the same --nproc-per-node"
        )
    return world


def _refuse_bare_srun(environment: Mapping[str, str]) -> None:
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdecimal() and int(tasks) > 1:
        raise ConfigError(
            f"srun started {tasks} separate processes: start one task a node with torchrun inside, "
            "srun --ntasks-per-node=1 torchrun --nnodes=… --nproc-per-node=… -m distmlp train …"
        )


def check_world(world: World, *, nodes: int | Literal["auto"], devices: int | Literal["auto"]) -> None:
    """Ends with a `ConfigError` where the configuration and the launcher disagree; both numbers are named."""
    if nodes not in ("auto", world.num_nodes):
        raise ConfigError(f"trainer.nodes={nodes}, but the launcher started {world.num_nodes} node(s)")
    if devices not in ("auto", world.local_world_size):
        raise ConfigError(
            f"trainer.devices={devices}, but {world.local_world_size} process(es) were started on this node: "
            f"use torchrun --standalone --nproc-per-node={devices} -m distmlp train …"
        )


def check_split_size(world: World, num_samples: int) -> None:
    """Ends with a `ConfigError` where a split has too few samples for every rank to take one."""
    if num_samples < world.world_size:
        raise ConfigError(f"the smallest split has {num_samples} sample(s), fewer than WORLD_SIZE={world.world_size}")


def device_type(accelerator: str) -> str:
    """``cuda``, ``mps`` or ``cpu``.

    Raises:
        ConfigError: the accelerator is not there; it is never replaced quietly.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU here: use trainer.accelerator=cpu or auto")
    if accelerator == "mps" and not has_mps:
        raise ConfigError("trainer.accelerator=mps, but torch sees no Apple GPU: use trainer.accelerator=cpu or auto")
    return {"gpu": "cuda", "mps": "mps", "cpu": "cpu"}[accelerator]


def device_names(kind: str) -> list[str]:
    """Names of this process's devices of a ``kind`` (cuda, mps, cpu), for the record."""
    import platform

    import torch

    if kind == "cuda":
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [f"{kind}: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"]
