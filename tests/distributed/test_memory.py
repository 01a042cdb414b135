"""What sharding is for: how many bytes of weights, gradients and optimizer states a rank holds, as it says itself.

Measured after a backward pass, of tensors that are really there. AdamW keeps two values for a weight.
"""

import pytest
from parity.cases import COMMON, GROUP, STRATEGIES
from parity.ranks import Ranks

INPUTS, WIDTH, CLASSES = 384, 384, 12  # every size is a multiple of 2, 3 and 4: shards are equal
FIRST, SECOND, OUTPUT = (INPUTS + 1) * WIDTH, (WIDTH + 1) * WIDTH, (WIDTH + 1) * CLASSES
WHOLE = 4 * (FIRST + SECOND + OUTPUT)  # bytes of all weights
NUM_PARAMETERS = 6
RUN = f"""{COMMON} trainer.max_steps=2 optimizer=adamw model=mlp model.hidden=[{WIDTH},{WIDTH}]
    data=synthetic data.num_samples=300 data.input_shape=[{INPUTS}] data.num_classes={CLASSES}"""
# Weights, gradients and optimizer states on a rank, as parts of all weights.
HELD = {
    ("ddp", 2): (1, 1, 2),
    ("fsdp2", 2): (1 / 2, 1 / 2, 1),
    ("hsdp", 4): (1 / 2, 1 / 2, 1),
}
SLACK = 1.1  # padding, counts of steps, small parameters that are kept whole


def held(ranks: Ranks, name: str, world_size: int, *words: str) -> list[dict[str, int]]:
    strategy = STRATEGIES[name].format(group=GROUP[world_size])
    run = f"held-{world_size}-{name}-{len(words)}"
    return ranks.run(run, [*RUN.split(), *strategy.split(), *words], world_size).held_bytes


@pytest.mark.parametrize(("name", "world_size"), HELD)
def test_a_rank_holds_its_part(name: str, world_size: int, ranks: Ranks) -> None:
    for rank in held(ranks, name, world_size):
        for kind, part in zip(("weights", "gradients", "optimizer"), HELD[name, world_size], strict=True):
            assert part * WHOLE <= rank[kind] <= SLACK * part * WHOLE, kind


def test_tensor_parallelism_splits_pairs_of_layers_and_shards_all_over_the_rest(ranks: Ranks) -> None:
    data_size, tensor_size = 2, GROUP[4]
    split = FIRST + WIDTH * WIDTH  # by columns with its biases, then by rows
    expected = 4 * (split / tensor_size + WIDTH + OUTPUT) / data_size
    for rank in held(ranks, "tensor_parallel", 4):
        assert rank["weights"] == rank["gradients"] == expected
        assert rank["optimizer"] == 2 * expected + 4 * NUM_PARAMETERS


def test_sizes_that_ranks_do_not_divide_are_held_once_and_little_more(ranks: Ranks) -> None:
    width = 50
    whole = 4 * ((INPUTS + 1) * width + (width + 1) * width + (width + 1) * CLASSES)
    parts = held(ranks, "fsdp2", 3, f"model.hidden=[{width},{width}]")
    for kind in ("weights", "gradients"):
        assert whole <= sum(rank[kind] for rank in parts)
        assert max(rank[kind] for rank in parts) < 1.1 * whole / 3  # padded to equal shards
