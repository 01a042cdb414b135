"""Checkpoints under strategy=deepspeed_zero3_nvme: what lies on the disk between two steps is saved, and read back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from parity.cases import COMMON
from parity.ranks import Outcome, Ranks

from distmlp.errors import ConfigError
from distmlp.strategy.deepspeed_io import check_disk_access, is_compiled

MIDDLE, END = 3, 6
# DeepSpeed sums the norm for clipping in another order where it offloads. A step changes a weight by up to 2e-3.
BOUND = 2e-4
# Matrices of which each of two ranks has more than 1 MiB in 32 bits: smaller ones stay in memory.
WORDS = f"""{COMMON} model=mlp model.hidden=[1024,512] model.activation=gelu precision=bf16_mixed
    data=synthetic data.num_samples=300 data.input_shape=[24] data.num_classes=13 data.global_batch_size=30
    optimizer=adamw optimizer.lr=0.002 optimizer.weight_decay=0.1 scheduler=cosine trainer.gradient_clip_norm=0.5
    trainer.max_steps={END} checkpoint.every_steps={MIDDLE} checkpoint.keep_last=null"""
# Each of two ranks has more than 1 MiB of either matrix in 16 bits.
LARGE = """trainer.accelerator=cpu tracking=none precision=bf16_mixed model=mlp model.hidden=[150016,8] data=synthetic
    data.num_samples=60 data.input_shape=[7] data.num_classes=5 data.global_batch_size=12
    strategy=deepspeed_zero3_nvme"""
CASES = {
    "adamw": "optimizer=adamw optimizer.lr=0.01 optimizer.weight_decay=0.1",
    "frozen": "optimizer=adamw optimizer.lr=0.01 optimizer.weight_decay=0.1",
    "momentum": "optimizer=momentum optimizer.lr=0.05",
    "rmsprop": "optimizer=rmsprop optimizer.momentum=0.5",
}
DISK, MEMORY = "deepspeed_zero3_nvme", "deepspeed_zero3"


def start(repository: Path, seconds: float, *words: str) -> None:
    search = os.pathsep.join([str(repository), str(repository / "tests" / "distributed")])
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on a disk that this machine can use."""
    try:
        check_disk_access(DISK)
    except ConfigError as error:
        pytest.skip(str(error))
    if not is_compiled("cpu"):
        pytest.skip("DeepSpeed's disk access is not compiled here, which takes minutes: run `make disk-access` before")
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def run(ranks: Ranks, disk: Path) -> Callable[..., Outcome]:
    """A run on two ranks, made once: from the start, or from the middle of another."""
    known: dict[tuple[str, str | None], Outcome] = {}

    def made(strategy: str, source: str | None = None) -> Outcome:
        if (strategy, source) not in known:
            words = [*WORDS.split(), f"strategy={strategy}"]
            if strategy == DISK:
                words.append(f"strategy.nvme_path={disk}")
            if source is not None:
                (checkpoint,) = [p for p in made(source).checkpoints if p.name.endswith(f"{MIDDLE:08}")]
                words.append(f"resume={checkpoint}")
            known[strategy, source] = ranks.run(f"{source}-to-{strategy}", words, 2)
        return known[strategy, source]

    return made


def differing(one: Outcome, other: Outcome, step: int, bound: float = 0.0) -> list[str]:
    """Names of tensors that are not the same, bit for bit or within ``bound``."""
    ours, theirs = one.tensors(step), other.tensors(step)
    assert set(ours) == set(theirs) == {"weights", "optimizer/exp_avg", "optimizer/exp_avg_sq"}
    pairs = [(f"{kind} of {name}", tensor, theirs[kind][name]) for kind in ours for name, tensor in ours[kind].items()]
    return [name for name, a, b in pairs if a.dtype != b.dtype or float((a - b).abs().max()) > bound]


@pytest.mark.parametrize(("source", "target"), [(DISK, DISK), (DISK, MEMORY), (MEMORY, DISK)])
def test_weights_and_states_are_read_back_bit_for_bit(source: str, target: str, run: Callable[..., Outcome]) -> None:
    assert differing(run(source), run(target, source), MIDDLE) == []


@pytest.mark.parametrize(("source", "target"), [(DISK, DISK), (DISK, MEMORY), (MEMORY, DISK)])
def test_a_run_goes_on_as_if_nothing_had_happened(source: str, target: str, run: Callable[..., Outcome]) -> None:
    whole, rest = run(source), run(target, source)
    bound = 0.0 if source == target else BOUND
    pairs = zip(whole.of_steps("train/loss")[MIDDLE:], rest.of_steps("train/loss"), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= bound
    assert differing(whole, rest, END, bound) == []
    steps = [whole.tensors(step)["weights"] for step in (MIDDLE, END)]
    assert all(not steps[0][name].equal(weight) for name, weight in steps[1].items()), "nothing was trained"


def test_what_lies_on_the_disk_is_gone_with_the_run(disk: Path, run: Callable[..., Outcome]) -> None:
    run(DISK)
    assert list(disk.iterdir()) == []


@pytest.fixture(scope="module")
def found(repository: Path, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what ranks found of each of `CASES`; see run_shards.py."""
    folder = tmp_path_factory.mktemp("found")
    common = [*LARGE.split(), f"strategy.nvme_path={disk}"]
    cases = [
        {"name": name, "world_size": 2, "words": [*common, *words.split()], "frozen": name == "frozen"}
        for name, words in CASES.items()
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    start(repository, 280, str(Path(__file__).with_name("run_disk.py")), str(folder / "cases.json"), str(folder))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_weights_that_the_network_computes_with_may_lie_there_too(name: str, found: Path) -> None:
    for rank in range(2):
        path = found / f"{name}-{rank}.json"
        assert path.is_file(), f"rank {rank} ended before: {(found / f'rank-{rank}-of-2.log').read_text()[-3000:]}"
        assert json.loads(path.read_text()) == []
