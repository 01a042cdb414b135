"""Which number formats a run computes in, and what a device must have for them.

Mixed formats keep 32-bit weights and compute in 16 bits (Micikevicius et al., "Mixed precision training", ICLR 2018);
only float16 needs its loss scaled. fp8 is torchao's dynamic scaling by tensor (Micikevicius et al., "FP8 formats for
deep learning", 2022). A device that lacks a format is refused: nothing is replaced quietly.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from distmlp.errors import ConfigError

TENSOR_CORES_TF32, TENSOR_CORES_FP8 = (8, 0), (8, 9)  # compute capabilities of Ampere and Ada


@dataclass(frozen=True)
class Precision:
    """A named choice of formats.

    Args:
        name: the choice of `precision=`.
        compute: what matrix products take and give.
        weights: what weights, and so gradients and optimizer states, are kept in.
        scales_loss: gradients are computed of a scaled loss, since the small ones would vanish in float16.
    """

    name: str
    compute: torch.dtype = torch.float32
    weights: torch.dtype = torch.float32
    scales_loss: bool = False

    @property
    def is_mixed(self) -> bool:
        return self.compute != self.weights

    def autocast(self, device_type: str) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss."""
        if not self.is_mixed:
            return nullcontext()
        return torch.autocast(device_type, dtype=self.compute)

    def prepare(self, network: nn.Module) -> None:
        """Brings ``network`` into the format of its weights, in place, before it is sharded or compiled."""
        if self.weights != torch.float32:
            network.to(self.weights)
        if self.name == "fp8":
            _use_fp8_linear_layers(network)
        if self.name in ("fp32", "tf32"):
            torch.set_float32_matmul_precision("high" if self.name == "tf32" else "highest")


PRECISIONS = {
    choice.name: choice
    for choice in (
        Precision("fp32"),
        Precision("tf32"),
        Precision("bf16_mixed", compute=torch.bfloat16),
        Precision("fp16_mixed", compute=torch.float16, scales_loss=True),
        Precision("bf16_true", compute=torch.bfloat16, weights=torch.bfloat16),
        Precision("fp8", compute=torch.bfloat16),
    )
}


def precision_on(name: str, device_type: str) -> Precision:
    """The precision called ``name``, after a check that this machine's devices of ``device_type`` have it.

    Raises:
        ConfigError: they do not; the message says what they have.
    """
    check_kind(name, device_type)
    lack = {"tf32": _lacks_tf32, "bf16_mixed": _lacks_bf16, "bf16_true": _lacks_bf16, "fp16_mixed": _lacks_fp16}
    lack |= {"fp8": _lacks_fp8}
    reason = lack[name](device_type) if name in lack else ""
    if reason:
        raise ConfigError(f"precision={name} {reason}")
    return PRECISIONS[name]


def check_kind(name: str, device_type: str) -> None:
    """Ends with a `ConfigError` where no device of ``device_type`` has the precision called ``name``."""
    if device_type == "cuda":
        return
    if name == "tf32":
        raise ConfigError(
            f"precision=tf32 is a format of NVIDIA's tensor cores, and this run is on {device_type}: use precision=fp32"
        )
    if name == "fp8":
        raise ConfigError(
            f"precision=fp8 needs an NVIDIA GPU of compute capability 8.9 or newer, and this run is on {device_type}: "
            "use precision=bf16_mixed"
        )


def _lacks_tf32(device_type: str) -> str:
    return _needs_capability(TENSOR_CORES_TF32, "precision=fp32")


def _lacks_bf16(device_type: str) -> str:
    if device_type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"needs hardware that {torch.cuda.get_device_name()} lacks: use precision=fp16_mixed or precision=fp32"
    return ""


def _lacks_fp16(device_type: str) -> str:
    if device_type == "cpu" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "needs a CPU with AVX512-FP16, and this one lacks it: use precision=bf16_mixed or precision=fp32"
    return ""


def _lacks_fp8(device_type: str) -> str:
    reason = _needs_capability(TENSOR_CORES_FP8, "precision=bf16_mixed")
    if reason:
        return reason
    try:
        import torchao.float8  # noqa: F401
    except ImportError:
        return 'needs torchao: pip install "distmlp[fp8]", or use precision=bf16_mixed'
    return ""


def _needs_capability(least: tuple[int, int], instead: str) -> str:
    have = torch.cuda.get_device_capability()
    if have >= least:
        return ""
    name = torch.cuda.get_device_name()
    return f"needs compute capability {least[0]}.{least[1]}, and {name} has {have[0]}.{have[1]}: use {instead}"


def _use_fp8_linear_layers(network: nn.Module) -> None:
    """Linear layers whose sides are multiples of 16, which the kernels need; the last one stays, for its logits."""
    from torchao.float8 import convert_to_float8_training

    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]

    def fits(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name != linear[-1] and all(n % 16 == 0 for n in module.weight.shape)

    convert_to_float8_training(network, module_filter_fn=fits)
