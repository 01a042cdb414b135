"""How many ranks a job has: nodes times devices, from the trainer's keys and the cluster's, which must agree."""

from dataclasses import dataclass

from distmlp.config import Config
from distmlp.errors import ConfigError
from distmlp.runtime import World
from distmlp.schema.cluster import SlurmCluster
from distmlp.strategy_rules import data_world


@dataclass(frozen=True)
class Plan:
    """The ranks of a job. ``kind``: what they compute on, ``cuda`` or ``cpu``."""

    nodes: int
    ranks_per_node: int
    kind: str

    @property
    def world(self) -> World:
        """As rank 0 will see it."""
        return World(0, self.nodes * self.ranks_per_node, 0, self.ranks_per_node)

    def describe(self) -> str:
        return f"{self.nodes} node(s) with {self.ranks_per_node} rank(s) each on {self.kind}"


def plan_ranks(config: Config, cluster: SlurmCluster) -> Plan:
    """The plan of ``config`` on ``cluster``.

    Raises:
        ConfigError: two numbers disagree, or nothing says how many GPUs a node gives.
    """
    nodes = _agreed(("trainer.nodes", config.trainer.nodes), ("cluster.nodes", cluster.nodes)) or 1
    accelerator, gpus = config.trainer.accelerator, cluster.gpus_per_node
    if accelerator == "mps":
        raise ConfigError("trainer.accelerator=mps is for Apple's machines: with cluster=slurm use gpu or cpu")
    if accelerator == "cpu" and gpus:
        raise ConfigError(f"trainer.accelerator=cpu, but cluster.gpus_per_node={gpus}: leave out one of the two")
    if accelerator != "gpu" and not gpus:
        return Plan(nodes, _agreed(("trainer.devices", config.trainer.devices)) or 1, "cpu")
    devices = _agreed(("trainer.devices", config.trainer.devices), ("cluster.gpus_per_node", gpus or "auto"))
    if devices is None:
        raise ConfigError("trainer.accelerator=gpu: say how many a node gives, cluster.gpus_per_node=…")
    return Plan(nodes, devices, "cuda")


def check_batch(config: Config, world: World) -> None:
    """Ends with a `ConfigError` where ranks would have no sample of a batch."""
    ranks, batch = data_world(config, world).world_size, config.data.global_batch_size
    if ranks > batch:
        raise ConfigError(
            f"{ranks} ranks that hold different samples, but data.global_batch_size={batch}: some would have none in "
            "any step; use fewer ranks or a larger batch"
        )


def _agreed(*given: tuple[str, int | str]) -> int | None:
    numbers = [(key, value) for key, value in given if isinstance(value, int)]
    if len({value for _, value in numbers}) > 1:
        both = " and ".join(f"{key}={value}" for key, value in numbers)
        raise ConfigError(f"{both} disagree: give one of them, or the same number")
    return numbers[0][1] if numbers else None
