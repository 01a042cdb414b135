"""What this process computes on: the kind of device, which one of several, and their names."""

from distmlp.errors import ConfigError
from distmlp.runtime import World

BINDING_LAUNCHERS = ("srun", "mpirun")  # may give each process a view of its own GPU alone


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


def check_gpus(world: World, num_visible: int) -> None:
    """Ends with a `ConfigError` where the processes of a node see too few GPUs, ``num_visible``, for one each.

    One GPU each is enough where the launcher may have bound it to the process, as ``srun --gpus-per-task=1`` does.
    """
    is_bound = num_visible == 1 and world.launcher in BINDING_LAUNCHERS
    if num_visible < world.local_world_size and not is_bound:
        raise ConfigError(
            f"{world.local_world_size} processes on this node, but torch sees {num_visible} GPU(s): start one process "
            "for each GPU, or use trainer.accelerator=cpu"
        )


def gpu_index(world: World, num_visible: int) -> int:
    """Which of the GPUs that it sees is this process's."""
    return world.local_rank if num_visible >= world.local_world_size else 0


def device_names(kind: str) -> list[str]:
    """Names of this process's devices of a ``kind`` (cuda, mps, cpu), for the record."""
    import platform

    import torch

    if kind == "cuda":
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [f"{kind}: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"]
