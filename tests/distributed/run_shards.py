"""Ranks of the tests of what strategies hold: each trains case after case, and writes what is wrong with it.

Started as ``run_shards.py CASES FOLDER``: imports once, then forks ranks for one world size after the other. A case is
``{"name", "world_size", "words", "frozen"}``; what rank N finds wrong of it lies in ``FOLDER/<name>-N.json``, a list of
strings. A rank that fails ends its world, and leaves its traceback in ``FOLDER/rank-N-of-M.log``.

A case trains, assembles whole tensors of all ranks' parts, and compares them with what one process has. Then it writes
them into the shards of a new run, whose next step must be that of the run which went on, to the bit.
"""

import faulthandler
import gc
import json
import os
import socket
import sys
import traceback
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from parity import rank_server
from torch import Tensor
from torch.nn import functional

from distmlp import build
from distmlp.compose import compose
from distmlp.config import Config
from distmlp.optimizer import build_optimizer
from distmlp.process_group import form_process_group, leave_process_group
from distmlp.runtime import World, discover
from distmlp.shards import Range, Shard
from distmlp.strategy_rules import data_world

NUM_STEPS, BATCH, DECAY, SECONDS = 3, 12, 0.9, 150.0
TOLERANCE = 2e-5  # of rounding, where ranks add in another order
ALONE = World(rank=0, world_size=1, local_rank=0, local_world_size=1)
Wholes = dict[tuple[str, str], Tensor]  # by kind and name


@dataclass
class Run:
    """A placed network with its optimizer, as `setup` leaves them."""

    strategy: Any
    optimizer: torch.optim.Optimizer
    world: World  # as the data see it
    initial: dict[str, Tensor]
    average: list[Tensor] = field(default_factory=list)

    def step(self, index: int) -> None:
        """Trains on this rank's share of a global batch, and averages."""
        strategy, optimizer = self.strategy, self.optimizer
        inputs, targets = batch(index, self.is_tokens)
        share = slice(self.world.rank, None, self.world.world_size)
        strategy.zero_gradients(optimizer)
        with strategy.sync(True):
            with strategy.autocast():
                outputs = strategy.compute(inputs[share])
                loss = functional.cross_entropy(outputs.flatten(0, -2), targets[share].flatten(), reduction="sum")
            strategy.add_gradients(loss / targets.numel())
        strategy.apply_gradients(optimizer, None, None)
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        weights = [weight.float() for weight in self.strategy.local_master_weights()]
        if self.average:
            torch._foreach_lerp_(self.average, weights, 1.0 - DECAY)
        else:
            self.average = [weight.clone() for weight in weights]

    def evaluate(self) -> None:
        """Leaves gathered what a strategy gathers."""
        self.strategy.network.eval()
        with torch.no_grad(), self.strategy.autocast():
            self.strategy.compute(batch(0, self.is_tokens)[0])
        self.strategy.network.train()

    @property
    def is_tokens(self) -> bool:
        return hasattr(self.strategy.network, "token_embedding")


@cache
def batch(index: int, is_tokens: bool) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(index)
    if is_tokens:
        tokens = torch.randint(20, (BATCH, 9), generator=draw)
        return tokens[:, :-1], tokens[:, 1:]
    return torch.randn(BATCH, 7, generator=draw), torch.randint(5, (BATCH,), generator=draw)


@cache
def composed(words: tuple[str, ...]) -> Config:
    """Known before the ranks are forked."""
    return compose(list(words)).config


def start(words: tuple[str, ...], frozen: bool, world: World, seed: int = 1) -> Run:
    """A new run of this configuration."""
    config = composed(words).model_copy(update={"seed": seed})
    network = build.build_network(config, build.build_data(config))
    if frozen:
        next(iter(network.parameters())).requires_grad_(False)
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    strategy: Any = build.build_strategy(config, config.strategy, world, "cpu")
    if world.world_size > 1:
        strategy.cluster_environment = TorchElasticEnvironment()
    strategy.network = network
    strategy.precision.prepare(network)
    strategy.run = strategy.place(network)
    optimizer = build_optimizer(network, **config.optimizer.model_dump())
    strategy.optimizers = [optimizer]
    strategy.attach(optimizer)
    return Run(strategy, optimizer, data_world(config, world), initial)


def assemble(shards: list[Shard], wrong: list[str]) -> Wholes:
    """Whole tensors, on every rank, of the parts of all ranks; of a copy held by n ranks each gives an n-th."""
    mine = [(shard.kind, shard.place, shard.tensor.clone()) for shard in shards]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, mine)
    parts = [part for rank in gathered for part in rank]
    wholes: Wholes = {}
    counts: dict[tuple[str, str], Tensor] = {}
    for kind, place, tensor in parts:
        whole = wholes.setdefault((kind, place.name), torch.zeros(place.shape, dtype=tensor.dtype))
        count = counts.setdefault((kind, place.name), torch.zeros(whole.numel(), dtype=torch.int64))
        number = place.part.num_elements
        own = slice(number * place.copy // place.num_copies, number * (place.copy + 1) // place.num_copies)
        where = elements(place)[own]
        whole.view(-1)[where] = tensor.flatten()[own]
        count[where] += 1
    wrong += [f"{key}: not each element once" for key, count in counts.items() if not bool((count == 1).all())]
    for kind, place, tensor in parts:
        if not torch.equal(wholes[kind, place.name].view(-1)[elements(place)], tensor.flatten()):
            wrong.append(f"{kind} {place}: this copy is another")
    return wholes


def elements(place: Any) -> Tensor:
    """Which elements of the flat whole a part is."""
    every = torch.arange(torch.Size(place.shape).numel())
    if isinstance(place.part, Range):
        return every[place.part.start : place.part.stop]
    blocks = tuple(slice(o, o + n) for o, n in zip(place.part.offset, place.part.shape, strict=True))
    return every.view(place.shape)[blocks].flatten()


def load(run: Run, wholes: Wholes, numbers: dict[str, dict[str, float]]) -> None:
    """Writes wholes into this rank's part of a new run."""
    run.strategy.prepare_states(run.optimizer)
    run.average = [torch.zeros_like(weight, dtype=torch.float32) for weight in run.strategy.local_master_weights()]
    for shard in run.strategy.shards(run.average):
        value = wholes[shard.kind, shard.place.name].view(-1)[elements(shard.place)]
        shard.tensor.zero_().view(-1).copy_(value)
    run.strategy.load_scalars(numbers)
    run.strategy.load_scaler_state(run.strategy.scaler_state())
    run.strategy.resume_at(NUM_STEPS)
    run.strategy.publish_master_weights()


def compare(ours: Wholes, theirs: Wholes, tolerance: float) -> list[str]:
    """Where two sets of whole tensors differ: in names, shapes, or by more than ``tolerance`` of the largest value."""
    if ours.keys() != theirs.keys():
        return [f"not held by both: {sorted(ours.keys() ^ theirs.keys())}"]
    wrong = []
    for key, theirs_of in theirs.items():
        a, b = ours[key].double(), theirs_of.double()
        if a.shape != b.shape or (a - b).abs().max() > tolerance * b.abs().max().clamp(min=1e-3):
            wrong.append(f"{key}: shapes {a.shape} and {b.shape}, or values differ")
    return wrong


def trained(run: Run, wrong: list[str]) -> tuple[Wholes, dict[str, dict[str, float]]]:
    """Wholes and numbers after some steps."""
    first = assemble(run.strategy.shards(), wrong)
    for name, value in run.initial.items():
        held = first.get(("weights", name))
        if run.strategy.precision.is_mixed and hasattr(run.strategy, "engine"):
            value = value.bfloat16()  # DeepSpeed's 32-bit weights start as what they are in 16 bits
        if held is not None and not torch.equal(held, value.to(held.dtype)):
            wrong.append(f"{name} is not what was drawn")
    for index in range(NUM_STEPS):
        run.step(index)
    run.strategy.before_checkpoint()
    run.evaluate()
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, run.strategy.scalars())
    numbers = {name: values for rank in gathered for name, values in rank.items()}
    wholes = assemble(run.strategy.shards(run.average), wrong)
    for name, weight in run.strategy.full_weights().items():  # with a second name for what is tied
        held = wholes.get(("weights", name))
        if held is not None and not torch.equal(held, weight):
            wrong.append(f"{name} is not that of the whole network")
    run.strategy.after_evaluation()
    return wholes, numbers


@cache
def alone(words: tuple[str, ...], frozen: bool) -> tuple[Wholes, dict[str, dict[str, float]]]:
    """What one process has after the same steps."""
    run = start(words, frozen, ALONE)
    for index in range(NUM_STEPS):
        run.step(index)
    shards = run.strategy.shards(run.average)
    assert all(shard.place.num_copies == 1 and shard.tensor.shape == shard.place.shape for shard in shards)
    return {(shard.kind, shard.place.name): shard.tensor.clone() for shard in shards}, run.strategy.scalars()


def of_one_process(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same run, not spread, in 32 bits."""
    return (*(word for word in words if not word.startswith(("strategy", "precision"))), "strategy=single")


def check(words: tuple[str, ...], frozen: bool, world: World) -> list[str]:
    """What is wrong with a case."""
    wrong: list[str] = []
    run = start(words, frozen, world)
    wholes, numbers = trained(run, wrong)
    theirs, their_numbers = alone(of_one_process(words), frozen)
    rough = any(word.startswith("precision") or "localsgd" in word or "batch" in word for word in words)
    wrong += compare(wholes, theirs, float("inf") if rough else TOLERANCE)
    if numbers != their_numbers:
        wrong.append(f"numbers are {numbers}, not {their_numbers}")
    run.step(NUM_STEPS)
    went_on = assemble(run.strategy.shards(run.average), [])
    run.strategy.close()
    del run
    gc.collect()
    run = start(words, frozen, world, seed=2)
    load(run, wholes, numbers)
    wrong += [f"after loading, {line}" for line in compare(assemble(run.strategy.shards(run.average), []), wholes, 0.0)]
    run.step(NUM_STEPS)
    again = assemble(run.strategy.shards(run.average), [])
    wrong += [f"after one more step, {line}" for line in compare(again, went_on, 0.0)]
    run.strategy.close()
    return wrong


def be_rank(cases: list[dict[str, Any]], folder: Path) -> None:
    """Takes the cases of this world in turn."""
    world = discover()
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    form_process_group(world, "gloo")
    for case in cases:
        wrong = check(tuple(case["words"]), case["frozen"], world)
        (folder / f"{case['name']}-{world.rank}.json").write_text(json.dumps(wrong))
    leave_process_group()


def fork_rank(rank: int, size: int, port: int, cases: list[dict[str, Any]], folder: Path) -> int:
    """The id of a process that is this rank."""
    process_id = os.fork()
    if process_id:
        return process_id
    status = 1
    try:
        log = os.open(folder / f"rank-{rank}-of-{size}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in world.items()})
        be_rank(cases, folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Starts the ranks of one world after the other."""
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rank_server._import_everything()
    rank_server._import_deepspeed()
    for case in cases:
        composed(tuple(case["words"]))
        composed(of_one_process(tuple(case["words"])))
    for size in sorted({case["world_size"] for case in cases}):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        own = [case for case in cases if case["world_size"] == size]
        rank_server._wait([fork_rank(rank, size, port, own, folder) for rank in range(size)], SECONDS)


if __name__ == "__main__":
    main()
