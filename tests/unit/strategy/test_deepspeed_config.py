"""What DeepSpeed is told, for the options that would change results or memory if they did not arrive."""

from typing import Any

import pytest

from distmlp.strategy.deepspeed_config import ZeroOptions, deepspeed_config
from distmlp.strategy.precision import PRECISIONS


def config(
    *, precision: str = "fp32", max_norm: float | None = None, device_type: str = "cpu", **zero: Any
) -> dict[str, Any]:
    options = ZeroOptions(**{"stage": 3} | zero)
    return deepspeed_config(
        options, precision=PRECISIONS[precision], max_norm=max_norm, device_type=device_type, num_elements=1000
    )


@pytest.mark.parametrize(
    ("precision", "bf16", "fp16", "masters_are_16_bits", "sum"),
    [
        ("fp32", False, False, False, "fp32"),
        ("tf32", False, False, False, "fp32"),
        ("bf16_mixed", True, False, False, "fp32"),
        ("fp16_mixed", False, True, False, "fp32"),
        ("bf16_true", True, False, True, "bf16"),
    ],
)
def test_formats(precision: str, bf16: bool, fp16: bool, masters_are_16_bits: bool, sum: str) -> None:
    told = config(precision=precision)
    assert told["bf16"]["enabled"] is bf16
    assert told["fp16"]["enabled"] is fp16
    assert told["bf16"]["bf16_master_weights_and_grads"] is masters_are_16_bits
    assert told["bf16"]["bf16_optimizer_states"] is masters_are_16_bits
    assert told["data_types"] == {"grad_accum_dtype": sum}


def test_clipping() -> None:
    assert config()["gradient_clipping"] == 0.0
    assert config(max_norm=0.5)["gradient_clipping"] == 0.5


def test_gradients_are_exchanged_as_asked() -> None:
    assert config(reduce_dtype="bf16")["communication_data_type"] == "bf16"
    assert config(bucket_elements=600)["zero_optimization"]["reduce_bucket_size"] == 600
    assert config()["zero_optimization"]["reduce_bucket_size"] == 1000, "DeepSpeed allocates the whole bucket"
    assert not config()["zero_optimization"]["overlap_comm"]
    assert config(device_type="cuda")["zero_optimization"]["overlap_comm"]


def test_offloading() -> None:
    zero = config(offload_optimizer="cpu", offload_parameters="nvme", nvme_path="/scratch", device_type="cuda")
    assert zero["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    disk = {"device": "nvme", "pin_memory": True, "nvme_path": "/scratch", "max_in_cpu": 10**9, "buffer_size": 1000}
    assert zero["zero_optimization"]["offload_param"] == disk, "DeepSpeed allocates five buffers of that size"
    assert zero["zero_optimization"]["stage3_prefetch_bucket_size"] == 0
    assert config()["zero_optimization"]["offload_param"] == {"device": "none"}


def test_what_belongs_to_stage_3_is_left_out_below() -> None:
    assert config(secondary_shard_size=4)["zero_optimization"]["zero_hpz_partition_size"] == 4
    assert "zero_hpz_partition_size" not in config(stage=2)["zero_optimization"]
    assert "offload_param" not in config(stage=1)["zero_optimization"]
