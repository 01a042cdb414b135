"""A rank of the tests of DeepSpeed: trains one case after the other in one process, and writes what it finds.

Started by torchrun as ``run_deepspeed.py CASES FOLDER``. A case is ``{"name", "words"}``; what rank 0 finds of it lies
in ``FOLDER/<name>.json``, and the weights in ``FOLDER/<name>.safetensors``.
"""

import gc
import io
import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.console import Console
from safetensors.torch import save_file
from torch.nn import functional

from distmlp import build
from distmlp.compose import compose
from distmlp.process_group import form_process_group, leave_process_group
from distmlp.runtime import discover

SMALL = (
    "data=synthetic data.num_samples=120 data.input_shape=[8] data.num_classes=4 data.global_batch_size=31 "
    "model.hidden=[16,16] trainer.max_steps=6 trainer.max_epochs=null trainer.log_every_steps=1 "
    "trainer.accelerator=cpu trainer.progress=false tracking=none"
).split()
WORLD = discover()
LINEAR = functional.linear


def train(words: list[str], folder: Path) -> tuple[Any, dict[str, torch.Tensor], list[float]]:
    """The strategy after training, all weights, and the loss of each step."""
    composed = compose([*SMALL, *words])
    config = composed.config
    data = build.build_data(config)
    torch.manual_seed(config.seed)
    network = build.build_network(config, data)
    strategy: Any = build.build_strategy(config, config.strategy, WORLD, "cpu")
    module = build.build_module(config, data, network, WORLD)
    made = build.build_run(
        config,
        data,
        strategy,
        WORLD,
        strategy_name=config.strategy.name,
        run_folder=folder,
        attempt="test",
        reader=None,
        values=composed.values,
        console=Console(file=io.StringIO()),
    )
    made.trainer.fit(
        module,
        build.train_loader(config, data, WORLD),
        build.evaluation_loader(config, data, WORLD, "validation"),
    )
    weights = {name: weight.clone() for name, weight in strategy.full_weights().items()}
    lines = (folder / "metrics.jsonl").read_text().splitlines() if WORLD.rank == 0 else []
    return strategy, weights, [line["train/loss"] for line in map(json.loads, lines) if "train/loss" in line]


def inspect(strategy: Any) -> dict[str, Any]:
    """What becomes of the weights when their shards are halved, and what is left in the process after `close`."""
    before = {name: weight.clone() for name, weight in strategy.full_weights().items()}
    for shard in strategy.local_master_weights():
        shard.mul_(0.5)
    strategy.publish_master_weights()
    with torch.no_grad():
        strategy.compute(torch.ones(2, 8))  # gathers the weights
    after = strategy.full_weights()
    strategy.after_evaluation()
    held = strategy.held_bytes()
    network = strategy.network
    strategy.close()
    return {
        "halved": all(torch.equal(before[name] * 0.5, after[name]) for name in before),
        "held": held,
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()),
        "linear_is_torch's": functional.linear is LINEAR,
    }


def main() -> None:
    """Takes the cases in turn."""
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    form_process_group(WORLD, "gloo")
    for case in cases:
        (folder / f"run-{case['name']}").mkdir(exist_ok=True)
        strategy, weights, losses = train(case["words"], folder / f"run-{case['name']}")
        found: dict[str, Any] = {"losses": losses}
        if case["name"].startswith("deepspeed"):
            engine = weakref.ref(strategy.engine)
            found |= inspect(strategy)
            del strategy
            gc.collect()
            found["engine_is_gone"] = engine() is None
        if WORLD.rank == 0:
            save_file(
                {name: weight.contiguous() for name, weight in weights.items()}, folder / f"{case['name']}.safetensors"
            )
            (folder / f"{case['name']}.json").write_text(json.dumps(found))
    leave_process_group()


if __name__ == "__main__":
    main()
