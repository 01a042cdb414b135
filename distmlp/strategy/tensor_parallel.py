"""strategy=tensor_parallel: layers split over neighbouring ranks, and FSDP2 over the rest: 2-D parallelism.

Shoeybi et al., "Megatron-LM", 2019. Ranks that split a layer hold the same samples. How the layers of a network are
split is a plan that the caller gives: this strategy knows no network.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch.distributed
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from distmlp.strategy.fsdp2 import FSDP2
from distmlp.strategy.places import Copy


class TensorParallel(FSDP2):
    """``tensor_size`` neighbouring ranks split layers as ``plan`` says; FSDP2 shards over the groups of them.

    Args:
        tensor_size: ranks that split a layer.
        plan: splits the layers of a network over a mesh, in place.
        options: of `FSDP2`.
    """

    exchanges_activations = True

    def __init__(self, *, tensor_size: int, plan: Callable[[nn.Module, DeviceMesh], None], **options: Any) -> None:
        super().__init__(**options)
        self.tensor_size = tensor_size
        self.plan = plan
        self.data_rank //= tensor_size
        self.data_world_size //= tensor_size

    @property
    def mesh(self) -> DeviceMesh:
        """Ranks as (data, tensor)."""
        assert torch.distributed.group.WORLD is not None
        return _mesh(self.device.type, self.data_world_size, self.tensor_size, torch.distributed.group.WORLD)

    @property
    def data_group(self) -> ProcessGroup:
        return self.mesh.get_group("data")

    def shard_mesh(self) -> DeviceMesh:
        return self.mesh["data"]

    def copy_of(self, tensor: Tensor) -> Copy:
        """A tensor that lies on one dimension of the mesh has a copy for each index of the other."""
        copy, number = super().copy_of(tensor)
        if isinstance(tensor, DTensor):
            known = tensor.device_mesh.mesh_dim_names or ()
            for dimension in {"data", "tensor"}.difference(known):
                size, rank = self.mesh[dimension].size(), self.mesh.get_local_rank(dimension)
                copy, number = copy * size + rank, number * size
        return copy, number

    def place(self, network: nn.Module) -> nn.Module:
        self.plan(network, self.mesh["tensor"])
        return super().place(network)


@cache
def _mesh(device_type: str, data_size: int, tensor_size: int, world: ProcessGroup) -> DeviceMesh:
    """One for all runs in a process: by its shape DTensor remembers a mesh, and would mix the groups of two."""
    return init_device_mesh(device_type, (data_size, tensor_size), mesh_dim_names=("data", "tensor"))
