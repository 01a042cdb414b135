"""How many processes a command without a launcher becomes, and how they share the machine's cores."""

import os
from typing import Literal

from distmlp.errors import ConfigError


def num_processes(
    *, devices: int | Literal["auto"], nodes: int | Literal["auto"], strategy: str, kind: str, num_gpus: int
) -> int:
    """Processes to run on this machine: those asked for, or with ``auto`` one for each visible GPU.

    Args:
        kind: what they run on, ``cuda``, ``mps`` or ``cpu``. A CPU is one device, however many cores it has.
        num_gpus: GPUs that torch sees here.

    Raises:
        ConfigError: the machine has fewer devices, or more machines are asked for than this one.
    """
    if nodes not in ("auto", 1):
        raise ConfigError(
            f"trainer.nodes={nodes}, but this command runs on one: start "
            f"torchrun --nnodes={nodes} --nproc-per-node=… -m distmlp train … on each node"
        )
    if devices == "auto":
        return num_gpus if kind == "cuda" and strategy != "single" else 1
    if kind == "cuda" and devices > num_gpus:
        raise ConfigError(f"trainer.devices={devices}, but torch sees {num_gpus} GPU(s) here")
    if kind == "mps" and devices > 1:
        raise ConfigError(f"trainer.devices={devices}, but an Apple GPU is one device: add trainer.accelerator=cpu")
    return devices


def threads_for_each(num_ranks: int) -> int:
    """Threads for each rank, so that together they have one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_ranks)
