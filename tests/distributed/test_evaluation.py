"""Evaluation on several ranks gives the metrics of one process: every sample counts once.

The weights are the first ones, practically: one step with a learning rate near 0, so that nothing else can differ.
"""

from pathlib import Path

import pytest
from parity.cases import COMMON, DOCUMENTS, GROUP, STRATEGIES, TRANSFORMER
from parity.ranks import Outcome, Ranks

STEP = "trainer.max_steps=1 optimizer=sgd optimizer.lr=1e-12"
# 10 samples to validate and 21 to test on, one in a batch: some ranks have no sample left when others have one.
VECTORS = """data=synthetic data.num_samples=103 trainer.micro_batch_size=1 data.input_shape=[24] data.num_classes=12
    data.global_batch_size=50 model.hidden=[24,24]"""
NETWORKS = {
    "mlp": f"{COMMON} {VECTORS} {STEP}",
    "gpt_documents": f"{COMMON} model=gpt {TRANSFORMER} {DOCUMENTS} {STEP}",
}
CASES = [
    (3, "fsdp2", "mlp"),
    (4, "tensor_parallel", "mlp"),
    (3, "ddp", "gpt_documents"),
]


@pytest.fixture(scope="session")
def one_process(ranks: Ranks, documents: Path) -> dict[str, Outcome]:
    """The outcome of each network in one process."""
    return {network: evaluated(ranks, documents, 1, "single", network) for network in NETWORKS}


def evaluated(ranks: Ranks, documents: Path, world_size: int, strategy: str, network: str) -> Outcome:
    words = f"{NETWORKS[network]} {STRATEGIES[strategy]}".format(documents=documents, group=GROUP[world_size])
    return ranks.run(f"evaluation-{world_size}-{strategy}-{network}", words.split(), world_size)


@pytest.mark.parametrize(("world_size", "strategy", "network"), CASES)
def test_metrics_are_those_of_one_process(
    world_size: int, strategy: str, network: str, ranks: Ranks, documents: Path, one_process: dict[str, Outcome]
) -> None:
    ours, theirs = evaluated(ranks, documents, world_size, strategy, network), one_process[network]
    assert [sorted(metrics) for metrics in ours.evaluations] == [sorted(metrics) for metrics in theirs.evaluations]
    for mine, reference in zip(ours.evaluations, theirs.evaluations, strict=True):
        for name, value in reference.items():
            if name.endswith("/accuracy") and network == "mlp":  # a count of samples; of tokens it is a mean of means
                assert mine[name] == value, name
            else:
                assert mine[name] == pytest.approx(value, rel=1e-6), name
