"""strategy=hsdp: FSDP2 inside groups of ranks, usually a node, and replicas across them.

Weights are gathered over the fast links inside a group; only gradients cross between groups.
"""

from typing import Any

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from distmlp.strategy.fsdp2 import FSDP2


class HSDP(FSDP2):
    """FSDP2 whose weights are shared by ``shard_size`` neighbouring ranks, one replica in each group."""

    def __init__(self, *, shard_size: int, **options: Any) -> None:
        super().__init__(**options)
        self.shard_size = shard_size

    def shard_mesh(self) -> DeviceMesh:
        shape = (self.data_world_size // self.shard_size, self.shard_size)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))
