"""strategy=ddp: a replica on every rank, gradients averaged (Li et al., "PyTorch Distributed", VLDB 2020)."""

import gc
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distmlp.shards import Place, Range
from distmlp.strategy.base import ParallelSpread


class DDP(ParallelSpread):
    """DistributedDataParallel around the network itself, so that its own rules for accumulation hold.

    Args:
        bucket_view: gradients are views of the buckets that are exchanged, which spares a copy of them.
        static_graph: the same parameters are used in the same order in each pass; saves bookkeeping.
        bucket_megabytes: gradients exchanged at once.
        find_unused_parameters: for networks that leave parameters out in some passes; costs a walk of the graph.
        options: of `ParallelSpread`.
    """

    run: DistributedDataParallel
    syncs_each_micro_batch = False

    def __init__(
        self,
        *,
        bucket_view: bool = True,
        static_graph: bool = False,
        bucket_megabytes: float = 25.0,
        find_unused_parameters: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.is_recorded = not static_graph
        self.ddp_options: dict[str, Any] = {
            "gradient_as_bucket_view": bucket_view,
            "static_graph": static_graph,
            "bucket_cap_mb": bucket_megabytes,
            "find_unused_parameters": find_unused_parameters,
        }

    def place(self, network: nn.Module) -> nn.Module:
        network.to(self.device)
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Statistics are broadcast before an evaluation; DDP would do so in each forward pass.
        ddp = DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False, **self.ddp_options)
        if not self.ddp_options["static_graph"] and not self.ddp_options["find_unused_parameters"]:
            _settle_buckets(ddp)
        self.register_hook(ddp)
        return ddp

    def register_hook(self, ddp: DistributedDataParallel) -> None:
        """For strategies that exchange gradients in another form."""

    def local_master_weights(self) -> list[Tensor]:
        """This rank's part of each weight: together the ranks have all of it."""
        return self._parts(self.global_rank)

    def publish_master_weights(self) -> None:
        for rank in range(self.world_size):
            parts = self._parts(rank)
            values = torch.cat(parts)
            torch.distributed.broadcast(values, src=rank)
            for part, value in zip(parts, values.split([len(part) for part in parts]), strict=True):
                part.copy_(value)

    def average_places(self) -> list[Place]:
        places = super().average_places()
        parts = [self._part(place.part.num_elements, self.global_rank) for place in places]
        return [Place(place.name, place.shape, part) for place, part in zip(places, parts, strict=True)]

    def _parts(self, rank: int) -> list[Tensor]:
        flat = [weight.view(-1) for weight in super().local_master_weights()]
        parts = [self._part(len(weight), rank) for weight in flat]
        return [weight[part.start : part.stop] for weight, part in zip(flat, parts, strict=True)]

    def _part(self, num_elements: int, rank: int) -> Range:
        return Range(num_elements * rank // self.world_size, num_elements * (rank + 1) // self.world_size)

    def abandon_pass(self) -> None:
        """Wraps the network anew: DDP cannot take back an exchange that it has begun."""
        super().abandon_pass()
        assert self.network is not None
        del self.run
        gc.collect()  # the wrapper's hooks on the parameters end with it
        self.run = self.place(self.network)  # type: ignore[assignment]

    def sync(self, is_last: bool) -> AbstractContextManager[object]:
        # A static graph is recorded in the first pass, which must exchange gradients; averaging them again is harmless.
        is_recorded, self.is_recorded = self.is_recorded, True
        return nullcontext() if is_last or not is_recorded else self.run.no_sync()


def _settle_buckets(ddp: DistributedDataParallel) -> None:
    """Has DDP lay out its buckets now, in an order that follows from the network alone.

    It would do so after the first pass, in the order in which gradients came. Sums over three ranks and more depend on
    where in a bucket a gradient lies, so a run that is resumed would begin with other sums than the run it continues.
    """
    weights = [weight for weight in ddp.module.parameters() if weight.requires_grad]
    ddp.reducer.prepare_for_forward()
    ddp.reducer.prepare_for_backward([])
    torch.stack([weight.sum().float() * 0.0 for weight in weights]).sum().backward()
    ddp.reducer._rebuild_buckets()
    for weight in weights:
        weight.grad = None
