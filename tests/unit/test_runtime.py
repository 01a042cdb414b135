"""Rank and world size come from torchrun's variables, all of them or none, and what contradicts is named."""

import pytest

from distmlp.errors import ConfigError
from distmlp.runtime import World, check_split_size, check_world, discover, has_launcher, speaks_for_all


def torchrun(rank: object, world_size: object, local_rank: object, local_world_size: object) -> dict[str, str]:
    keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return dict(zip(keys, map(str, (rank, world_size, local_rank, local_world_size)), strict=True))


def test_without_a_launcher_the_world_is_this_process() -> None:
    assert discover({}) == World(0, 1, 0, 1)
    assert discover({"HOME": "/root", "MASTER_ADDR": "x", "SLURM_JOB_ID": "3"}) == World(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("given", "num_nodes"),
    [((0, 1, 0, 1), 1), ((3, 4, 3, 4), 1), ((5, 8, 1, 4), 2), ((2, 3, 0, 1), 3)],
)
def test_torchrun_s_variables_are_the_world(given: tuple[int, int, int, int], num_nodes: int) -> None:
    world = discover(torchrun(*given))
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == given
    assert world.num_nodes == num_nodes


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_a_missing_variable_is_named(missing: str) -> None:
    environment = torchrun(0, 2, 0, 2)
    del environment[missing]
    first = next(iter(environment))
    message = f"^{first} is set and {missing} is not: start ranks with torchrun, or unset {first}$"
    with pytest.raises(ConfigError, match=message):
        discover(environment)


@pytest.mark.parametrize("value", ["", "two", "1.5", "0x1"])
def test_a_variable_that_is_no_number_is_named_with_all(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"must be whole numbers, they are RANK=0, WORLD_SIZE={value}, LOCAL_RANK=0"):
        discover(torchrun(0, value, 0, 1))


@pytest.mark.parametrize(
    "given", [(2, 2, 0, 2), (-1, 2, 0, 2), (0, 2, 2, 2), (0, 2, -1, 2), (0, 0, 0, 0), (0, -2, 0, 1)]
)
def test_ranks_outside_their_world_contradict(given: tuple[int, int, int, int]) -> None:
    message = (
        f"^RANK={given[0]} of WORLD_SIZE={given[1]} and LOCAL_RANK={given[2]} of LOCAL_WORLD_SIZE={given[3]} "
        "contradict each other: ranks count from 0$"
    )
    with pytest.raises(ConfigError, match=message):
        discover(torchrun(*given))


def test_nodes_with_unequal_numbers_of_processes_are_refused() -> None:
    message = "^WORLD_SIZE=5 is no multiple of LOCAL_WORLD_SIZE=2: give every node the same --nproc-per-node$"
    with pytest.raises(ConfigError, match=message):
        discover(torchrun(4, 5, 0, 2))


def test_srun_without_torchrun_is_refused_and_with_it_is_not() -> None:
    slurm = {"SLURM_STEP_NUM_TASKS": "4"}
    with pytest.raises(ConfigError, match=r"^srun started 4 separate processes: start one task a node with torchrun"):
        discover(slurm)
    assert discover(slurm | torchrun(1, 4, 1, 2)) == World(1, 4, 1, 2)
    for tasks in ("1", "0", "", "many"):
        assert discover({"SLURM_STEP_NUM_TASKS": tasks}) == World(0, 1, 0, 1)


EIGHT = World(rank=5, world_size=8, local_rank=1, local_world_size=4)


def test_a_configuration_that_agrees_with_the_launcher_passes() -> None:
    check_world(EIGHT, nodes=2, devices=4)
    check_world(EIGHT, nodes="auto", devices="auto")
    check_world(World(0, 1, 0, 1), nodes=1, devices=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 3}, r"^trainer\.nodes=3, but the launcher started 2 node\(s\)$"),
        (
            {"devices": 8},
            r"^trainer\.devices=8, but 4 process\(es\) were started on this node: "
            r"use torchrun --standalone --nproc-per-node=8 ",
        ),
    ],
)
def test_what_disagrees_with_the_launcher_is_named_with_both_numbers(options: dict[str, object], message: str) -> None:
    agreeing: dict[str, object] = {"nodes": "auto", "devices": "auto"}
    with pytest.raises(ConfigError, match=message):
        check_world(EIGHT, **(agreeing | options))  # type: ignore[arg-type]


def test_every_rank_needs_a_sample_of_every_split() -> None:
    check_split_size(EIGHT, 8)
    with pytest.raises(ConfigError, match=r"^the smallest split has 7 sample\(s\), fewer than WORLD_SIZE=8$"):
        check_split_size(EIGHT, 7)


def test_a_launcher_is_known_by_any_of_its_variables() -> None:
    assert not has_launcher({"MASTER_ADDR": "x"})
    assert has_launcher(torchrun(0, 1, 0, 1))
    assert has_launcher({"LOCAL_RANK": "0"})


def test_the_first_rank_that_asks_tells_of_a_mistake() -> None:
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    assert [speaks_for_all(agent | {"RANK": rank}) for rank in ("1", "0", "2")] == [True, False, False]
    # Without an agent it is rank 0.
    assert speaks_for_all({})
    assert [speaks_for_all({"RANK": rank}) for rank in ("0", "1")] == [True, False]
    assert not speaks_for_all({"TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": "1"})
