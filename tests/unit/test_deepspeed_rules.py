"""What DeepSpeed cannot do is refused beforehand, in one line with the reason and what can."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from distmlp.compose import compose
from distmlp.deepspeed_rules import check_deepspeed, secondary_shard_size
from distmlp.errors import ConfigError
from distmlp.runtime import World

EIGHT = World(rank=0, world_size=8, local_rank=0, local_world_size=4)
UNQUANTIZED = ("strategy.quantized_weights=false", "strategy.quantized_gradients=false")
NVME = ("strategy=deepspeed_zero3_nvme", "strategy.nvme_path=/scratch")


def check(*words: str, device_type: str = "cpu") -> None:
    check_deepspeed(compose(list(words)).config, EIGHT, device_type)


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=deepspeed_zero1", "precision=bf16_true"),
        ("strategy=deepspeed_zero2", "optimizer=adagrad"),
        ("strategy=deepspeed_zero1", "trainer.micro_batch_size=auto"),
        ("strategy=deepspeed_zero2_offload", "trainer.micro_batch_size=auto"),
        ("strategy=deepspeed_zero3", "optimizer=adagrad", "optimizer.weight_decay=0.1"),
        ("strategy=deepspeed_zero3_offload", "trainer.ema_decay=0.99"),
        ("strategy=deepspeed_zeropp", *UNQUANTIZED),
        (*NVME, "precision=bf16_mixed"),
        (*NVME, "strategy.offload_parameters=cpu"),
        (*NVME, "precision=bf16_mixed", "strategy.offload_optimizer=cpu", "optimizer=adagrad"),
    ],
)
def test_what_works_passes(words: tuple[str, ...]) -> None:
    check(*words)


def test_quantization_passes_on_cuda() -> None:
    check("strategy=deepspeed_zeropp", device_type="cuda")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("strategy=deepspeed_zero2", "trainer.gradient_clip_value=1.0"),
            r"^trainer\.gradient_clip_value does not work .* use trainer\.gradient_clip_norm, or strategy=fsdp2$",
        ),
        (
            ("strategy=deepspeed_zero3", "trainer.micro_batch_size=auto"),
            r"^trainer\.micro_batch_size=auto does not work with strategy=deepspeed_zero3: .* or use strategy=fsdp2$",
        ),
        (("strategy=deepspeed_zero3", "model.compile=true"), r"^model\.compile=true .* or deepspeed_zero2$"),
        (("strategy=deepspeed_zero1", "optimizer=muon"), r"^optimizer=muon .* or optimizer=adamw$"),
        (
            ("strategy=deepspeed_zero2", "optimizer=adagrad", "optimizer.weight_decay=0.1"),
            r"^optimizer=adagrad with optimizer\.weight_decay .* use strategy=deepspeed_zero3 or fsdp2$",
        ),
        (
            ("strategy=deepspeed_zero2", "strategy.offload_parameters=cpu"),
            r"^strategy\.offload_parameters=cpu needs stage 3, and strategy=deepspeed_zero2 has stage 2$",
        ),
        (
            ("strategy=deepspeed_zero2_offload", "strategy.offload_optimizer=nvme", "strategy.nvme_path=/scratch"),
            r"^strategy\.offload_optimizer=nvme needs stage 3, .*: use strategy\.offload_optimizer=cpu$",
        ),
        (("strategy=deepspeed_zero1", "strategy.secondary_shard_size=2"), r"^strategy\.secondary_shard_size=2 needs"),
        (
            ("strategy=deepspeed_zero2", "strategy.quantized_weights=true"),
            r"^strategy\.quantized_weights=true needs stage 3, .*: use strategy=deepspeed_zeropp$",
        ),
        (("strategy=deepspeed_zero3_nvme",), r"^strategy=deepspeed_zero3_nvme needs strategy\.nvme_path=FOLDER"),
        (NVME, r"^precision=fp32 does not .* use precision=bf16_mixed, or strategy\.offload_parameters=cpu$"),
        (
            (*NVME, "precision=bf16_mixed", "optimizer=adagrad"),
            r"^optimizer=adagrad does not .* use strategy\.offload_optimizer=cpu, or optimizer=adamw$",
        ),
        ((*NVME, "trainer.ema_decay=0.9"), r"^trainer\.ema_decay does not .*: use strategy=deepspeed_zero3_offload$"),
        (
            ("strategy=deepspeed_zero2_offload", "precision=bf16_true"),
            r"^precision=bf16_true does not .* use precision=bf16_mixed, or strategy\.offload_optimizer=none$",
        ),
        (
            ("strategy=deepspeed_zeropp",),
            r"^strategy\.quantized_weights and strategy\.quantized_gradients need CUDA kernels, .* on cpu: "
            r"use strategy\.quantized_weights=false strategy\.quantized_gradients=false$",
        ),
        (
            ("strategy=deepspeed_zeropp", *UNQUANTIZED, "strategy.secondary_shard_size=3"),
            r"^strategy\.secondary_shard_size=3 does not divide the world size 8: use one of 1, 2, 4, 8$",
        ),
    ],
)
def test_what_cannot_work_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(*words)


def test_a_machine_without_deepspeed_is_told_what_it_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^strategy=deepspeed_zero2 needs DeepSpeed, .* use strategy=fsdp2$"):
        check("strategy=deepspeed_zero2")


def test_a_second_copy_of_the_weights_lies_in_a_node() -> None:
    strategy: Any = compose(["strategy=deepspeed_zeropp"]).config.strategy
    assert secondary_shard_size(strategy, EIGHT) == 4


def test_a_machine_that_cannot_compile_is_refused_what_needs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from distmlp.strategy import deepspeed_io

    monkeypatch.setattr(deepspeed_io, "HEADER", "no-such-header.h")
    monkeypatch.setenv("PATH", str(tmp_path))
    lacks = (
        r"lacks g\+\+ and libaio with its header \(Debian: libaio-dev\): install it, or use strategy=deepspeed_zero3_"
    )
    with pytest.raises(ConfigError, match=lacks):
        deepspeed_io.check_disk_access("deepspeed_zero3_nvme")
