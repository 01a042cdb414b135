"""Where in a whole tensor the part lies that this rank holds, for tensors that are replicated or DTensors."""

from collections.abc import Sequence
from math import prod

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from distmlp.shards import Box, Place, Range

Copy = tuple[int, int]  # which copy a rank holds, and how many ranks hold one


def place_of(name: str, tensor: Tensor, copy: Copy) -> Place:
    """The part of ``tensor`` on this rank.

    Args:
        copy: among the ranks that hold the same part; copies that a DTensor has on its own mesh come on top.
    """
    if not isinstance(tensor, DTensor):
        return Place(name, tuple(tensor.shape), Range(0, tensor.numel()), *copy)
    mesh = tensor.device_mesh
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, tensor.placements)
    index, number = copy
    for dimension, placement in enumerate(tensor.placements):
        assert not placement.is_partial()
        if placement.is_replicate():
            index = index * mesh.size(dimension) + mesh.get_local_rank(dimension)
            number *= mesh.size(dimension)
    return Place(name, tuple(tensor.shape), block(tensor.shape, offset, shape), index, number)


def block(whole: Sequence[int], offset: Sequence[int], shape: Sequence[int]) -> Range | Box:
    """A block of a tensor of shape ``whole``: a range, where its elements lie one after the other in the whole."""
    size = prod(shape)
    if size == 0:
        return Range(0, 0)
    first = next((d for d, length in enumerate(shape) if length > 1), len(shape))
    if tuple(shape[first + 1 :]) != tuple(whole[first + 1 :]):
        return Box(tuple(offset), tuple(shape))
    start = sum(o * prod(whole[d + 1 :]) for d, o in enumerate(offset))
    return Range(start, start + size)


def memory(tensor: Tensor) -> Tensor:
    """This rank's part of ``tensor`` itself, to be read and written."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()
