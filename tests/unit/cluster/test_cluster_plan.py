"""Nodes times devices, from the trainer's keys and the cluster's; what disagrees is named with both numbers."""

import pytest

from distmlp.cluster.plan import Plan, check_batch, plan_ranks
from distmlp.compose import compose
from distmlp.errors import ConfigError
from distmlp.runtime import World
from distmlp.schema.cluster import SlurmCluster


def planned(*words: str) -> Plan:
    config = compose(["cluster=slurm", *words]).config
    assert isinstance(config.cluster, SlurmCluster)
    return plan_ranks(config, config.cluster)


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ([], Plan(1, 1, "cpu")),
        (["trainer.nodes=2", "trainer.devices=3"], Plan(2, 3, "cpu")),
        (["cluster.nodes=2", "trainer.nodes=2"], Plan(2, 1, "cpu")),
        (["cluster.gpus_per_node=8"], Plan(1, 8, "cuda")),
        (["cluster.gpus_per_node=8", "trainer.devices=8", "cluster.nodes=4"], Plan(4, 8, "cuda")),
        (["trainer.accelerator=gpu", "trainer.devices=2"], Plan(1, 2, "cuda")),
        (["trainer.accelerator=cpu", "trainer.devices=2"], Plan(1, 2, "cpu")),
    ],
)
def test_the_plan_follows_from_both_groups(words: list[str], plan: Plan) -> None:
    assert planned(*words) == plan
    assert plan.world == World(0, plan.nodes * plan.ranks_per_node, 0, plan.ranks_per_node)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.nodes=3", "cluster.nodes=2"], r"^trainer\.nodes=3 and cluster\.nodes=2 disagree"),
        (
            ["trainer.devices=3", "cluster.gpus_per_node=2"],
            r"^trainer\.devices=3 and cluster\.gpus_per_node=2 disagree",
        ),
        (["trainer.accelerator=cpu", "cluster.gpus_per_node=2"], r"=cpu, but cluster\.gpus_per_node=2"),
        (["trainer.accelerator=gpu"], r"^trainer\.accelerator=gpu: say how many a node gives, cluster\.gpus_per_node"),
        (["trainer.accelerator=mps"], r"^trainer\.accelerator=mps is for Apple's machines"),
    ],
)
def test_what_disagrees_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(*words)


def test_more_ranks_than_samples_in_a_batch_are_refused_with_both_numbers() -> None:
    config = compose(["data.global_batch_size=4"]).config
    check_batch(config, World(0, 4, 0, 2))
    with pytest.raises(ConfigError, match=r"^6 ranks .*, but data\.global_batch_size=4"):
        check_batch(config, World(0, 6, 0, 2))


def test_ranks_that_split_layers_count_once() -> None:
    config = compose(["data.global_batch_size=4", "strategy=tensor_parallel", "strategy.tensor_size=2"]).config
    check_batch(config, World(0, 8, 0, 2))
