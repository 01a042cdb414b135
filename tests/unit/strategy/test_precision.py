"""A format that the device lacks is refused with what it has; the others compute in what they say."""

import pytest
import torch
from torch import nn

from distmlp.errors import ConfigError
from distmlp.strategy.precision import PRECISIONS, precision_on

HAS_FP16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()


@pytest.mark.parametrize(
    ("name", "device_type", "message"),
    [
        (
            "tf32",
            "cpu",
            "precision=tf32 is a format of NVIDIA's tensor cores, and this run is on cpu: use precision=fp32",
        ),
        (
            "fp8",
            "cpu",
            "precision=fp8 needs an NVIDIA GPU of compute capability 8.9 or newer, and this run is on cpu: use "
            "precision=bf16_mixed",
        ),
        (
            "tf32",
            "mps",
            "precision=tf32 is a format of NVIDIA's tensor cores, and this run is on mps: use precision=fp32",
        ),
    ],
)
def test_a_format_that_the_device_lacks_is_refused(name: str, device_type: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        precision_on(name, device_type)
    assert str(raised.value) == message


def test_float16_is_refused_on_a_cpu_without_it_and_taken_on_one_with_it() -> None:
    if HAS_FP16:
        assert precision_on("fp16_mixed", "cpu").scales_loss
        return
    with pytest.raises(
        ConfigError, match=r"^precision=fp16_mixed needs a CPU with AVX512-FP16, and this one lacks it: use"
    ):
        precision_on("fp16_mixed", "cpu")


@pytest.mark.parametrize("name", ["fp32", "bf16_mixed", "bf16_true"])
def test_weights_and_products_have_the_formats_that_the_name_says(name: str) -> None:
    precision = precision_on(name, "cpu")
    network = nn.Linear(4, 4)
    precision.prepare(network)
    assert network.weight.dtype == {"bf16_true": torch.bfloat16}.get(name, torch.float32)
    with precision.autocast("cpu"):
        outputs = network(torch.zeros(1, 4, dtype=precision.weights))
    assert outputs.dtype == (torch.float32 if name == "fp32" else torch.bfloat16)


def test_only_float16_scales_its_loss() -> None:
    assert [name for name, precision in PRECISIONS.items() if precision.scales_loss] == ["fp16_mixed"]
