"""Where DeepSpeed keeps what: which elements of its flat tensors are which elements of a parameter.

ZeRO-1 and -2 lay the parameters of a group one after the other, pad the end and cut the whole into equal parts, one for
each rank: a parameter may lie on several. ZeRO-3 cuts each parameter, pads its end, and lays a rank's parts together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distmlp.shards import Place, Range


@dataclass(frozen=True, slots=True)
class Piece:
    """What lies in the flat tensor ``group`` from element ``start`` on. Padding is in no piece."""

    group: int
    start: int
    place: Place

    def of(self, flat: Tensor) -> Tensor:
        """The view of it in a flat tensor of its group: of weights, of an average or of a state."""
        return flat.detach().narrow(0, self.start, self.place.part.num_elements)


def flat_masters(sharded: Any) -> list[Tensor]:
    """What DeepSpeed's optimizer steps: this rank's part of each group of weights, flat and padded."""
    names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
    (flats,) = (getattr(sharded, name) for name in names if hasattr(sharded, name))
    return list(flats)


def pieces(sharded: Any, names: Mapping[Tensor, str]) -> list[Piece]:
    """All that this rank has of the parameters in ``names``."""
    if hasattr(sharded, "fp16_groups"):
        return list(_pieces_of_stage_3(sharded, names))
    return list(_pieces_of_stage_1_and_2(names))


def _pieces_of_stage_1_and_2(names: Mapping[Tensor, str]) -> Iterator[Piece]:
    for parameter, name in names.items():
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is not None:  # this rank has a part of it
            of_parameter, of_flat = mapping.lp_fragment_address, mapping.hp_fragment_address
            part = Range(of_parameter.start, of_parameter.start + of_parameter.numel)
            yield Piece(mapping.param_group_index, of_flat.start, Place(name, tuple(parameter.shape), part))


def _pieces_of_stage_3(sharded: Any, names: Mapping[Tensor, str]) -> Iterator[Piece]:
    for group, parameters in enumerate(sharded.fp16_groups):
        start = 0
        for parameter in parameters:
            yield Piece(group, start, partition_place(sharded, names[parameter], parameter))
            start += parameter.partition_numel()


def partition_place(sharded: Any, name: str, parameter: Any) -> Place:
    """This rank's part of a parameter under ZeRO-3."""
    size, rank = parameter.partition_numel(), sharded._get_param_partition_rank(parameter)
    start, stop = (min(parameter.ds_numel, size * index) for index in (rank, rank + 1))
    return Place(name, tuple(parameter.ds_shape), Range(start, stop))


def partition_memory(place: Place, parameter: Any) -> Tensor:
    """The memory of that part, in the format that the network computes in."""
    partition: Tensor = parameter.ds_tensor.detach()
    return partition.narrow(0, 0, place.part.num_elements)


def named(network: nn.Module) -> dict[Tensor, str]:
    """Names of the trainable parameters."""
    return {parameter: name for name, parameter in network.named_parameters() if parameter.requires_grad}
