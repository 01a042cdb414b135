"""A rank of the tests of trainer.micro_batch_size=auto: trains cases of a JSON file, running out of memory on purpose.

Started by torchrun as ``run_out_of_memory.py CASES FOLDER``. A case is ``{"name", "words", "fails"}``, where ``fails``
is null or says where (``forward`` or ``backward``), on which rank, from which step on and above how many samples the
network runs out of memory. Each case's `metrics.jsonl` lies in ``FOLDER/<name>/``.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from distmlp import build
from distmlp.compose import compose
from distmlp.process_group import form_process_group, leave_process_group
from distmlp.runtime import World, discover

SMALL = (
    "data=synthetic data.num_samples=120 data.input_shape=[8] data.num_classes=4 data.global_batch_size=31 "
    "model.hidden=[16,16,16] optimizer=adamw optimizer.lr=0.05 trainer.max_epochs=3 "
    "trainer.log_every_steps=1 trainer.log_sample_ids=true trainer.progress=false tracking=none "
    "trainer.micro_batch_size=auto trainer.gradient_clip_norm=1.0"
).split()


class OutOfMemory(torch.autograd.Function):
    """The identity, whose backward pass finds no memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("injected into the backward pass")


def let_fail(module: Any, world: World, fails: dict[str, Any] | None) -> None:
    """Makes the network's second block run out of memory as ``fails`` says."""
    if fails is None or fails["rank"] != world.rank:
        return

    def hook(block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not block.training and module.position.step > fails["step"] and len(inputs[0]) > fails["above"]:
            raise RuntimeError("an evaluation takes more samples at once than fit")
        if not block.training or module.position.step < fails["step"] or len(inputs[0]) <= fails["above"]:
            return None
        if fails["where"] == "forward":
            raise torch.OutOfMemoryError("injected into the forward pass")
        return (OutOfMemory.apply(inputs[0]), *inputs[1:])

    module.network.blocks[1].register_forward_pre_hook(hook)


def train(case: dict[str, Any], folder: Path, world: World) -> None:
    """Trains one case as `distmlp train` does."""
    composed = compose([*SMALL, *case["words"]])
    config = composed.config
    data = build.build_data(config)
    network = build.build_network(config, data)
    chosen, _ = build.choose_strategy(config, network, world, "cpu")
    strategy = build.build_strategy(config, chosen, world, "cpu")
    module = build.build_module(config, data, network, world)
    let_fail(module, world, case["fails"])
    if world.rank == 0:
        folder.mkdir()
    run = build.build_run(
        config,
        data,
        strategy,
        world,
        strategy_name=chosen.name,
        run_folder=folder,
        attempt="test",
        reader=None,
        values=composed.values,
        console=Console(file=io.StringIO()),
    )
    run.trainer.fit(
        module, build.train_loader(config, data, world), build.evaluation_loader(config, data, world, "validation")
    )
    strategy.close()  # type: ignore[attr-defined]
    if world.rank == 0:
        (folder / "size.json").write_text(json.dumps(module.auto_micro_batch.size))


def main() -> None:
    world = discover()
    torch.set_num_threads(1)
    if world.world_size > 1:
        form_process_group(world, "gloo")
    for case in json.loads(Path(sys.argv[1]).read_text()):
        train(case, Path(sys.argv[2]) / case["name"], world)
    leave_process_group()


if __name__ == "__main__":
    main()
