"""Ranks of the tests of what lies on a disk: `run_shards.py`, with all there that can be, few as the weights are."""

from typing import Any

import run_shards

from distmlp.strategy import deepspeed_config
from distmlp.strategy.deepspeed_disk import flat_is_on_disk, partition_is_on_disk

START = run_shards.start


def start(*arguments: Any, **words: Any) -> run_shards.Run:
    """A new run of which both large matrices lie on the disk, where it is spread."""
    run = START(*arguments, **words)
    if not hasattr(run.strategy, "engine"):
        return run
    parameters = list(run.strategy.network.parameters())
    assert [partition_is_on_disk(parameter) for parameter in parameters] == [p.ds_numel > 10**6 for p in parameters]
    assert flat_is_on_disk(run.strategy.sharded, 0)
    return run


if __name__ == "__main__":
    deepspeed_config.WEIGHTS_IN_MEMORY = 0
    run_shards.start = start
    run_shards.main()
