"""DeepSpeed's own configuration for a strategy's options: a pure function, so that a test can read what DeepSpeed gets.

Names and meanings: https://www.deepspeed.ai/docs/config-json/. What is left out keeps DeepSpeed's default.
"""

from dataclasses import dataclass
from typing import Any

import torch

from distmlp.strategy.precision import Precision

NEVER = 2**62  # steps between two reports of DeepSpeed's
WEIGHTS_IN_MEMORY = 10**9  # of a rank: those beyond lie on the disk, where weights are offloaded to it
WEIGHTS_AT_ONCE = 10**8  # largest part of a parameter that is read from the disk: DeepSpeed allocates five such buffers


@dataclass(frozen=True)
class ZeroOptions:
    """What is sharded, where it lives and how it is exchanged (Rajbhandari et al., "ZeRO", SC 2020, and what followed).

    Args:
        stage: 1 shards optimizer states, 2 gradients too, 3 weights too.
        offload_optimizer: where optimizer states live and step: ``none`` (on the device), ``cpu`` or ``nvme``.
        offload_parameters: where shards of weights live (stage 3): the same choices.
        nvme_path: folder for what is offloaded to ``nvme``.
        reduce_dtype: format in which gradients are exchanged: fp32, bf16 or fp16.
        bucket_elements: gradient values that are reduced at once.
        whole_below_elements: weights with fewer values stay whole on every rank (stage 3): fewer, larger messages.
        overlap_communication: reduces while the backward pass goes on, on a CUDA stream of its own.
        secondary_shard_size: neighbouring ranks that hold a second copy of the weights (ZeRO++ hpZ); 1: none.
        quantized_weights: gathers weights as 8-bit integers (ZeRO++ qwZ).
        quantized_gradients: reduces gradients as 4-bit integers (ZeRO++ qgZ).
    """

    stage: int
    offload_optimizer: str = "none"
    offload_parameters: str = "none"
    nvme_path: str | None = None
    reduce_dtype: str = "fp32"
    bucket_elements: int = 500_000_000
    whole_below_elements: int = 100_000
    overlap_communication: bool = True
    secondary_shard_size: int = 1
    quantized_weights: bool = False
    quantized_gradients: bool = False

    @property
    def uses_disk(self) -> bool:
        return "nvme" in (self.offload_optimizer, self.offload_parameters)


def deepspeed_config(
    zero: ZeroOptions, *, precision: Precision, max_norm: float | None, device_type: str, num_elements: int
) -> dict[str, Any]:
    """The dictionary that `deepspeed.initialize` takes.

    Args:
        zero: the strategy's options.
        precision: of the run; mixed formats make DeepSpeed keep a sharded 32-bit copy of 16-bit weights.
        max_norm: largest norm of the gradient; None: no clipping.
        device_type: ``cuda`` or ``cpu``.
        num_elements: values in the network.
    """
    return {
        # Batches are ours: these only have to agree with each other.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_norm or 0.0,
        "steps_per_print": NEVER,
        "zero_allow_untested_optimizer": True,
        # torch's optimizers step in host memory too; DeepSpeed's own would be compiled first, for minutes.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(zero, device_type, num_elements),
        "communication_data_type": zero.reduce_dtype,
        # Micro-batches add up in the format of the weights that are stepped, as everywhere else.
        "data_types": {"grad_accum_dtype": "fp32" if precision.weights == torch.float32 else "bf16"},
        "bf16": {"enabled": precision.compute == torch.bfloat16} | _without_masters(precision),
        "fp16": {"enabled": precision.compute == torch.float16},
    }


def _without_masters(precision: Precision) -> dict[str, bool]:
    only = precision.weights == torch.bfloat16
    return {"bf16_master_weights_and_grads": only, "bf16_optimizer_states": only}


def _zero(zero: ZeroOptions, device_type: str, num_elements: int) -> dict[str, Any]:
    bucket = min(zero.bucket_elements, num_elements)  # DeepSpeed allocates the whole of it
    section: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": bucket,
        "overlap_comm": zero.overlap_communication and device_type == "cuda",
        "offload_optimizer": _offload(zero.offload_optimizer, zero.nvme_path, device_type),
    }
    if zero.stage == 3:
        section |= {
            "offload_param": _offload(zero.offload_parameters, zero.nvme_path, device_type),
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": zero.whole_below_elements,
            "zero_hpz_partition_size": zero.secondary_shard_size,
            "zero_quantized_weights": zero.quantized_weights,
            "zero_quantized_gradients": zero.quantized_gradients,
        }
    if zero.offload_parameters == "nvme":
        section["offload_param"] |= {"max_in_cpu": WEIGHTS_IN_MEMORY, "buffer_size": min(WEIGHTS_AT_ONCE, num_elements)}
        # DeepSpeed 0.19.8 prefetches a weight from the disk twice at once, and ends with an error.
        section["stage3_prefetch_bucket_size"] = 0
    return section


def _offload(where: str, folder: str | None, device_type: str) -> dict[str, Any]:
    if where == "none":
        return {"device": "none"}
    # Pages that cannot be swapped out are what a GPU copies from while it computes.
    section: dict[str, Any] = {"device": where, "pin_memory": device_type == "cuda"}
    return section | ({"nvme_path": folder} if where == "nvme" else {})
