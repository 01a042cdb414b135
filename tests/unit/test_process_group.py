"""What ranks agree on before they train, with real ranks on gloo."""

import subprocess
import sys
from pathlib import Path

import pytest

from distmlp.errors import ConfigError
from distmlp.process_group import (
    check_same_configuration,
    form_process_group,
    from_rank_zero,
    leave_process_group,
)
from distmlp.runtime import World

ALONE = World(0, 1, 0, 1)

RANK = """
import sys
from distmlp.errors import ConfigError
from distmlp.process_group import check_same_configuration, form_process_group, from_rank_zero
from distmlp.runtime import World
import torch.distributed as dist

rank, file = int(sys.argv[1]), sys.argv[2]
world = World(rank, 2, rank, 2)
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)

def refuse():
    raise ConfigError("runs/x exists")

print(from_rank_zero(world, lambda: f"made by {rank}"))
for values in ({"optimizer": {"lr": 0.1}}, {"optimizer": {"lr": 0.1 + rank}}, {"own": 1} if rank else {}):
    try:
        check_same_configuration(world, values)
        print("same")
    except ConfigError as error:
        print(error)
try:
    from_rank_zero(world, refuse)
except ConfigError as error:
    print(error)
dist.destroy_process_group()
"""


def test_one_process_forms_a_group_of_its_own() -> None:
    import torch.distributed

    form_process_group(ALONE, "gloo")
    assert torch.distributed.get_world_size() == 1
    leave_process_group()
    assert not torch.distributed.is_initialized()
    leave_process_group()


def test_one_process_alone_agrees_with_itself() -> None:
    assert from_rank_zero(ALONE, lambda: "runs/x") == "runs/x"
    check_same_configuration(ALONE, {"seed": 1})

    def refuse() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        from_rank_zero(ALONE, refuse)


def test_both_ranks_hear_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    heard = [rank.communicate(timeout=100)[0].splitlines() for rank in ranks]
    assert heard[0] == heard[1]
    assert heard[0] == [
        "made by 0",
        "same",
        "rank 1 has optimizer.lr=1.1, which is 0.1 on rank 0: start every rank with the same words and files",
        "rank 1 has own=1, which is (absent) on rank 0: start every rank with the same words and files",
        "runs/x exists",
    ]
