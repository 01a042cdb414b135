"""What strategies say they hold: ranks together have each element once, and can write it back; see run_shards.py."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMON = "trainer.accelerator=cpu tracking=none data.num_samples=60 data.global_batch_size=12"
# Sizes that ranks do not divide.
MLP = f"{COMMON} data=synthetic data.input_shape=[7] data.num_classes=5 model=mlp model.hidden=[10,14]"
NORM = f"{MLP} model.norm=batch"
GPT = f"{COMMON} data=synthetic_tokens data.vocab_size=20 data.sequence_length=8 data.test_fraction=0.1 model=gpt"
GPT += " model.num_layers=1 model.width=16 model.num_heads=4"
UNTIED = f"{GPT} model.num_kv_heads=2 model.qk_norm=true model.tie_embeddings=false"
ADAMW = "optimizer=adamw optimizer.lr=0.01 optimizer.weight_decay=0.1"
MOMENTUM = "optimizer=momentum optimizer.lr=0.05"
BF16 = "precision=bf16_mixed"
SPLIT_ALL = "strategy.whole_below_elements=0"
HPZ = "strategy=deepspeed_zeropp strategy.quantized_weights=false strategy.quantized_gradients=false"
LOCAL = "strategy=ddp_localsgd strategy.period=2 strategy.start_step=0 strategy.group_size=1"


@dataclass(frozen=True)
class Case:
    """A run on ``world_size`` ranks; ``frozen``: its first parameter is not trained."""

    name: str
    world_size: int
    words: str
    frozen: bool = False


CASES = [
    Case("single", 1, f"strategy=single {NORM} {ADAMW}"),
    Case("single_rmsprop", 1, f"strategy=single {MLP} optimizer=rmsprop optimizer.momentum=0.5"),
    Case("single_sgd", 1, f"strategy=single {MLP} optimizer=sgd"),
    Case("tensor_parallel", 2, f"strategy=tensor_parallel strategy.tensor_size=2 {MLP} {ADAMW}"),
    Case("tensor_parallel_tied", 2, f"strategy=tensor_parallel strategy.tensor_size=2 {GPT} {ADAMW}"),
    Case("tensor_parallel_untied", 2, f"strategy=tensor_parallel strategy.tensor_size=2 {UNTIED} {ADAMW}"),
    Case("localsgd", 2, f"{LOCAL} {MLP} {MOMENTUM}"),
    Case("zero1", 2, f"strategy=deepspeed_zero1 {NORM} {ADAMW}"),
    Case("zero1_bf16", 2, f"strategy=deepspeed_zero1 {BF16} {MLP} {ADAMW}"),
    Case("zero2_offload", 2, f"strategy=deepspeed_zero2_offload {MLP} {ADAMW}"),
    Case("zero3", 2, f"strategy=deepspeed_zero3 {SPLIT_ALL} {MLP} {ADAMW}"),
    Case("zero3_bf16", 2, f"strategy=deepspeed_zero3 {BF16} {SPLIT_ALL} {MLP} {ADAMW}"),
    Case("zero3_offload_adagrad", 2, f"strategy=deepspeed_zero3_offload {MLP} optimizer=adagrad optimizer.lr=0.01"),
    Case("ddp", 3, f"strategy=ddp {NORM} {ADAMW}"),
    Case("ddp_frozen", 3, f"strategy=ddp {MLP} {ADAMW}", frozen=True),
    Case("fsdp2", 3, f"strategy=fsdp2 {NORM} {ADAMW}"),
    Case("fsdp2_frozen", 3, f"strategy=fsdp2 {MLP} {MOMENTUM}", frozen=True),
    Case("fsdp2_lion", 3, f"strategy=fsdp2 {MLP} optimizer=lion optimizer.lr=0.001"),
    Case("fsdp2_muon", 3, f"strategy=fsdp2 {MLP} optimizer=muon optimizer.lr=0.01"),
    Case("zero1_adagrad", 3, f"strategy=deepspeed_zero1 {MLP} optimizer=adagrad optimizer.lr=0.01"),
    Case("zero2", 3, f"strategy=deepspeed_zero2 {MLP} {ADAMW}"),
    Case("zero2_momentum", 3, f"strategy=deepspeed_zero2 {MLP} {MOMENTUM}", frozen=True),
    Case("zero3_tied", 3, f"strategy=deepspeed_zero3 {SPLIT_ALL} {GPT} {ADAMW}"),
    Case("zero3_frozen", 3, f"strategy=deepspeed_zero3 {MLP} {ADAMW}", frozen=True),
    Case("hsdp", 4, f"strategy=hsdp strategy.shard_size=2 {NORM} {ADAMW}"),
    Case("tensor_parallel_2d", 4, f"strategy=tensor_parallel strategy.tensor_size=2 {MLP} {ADAMW}"),
    Case("tensor_parallel_2d_tied", 4, f"strategy=tensor_parallel strategy.tensor_size=2 {GPT} {ADAMW}"),
    Case("tensor_parallel_2d_untied", 4, f"strategy=tensor_parallel strategy.tensor_size=2 {UNTIED} {ADAMW}"),
    Case("zeropp", 4, f"{HPZ} strategy.secondary_shard_size=2 {SPLIT_ALL} {MLP} {ADAMW}"),
]


@pytest.fixture(scope="module")
def found(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what ranks found of each case."""
    folder = tmp_path_factory.mktemp("found")
    cases = [
        {"name": case.name, "world_size": case.world_size, "words": case.words.split(), "frozen": case.frozen}
        for case in CASES
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("run_shards.py")
    search = os.pathsep.join([str(repository), str(script.parent)])
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "cases.json"), str(folder)],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.world_size}")
def test_parts_make_the_whole_and_a_new_run_goes_on_from_them(case: Case, found: Path) -> None:
    for rank in range(case.world_size):
        path = found / f"{case.name}-{rank}.json"
        log = found / f"rank-{rank}-of-{case.world_size}.log"
        assert path.is_file(), f"rank {rank} ended before: {log.read_text()[-3000:]}"
        assert json.loads(path.read_text()) == []
