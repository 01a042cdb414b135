"""A run that is stopped inside an epoch goes on under any strategy and world size: same state, samples and losses.

`make test` takes a part of the matrix, `make resume-matrix` all of it (DISTMLP_RESUME_MATRIX names the folder for what
it measures).
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.cases import COMMON, MLP, NETWORKS, STRATEGIES, TOKENS, TRANSFORMER, UNTIED, VECTORS
from parity.ranks import Outcome, Ranks

FOLDER = os.environ.get("DISTMLP_RESUME_MATRIX", "")
MIDDLE = 9
ADAMW = "optimizer=adamw optimizer.lr=0.002 optimizer.weight_decay=0.1"
RUN = f"{COMMON} trainer.ema_decay=0.9 checkpoint.every_steps={MIDDLE} checkpoint.keep_last=null trainer.max_steps=28"
NORMED = f"{MLP} model.norm=layer {VECTORS}"  # 840 samples, two epochs of 14 steps
GPT = f"model=gpt {TRANSFORMER} {TOKENS} trainer.max_steps=14"  # an epoch has 9 or 10
KINDS = {
    "adamw": f"{NORMED} {RUN} {ADAMW} scheduler=cosine scheduler.warmup_steps=5 trainer.gradient_clip_norm=0.5",
    "sgd": f"{NORMED} {RUN} optimizer=sgd optimizer.lr=0.1 trainer.micro_batch_size=7",
    "momentum": f"{NORMED} {RUN} optimizer=momentum optimizer.lr=0.05 trainer.micro_batch_size=7",
    "muon": f"{NORMED} {RUN} optimizer=muon optimizer.lr=0.01",
    "lion": f"{NORMED} {RUN} optimizer=lion optimizer.lr=0.0002",
    "adagrad": f"{NORMED} {RUN} optimizer=adagrad optimizer.lr=0.01",
    "rmsprop": f"{NORMED} {RUN} optimizer=rmsprop optimizer.lr=0.001",
    "batch_norm": f"{NETWORKS['mlp_batch_norm']} {RUN} {ADAMW}",
    "bf16_mixed": f"{NORMED} {RUN} {ADAMW} precision=bf16_mixed",
    "gpt": f"{RUN} {GPT} {ADAMW}",
    "gpt_untied": f"{RUN} {GPT} {UNTIED} {ADAMW}",
}
# Of losses, as in bounds.py. Where ranks compute with 8 bits, or batch norms see other shares, the state is compared.
LOSS_BOUND, WEIGHT_BOUND = 2e-6, 5e-5
LOSS_BOUNDS = {"muon": 5e-3, "bf16_mixed": 0.1, "batch_norm": 0.5}


@dataclass(frozen=True)
class Place:
    """A strategy on so many ranks."""

    strategy: str
    world_size: int

    def __str__(self) -> str:
        return f"{self.strategy}x{self.world_size}"

    def words(self) -> list[str]:
        group = 2 if self.world_size % 2 == 0 else self.world_size
        return STRATEGIES[self.strategy].format(group=group).split()


@dataclass(frozen=True)
class Change:
    """A run of a kind at ``source`` that goes on at ``target``."""

    source: Place
    target: Place
    kind: str = "adamw"

    def __str__(self) -> str:
        return f"{self.kind}-{self.source}-{self.target}"


def change(kind: str, source: str, target: str) -> Change:
    """``change("gpt", "ddp 2", "fsdp2 4")``."""
    places = [Place(name, int(size)) for name, size in (source.split(), target.split())]
    return Change(places[0], places[1], kind)


SPREAD = ("ddp", "fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "tensor_parallel")
SOURCES = [Place("single", 1), *(Place(strategy, 2) for strategy in SPREAD)]
TARGETS = [Place("single", 1), *(Place(strategy, size) for strategy, size in product(SPREAD, (1, 2, 3, 4)))]
TARGETS += [Place("hsdp", 4)]
SOME = [
    change("adamw", "single 1", "deepspeed_zero3 3"),
    change("adamw", "ddp 2", "fsdp2 4"),
    change("adamw", "fsdp2 2", "tensor_parallel 4"),
    change("adamw", "deepspeed_zero1 2", "ddp 3"),
    change("adamw", "deepspeed_zero2 2", "single 1"),
    change("adamw", "deepspeed_zero3 2", "deepspeed_zero1 2"),
    change("adamw", "tensor_parallel 2", "hsdp 4"),
]
SOME_OTHERS = [
    change("momentum", "ddp 2", "deepspeed_zero2 3"),
    change("muon", "fsdp2 2", "single 1"),
    change("gpt_untied", "tensor_parallel 2", "deepspeed_zero3 2"),
    change("bf16_mixed", "deepspeed_zero1 2", "fsdp2 2"),
]
OTHERS = [
    *SOME_OTHERS,
    change("sgd", "ddp 2", "fsdp2 3"),
    change("momentum", "deepspeed_zero1 2", "fsdp2 2"),
    change("momentum", "deepspeed_zero3 2", "tensor_parallel 2"),
    change("momentum", "tensor_parallel 4", "ddp 2"),
    change("muon", "ddp 2", "tensor_parallel 4"),
    change("muon", "tensor_parallel 2", "fsdp2 3"),
    change("lion", "ddp 3", "fsdp2 2"),
    change("lion", "deepspeed_zero2 2", "single 1"),
    change("adagrad", "fsdp2 2", "ddp 3"),
    change("adagrad", "ddp 2", "deepspeed_zero3 2"),
    change("rmsprop", "fsdp2 2", "deepspeed_zero1 3"),
    change("rmsprop", "deepspeed_zero3 2", "ddp 2"),
    change("batch_norm", "ddp 3", "fsdp2 2"),
    change("batch_norm", "fsdp2 2", "deepspeed_zero1 2"),
    change("bf16_mixed", "ddp 2", "deepspeed_zero3 2"),
    change("bf16_mixed", "deepspeed_zero3 3", "single 1"),
    change("bf16_mixed", "fsdp2 2", "deepspeed_zero2 2"),
    change("gpt", "ddp 2", "fsdp2 4"),
    change("gpt", "fsdp2 2", "deepspeed_zero3 2"),
    change("gpt", "deepspeed_zero3 2", "tensor_parallel 2"),
    change("gpt", "deepspeed_zero1 2", "single 1"),
    change("gpt_untied", "fsdp2 4", "tensor_parallel 4"),
    change("gpt_untied", "deepspeed_zero2 2", "tensor_parallel 2"),
    change("gpt_untied", "tensor_parallel 2", "ddp 3"),
]
CHANGES = [*(Change(*pair) for pair in product(SOURCES, TARGETS)), *OTHERS] if FOLDER else [*SOME, *SOME_OTHERS]
SAME = [Change(place, place) for place in (SOURCES if FOLDER else (Place("ddp", 2), Place("deepspeed_zero3", 2)))]
if FOLDER:
    SAME += [Change(Place(name, size), Place(name, size)) for name, size in product(SPREAD[:2], (3, 4))]
    SAME += [Change(Place("fsdp2", 2), Place("fsdp2", 2), kind) for kind in ("gpt", "muon", "bf16_mixed")]
    SAME += [Change(Place("ddp", 3), Place("ddp", 3), "batch_norm")]
Whole = Callable[[Place, str], Outcome]
Resumed = Callable[[Change], Outcome]


@pytest.fixture(scope="module")
def whole(ranks: Ranks) -> Whole:
    """The run from start to end, which writes a checkpoint on the way."""
    known: dict[tuple[Place, str], Outcome] = {}

    def run(place: Place, kind: str) -> Outcome:
        if (place, kind) not in known:
            words = [*KINDS[kind].split(), *place.words()]
            known[place, kind] = ranks.run(f"whole-{kind}-{place}", words, place.world_size)
        return known[place, kind]

    return run


@pytest.fixture(scope="module")
def resumed(ranks: Ranks, whole: Whole) -> Resumed:
    """The run that goes on at another place from the checkpoint in the middle; it first writes what it has read."""
    known: dict[Change, Outcome] = {}

    def run(made: Change) -> Outcome:
        if made not in known:
            checkpoints = whole(made.source, made.kind).checkpoints
            (checkpoint,) = [path for path in checkpoints if path.name.endswith(f"{MIDDLE:08}")]
            words = [*KINDS[made.kind].split(), *made.target.words(), f"resume={checkpoint}"]
            known[made] = ranks.run(f"to-{made}", words, made.target.world_size)
        return known[made]

    return run


def equal(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> bool:
    same_names = {kind: set(names) for kind, names in one.items()} == {k: set(names) for k, names in other.items()}
    return same_names and all(torch.equal(one[kind][name], other[kind][name]) for kind in one for name in one[kind])


def keep(made: Change, **values: Any) -> None:
    """Adds a line for the report."""
    if FOLDER:
        Path(FOLDER).mkdir(parents=True, exist_ok=True)
        with (Path(FOLDER) / "resumed.jsonl").open("a") as file:
            line = {"source": str(made.source), "target": str(made.target), "kind": made.kind, **values}
            file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("made", CHANGES, ids=str)
def test_the_state_is_the_same_bit_for_bit(made: Change, whole: Whole, resumed: Resumed) -> None:
    before, after = whole(made.source, made.kind).tensors(MIDDLE), resumed(made).tensors(MIDDLE)
    assert {"weights", "average"} <= set(before)
    assert len(before) > 2 or made.kind == "sgd"
    assert equal(before, after)
    keep(made, state="equal")


@pytest.mark.parametrize("made", CHANGES, ids=str)
def test_no_sample_is_lost_or_repeated(made: Change, whole: Whole, resumed: Resumed) -> None:
    first, second = whole(made.source, made.kind).lines, resumed(made).lines
    taken = [line for line in first if line["step"] <= MIDDLE and "sample_ids" in line]
    taken += [line for line in second if "sample_ids" in line]
    assert [line["step"] for line in taken] == list(range(1, taken[-1]["step"] + 1))
    seen = [one for line in taken if line["epoch"] == 0 for one in line["sample_ids"]]
    assert len(seen) == len(set(seen)) == max(line["samples"] for line in taken if line["epoch"] == 0)
    assert [line["sample_ids"] for line in taken] == whole(made.source, made.kind).of_steps("sample_ids")


@pytest.mark.parametrize("made", CHANGES, ids=str)
def test_losses_go_on_as_if_nothing_had_happened(made: Change, whole: Whole, resumed: Resumed) -> None:
    source, rest = whole(made.source, made.kind), resumed(made)
    pairs = zip(source.of_steps("train/loss")[MIDDLE:], rest.of_steps("train/loss"), strict=True)
    loss = max(abs(a - b) for a, b in pairs)
    ends, others = rest.tensors()["weights"], source.tensors()["weights"]
    weights = max(float((ends[name] - others[name]).abs().max()) for name in others)
    keep(made, loss=loss, weights=weights)
    assert loss <= LOSS_BOUNDS.get(made.kind, LOSS_BOUND)
    assert made.kind in LOSS_BOUNDS or weights <= WEIGHT_BOUND


@pytest.mark.parametrize("made", SAME, ids=str)
def test_the_same_ranks_go_on_bit_for_bit(made: Change, whole: Whole, resumed: Resumed) -> None:
    source, rest = whole(made.source, made.kind), resumed(made)
    for key in ("train/loss", "lr"):
        assert source.of_steps(key)[MIDDLE:] == rest.of_steps(key)
    assert [one for one in source.evaluations if one][-len(rest.evaluations) :] == rest.evaluations
    assert equal(source.tensors(), rest.tensors())
    keep(made, same="bit for bit")


def test_one_run_goes_from_strategy_to_strategy(ranks: Ranks) -> None:
    """In one folder, stopped inside an epoch each time."""
    words = [*KINDS["momentum"].split(), "run.id=one"]
    ends = {Place("ddp", 4): 5, Place("deepspeed_zero3", 2): 12, Place("fsdp2", 3): 20, Place("single", 1): 28}
    for place, end in ends.items():
        step = [*words, *place.words(), f"trainer.max_steps={end}"]
        outcome = ranks.run("chain", step, place.world_size, is_again=end > 5)
    undisturbed = ranks.run("chain-whole", [*words, *place.words()], 1)
    assert outcome.of_steps("step") == list(range(1, 29))
    assert outcome.of_steps("sample_ids") == undisturbed.of_steps("sample_ids")
    pairs = zip(outcome.of_steps("train/loss"), undisturbed.of_steps("train/loss"), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= LOSS_BOUND
