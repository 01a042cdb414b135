"""strategy=fsdp2: weights, gradients and optimizer states sharded over all ranks, gathered block by block.

torch's `fully_shard` (Zhao et al., "PyTorch FSDP", VLDB 2023), the form that shards each parameter. They become
DTensors, whose names stay what they were.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distmlp.strategy.base import ParallelSpread

REDUCE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FSDP2(ParallelSpread):
    """Shards each module of ``network.blocks`` by itself, and what is left as one more group.

    Gradients are reduced after each micro-batch: whole gradients never add up on a rank, which is what sharding is for.

    Args:
        reshard_after_forward: frees a block's gathered weights after its forward pass, and gathers them again for the
            backward pass; False keeps them: more memory, a third less communication.
        cpu_offload: shards and optimizer steps live in host memory.
        reduce_dtype: format in which gradients are exchanged: fp32, bf16 or fp16.
        options: of `ParallelSpread`.
    """

    def __init__(
        self,
        *,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        reduce_dtype: str = "fp32",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.reduce_dtype = REDUCE_DTYPES[reduce_dtype]

    def shard_mesh(self) -> DeviceMesh:
        """The ranks that share one copy of the weights."""
        return init_device_mesh(self.device.type, (self.data_world_size,), mesh_dim_names=("shard",))

    def autocast(self) -> AbstractContextManager[object]:
        """Nothing: `fully_shard` casts weights before it gathers them, and what goes into a block."""
        return nullcontext()

    def place(self, network: nn.Module) -> nn.Module:
        shared: dict[str, Any] = {
            "mesh": self.shard_mesh(),
            "mp_policy": self._mixed_precision(),
            "offload_policy": CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
            if self.cpu_offload
            else OffloadPolicy(),
        }
        for block in getattr(network, "blocks", []):
            fully_shard(block, reshard_after_forward=self.reshard_after_forward, **shared)
        # The root's weights are needed again at the start of the backward pass: freeing them would save nothing.
        fully_shard(network, reshard_after_forward=False, **shared)
        return network

    def _mixed_precision(self) -> MixedPrecisionPolicy:
        compute = self.precision.compute if self.precision.is_mixed else None
        return MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=self.reduce_dtype, output_dtype=None)

    def local_master_weights(self) -> list[Tensor]:
        self.after_evaluation()  # what stayed gathered stands in the place of the shards
        assert self.network is not None
        weights = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return [weight.to_local().data if isinstance(weight, DTensor) else weight.data for weight in weights]

    def publish_master_weights(self) -> None:
        self.after_evaluation()

    def parameters_held(self, *, trainable: bool) -> list[tuple[str, nn.Parameter]]:
        self.after_evaluation()
        return super().parameters_held(trainable=trainable)

    def after_evaluation(self) -> None:
        """Frees what stayed gathered, so that the next pass gathers the weights as they then are."""
        assert self.network is not None
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def abandon_pass(self) -> None:
        assert isinstance(self.network, FSDPModule)
        self.network.reset_iter_state()
        super().abandon_pass()

    def full_weights(self) -> dict[str, Tensor]:
        assert self.network is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_model_state_dict(self.network, options=options))  # type: ignore[arg-type]
