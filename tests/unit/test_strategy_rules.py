"""What a strategy cannot do ends with one line that says why and what can; degrees multiply to the world size."""

import pytest

from distmlp.compose import compose
from distmlp.errors import ConfigError
from distmlp.runtime import World
from distmlp.strategy_rules import check_strategy, data_world, group_size, hsdp_sizes, tensor_sizes

EIGHT = World(rank=5, world_size=8, local_rank=1, local_world_size=4)
GPT = ("model=gpt", "data=synthetic_tokens")


def check(*words: str, world: World = EIGHT, device_type: str = "cpu") -> None:
    check_strategy(compose(list(words)).config, world, device_type)


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=ddp",),
        ("strategy=hsdp",),
        ("strategy=tensor_parallel",),
        ("strategy=tensor_parallel", *GPT, "model.num_heads=4"),
        ("strategy=ddp", "precision=fp8"),
        ("strategy=fsdp2", "trainer.micro_batch_size=auto", "trainer.ema_decay=0.99", "precision=fp8"),
        ("strategy=ddp_powersgd", "trainer.micro_batch_size=auto"),
        ("strategy=ddp_localsgd", "trainer.micro_batch_size=auto"),
        ("strategy=tensor_parallel", "trainer.micro_batch_size=auto"),
    ],
)
def test_what_works_passes(words: tuple[str, ...]) -> None:
    check(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("strategy=single",), r"^strategy=single is one process, but WORLD_SIZE=8: use strategy=ddp$"),
        (
            ("strategy=hsdp", "strategy.shard_size=3"),
            r"^strategy\.replicate_size=2 times strategy\.shard_size=3 is 6, and the world size is 8: the two must "
            r"multiply to it; strategy\.shard_size may be one of 1, 2, 4, 8, or use strategy=fsdp2$",
        ),
        (
            ("strategy=hsdp", "strategy.shard_size=4", "strategy.replicate_size=4"),
            r"^strategy\.replicate_size=4 times strategy\.shard_size=4 is 16, and the world size is 8",
        ),
        (
            ("strategy=tensor_parallel", "strategy.tensor_size=16"),
            r"^strategy\.data_size=1 times strategy\.tensor_size=16 is 16, and the world size is 8",
        ),
        (
            ("strategy=tensor_parallel", *GPT, "model.num_heads=6", "model.width=48"),
            r"^model\.num_heads=6 is not divisible by strategy\.tensor_size=4: .* or use strategy=fsdp2$",
        ),
        (
            ("strategy=tensor_parallel", *GPT, "model.num_heads=4", "model.num_kv_heads=2"),
            r"^model\.num_kv_heads=2 is not divisible by strategy\.tensor_size=4",
        ),
        (
            ("strategy=tensor_parallel", "model.hidden=[64,30]"),
            r"^model\.hidden holds 30, which strategy\.tensor_size=4 does not divide",
        ),
        (
            ("strategy=tensor_parallel", "model=cnn", "data=mnist"),
            r"^strategy=tensor_parallel has no plan to split model=cnn: it splits mlp, gpt, bert, vit; use "
            r"strategy=fsdp2$",
        ),
        (
            ("strategy=ddp_localsgd", "strategy.group_size=3"),
            r"^strategy\.group_size=3 does not divide the world size 8: use one of 1, 2, 4, 8$",
        ),
        (
            ("strategy=ddp_localsgd", "trainer.ema_decay=0.9"),
            r"^trainer\.ema_decay does not work with .* use strategy=ddp$",
        ),
        (
            ("strategy=ddp_bf16_compress", "precision=fp8"),
            r"^precision=fp8 does not work with strategy=ddp_bf16_compress: use strategy=ddp or fsdp2$",
        ),
    ],
)
def test_what_a_strategy_cannot_do_is_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check(*words)
    assert "\n" not in str(raised.value)


def test_apple_gpus_train_alone() -> None:
    with pytest.raises(ConfigError, match=r"^strategy=ddp needs a CPU or NVIDIA GPUs: on mps use strategy=single$"):
        check("strategy=ddp", world=World(0, 1, 0, 1), device_type="mps")


def test_sizes_that_are_auto_follow_the_nodes() -> None:
    def strategy(*words: str) -> object:
        return compose(list(words)).config.strategy

    assert hsdp_sizes(strategy("strategy=hsdp"), EIGHT) == (2, 4)  # type: ignore[arg-type]
    assert hsdp_sizes(strategy("strategy=hsdp", "strategy.replicate_size=4"), EIGHT) == (4, 2)  # type: ignore[arg-type]
    assert tensor_sizes(strategy("strategy=tensor_parallel", "strategy.tensor_size=2"), EIGHT) == (4, 2)  # type: ignore[arg-type]
    assert group_size(strategy("strategy=ddp_localsgd"), EIGHT) == 4  # type: ignore[arg-type]


def test_ranks_that_split_a_layer_hold_the_same_samples() -> None:
    config = compose(["strategy=tensor_parallel", "strategy.tensor_size=2"]).config
    worlds = [data_world(config, World(rank, 4, rank, 4)) for rank in range(4)]
    assert [world.rank for world in worlds] == [0, 0, 1, 1]
    assert {world.world_size for world in worlds} == {2}
    assert data_world(compose(["strategy=ddp"]).config, EIGHT) == EIGHT
