"""What is DeepSpeed's own: it follows the schedule, leaves nothing behind in its process, and compiles nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

RUN = (
    "data=synthetic data.num_samples=120 data.input_shape=[8] data.num_classes=4 data.global_batch_size=31 "
    "model.hidden=[16,16] trainer.max_steps=6 trainer.accelerator=cpu tracking=none"
).split()
ADAMW = "optimizer=adamw optimizer.weight_decay=0.1 trainer.gradient_clip_norm=0.1 trainer.micro_batch_size=4"
SCHEDULE = "optimizer=adagrad scheduler=cosine scheduler.warmup_steps=3"
HPZ = "strategy=deepspeed_zeropp strategy.quantized_weights=false strategy.quantized_gradients=false"
WHOLE = "strategy.whole_below_elements=0"
# In this order in one process: what one leaves behind would be in the way of the next.
CASES = {
    "ddp_adamw": f"strategy=ddp {ADAMW}",
    "deepspeed_zero3_adamw": f"strategy=deepspeed_zero3 {WHOLE} {ADAMW}",
    "ddp_schedule": f"strategy=ddp {SCHEDULE}",
    "deepspeed_zeropp_adamw": f"{HPZ} {WHOLE} {ADAMW}",
    "deepspeed_zero2_schedule": f"strategy=deepspeed_zero2 {SCHEDULE}",
    "deepspeed_zero3_offload_schedule": f"strategy=deepspeed_zero3_offload {WHOLE} {SCHEDULE}",
    "deepspeed_zero2_offload_adamw": f"strategy=deepspeed_zero2_offload {ADAMW}",
    "deepspeed_zero1_bf16": f"strategy=deepspeed_zero1 precision=bf16_mixed {ADAMW}",
    "deepspeed_zero2_bf16": f"strategy=deepspeed_zero2 precision=bf16_mixed {ADAMW}",
    "deepspeed_zero3_bf16": f"strategy=deepspeed_zero3 precision=bf16_mixed {WHOLE} {ADAMW}",
    "deepspeed_zero2_bf16_true": f"strategy=deepspeed_zero2 precision=bf16_true {ADAMW}",
}
ENGINES = [name for name in CASES if name.startswith("deepspeed")]
IN_FULL = [name for name in ENGINES if "bf16" not in name]


def start(
    folder: Path, repository: Path, ranks: int, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``words`` under torchrun, or as they are where ``ranks`` is 0."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
    known = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, *launcher, *words],
        env={**known, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def found(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what each case left: two ranks, all cases in one process."""
    folder = tmp_path_factory.mktemp("found")
    cases = [{"name": name, "words": words.split()} for name, words in CASES.items()]
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("run_deepspeed.py")
    start(folder, repository, 2, str(script), str(folder / "cases.json"), str(folder))
    return folder


def of(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", IN_FULL)
def test_losses_and_weights_are_those_of_ddp(name: str, found: Path) -> None:
    reference = f"ddp_{name.rpartition('_')[2]}"
    np.testing.assert_allclose(of(found, name)["losses"], of(found, reference)["losses"], rtol=0, atol=1e-6)
    weights, expected = (load_file(found / f"{run}.safetensors") for run in (name, reference))
    assert list(weights) == list(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(weights[key], value, rtol=0, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_leaves_nothing_behind(name: str, found: Path) -> None:
    left = of(found, name)
    assert left["hooks"] == 0
    assert left["engine_is_gone"]
    assert left["linear_is_torch's"]


@pytest.mark.parametrize("name", ENGINES)
def test_written_shards_become_the_weights(name: str, found: Path) -> None:
    assert of(found, name)["halved"]


@pytest.mark.parametrize("name", [name for name in ENGINES if name.endswith("bf16")])
def test_weights_of_a_mixed_run_are_written_in_32_bits(name: str, found: Path) -> None:
    np.testing.assert_allclose(of(found, name)["losses"], of(found, "ddp_adamw")["losses"], atol=0.02)
    weights = load_file(found / f"{name}.safetensors")
    for value in weights.values():
        assert value.numpy().dtype == np.float32
        assert not value.equal(value.bfloat16().float())


def test_bf16_true_keeps_nothing_in_32_bits(found: Path) -> None:
    true, mixed = (of(found, f"deepspeed_zero2_{name}")["held"] for name in ("bf16_true", "bf16"))
    assert true["weights"] == mixed["weights"]
    assert true["optimizer"] < 0.55 * mixed["optimizer"]


def test_a_lock_that_a_dead_process_left_holds_nobody_up_and_the_console_stays_quiet(
    repository: Path, tmp_path: Path
) -> None:
    extensions = tmp_path / "extensions"
    for name in ("deepspeed_shm_comm", "cpu_adam", "fused_adam", "async_io", "pin_memory"):
        (extensions / name).mkdir(parents=True)
        (extensions / name / "lock").touch()
    words = ("-m", "distmlp", "train", "strategy=deepspeed_zero2_offload", *RUN)
    done = start(tmp_path, repository, 2, *words, TORCH_EXTENSIONS_DIR=str(extensions))
    for word in ("INFO", "WARN", "DeepSpeed", "deepspeed."):
        assert word not in done.stdout + done.stderr, word
    assert not list(extensions.rglob("*.so"))


def test_a_process_alone_trains_and_is_tested(repository: Path, tmp_path: Path) -> None:
    start(tmp_path, repository, 0, "-m", "distmlp", "train", "strategy=deepspeed_zero3", WHOLE, *RUN)
    (summary,) = tmp_path.glob("runs/*/*/summary.json")
    assert "test/loss" in json.loads(summary.read_text())["final"]
