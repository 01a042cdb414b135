"""trainer.ema_decay: the average is the same however the weights are sharded, in evaluations and in checkpoints."""

import pytest
from parity.cases import COMMON, STRATEGIES, VECTORS
from parity.compare import difference
from parity.ranks import Outcome, Ranks

RUN = f"{COMMON} {VECTORS} model=mlp model.hidden=[24,24] model.activation=gelu optimizer=adamw trainer.ema_decay=0.9"


def trained(ranks: Ranks, name: str) -> Outcome:
    return ranks.run(f"average-{name}", f"{RUN} {STRATEGIES[name]}".split(), 2)


@pytest.fixture(scope="module")
def replicated(ranks: Ranks) -> Outcome:
    return trained(ranks, "ddp")


@pytest.mark.parametrize("name", ["fsdp2", "deepspeed_zero1", "deepspeed_zero3"])
def test_the_average_is_that_of_replicas(name: str, ranks: Ranks, replicated: Outcome) -> None:
    sharded = trained(ranks, name)
    found = difference(sharded, replicated)
    assert found.loss <= 2e-6
    assert found.weights <= 1e-6
    ours, theirs = sharded.evaluations, replicated.evaluations
    assert len(ours) == len(theirs) >= 3
    assert max(abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True) for name in a) <= 2e-6
    averages = [run.tensors()["average"] for run in (sharded, replicated)]
    assert max(float((averages[0][name] - value).abs().max()) for name, value in averages[1].items()) <= 1e-6
