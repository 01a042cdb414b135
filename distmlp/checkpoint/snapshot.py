"""What a rank writes of a step, copied off the device into one buffer, so that training goes on while it is written."""

from dataclasses import dataclass

import torch
from torch import Tensor

from distmlp.checkpoint.manifest import Piece
from distmlp.checkpoint.tensor_file import DTYPE_NAMES, FileLayout
from distmlp.shards import Box, Range, Shard


@dataclass(frozen=True)
class Written:
    """A tensor of a rank's file: the whole that it is a part of, and which part."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    part: Range | Box

    def piece(self, file: str) -> Piece:
        return Piece(file, self.key, self.part)


class Snapshot:
    """A buffer in host memory, laid out as the file that it becomes. It is made once and used by every save.

    Args:
        pinned: in page-locked memory, which a GPU copies into without help.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self.written: list[Written] = []
        self.layout = FileLayout({})
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.views: dict[str, Tensor] = {}

    def prepare(self, shards: list[Shard]) -> None:
        """Makes the buffer; the system hands its memory out now and not at the first `take`, which takes long."""
        self._lay_out(_own_parts(shards))
        if not self.pinned:
            self.buffer.zero_()

    def take(self, shards: list[Shard]) -> None:
        """Copies this rank's part of ``shards``; waits for the device."""
        own = _own_parts(shards)
        if [written for written, _ in own] != self.written:
            self._lay_out(own)
        for written, values in own:
            self.views[written.key].copy_(values.detach(), non_blocking=self.pinned)
        if self.pinned:
            torch.cuda.current_stream().synchronize()

    def bytes(self) -> memoryview:
        """The data of the file."""
        return self.buffer.numpy().data

    def _lay_out(self, own: list[tuple[Written, Tensor]]) -> None:
        # The former one is free before the new is made; where there is no memory for that, nothing is laid out.
        self.written, self.views, self.buffer = [], {}, torch.empty(0, dtype=torch.uint8)
        tensors = {written.key: (values.dtype, tuple(values.shape)) for written, values in own}
        assert len(tensors) == len(own), "a rank holds two parts of one tensor"
        self.layout = FileLayout(tensors)
        self.buffer = torch.empty(self.layout.num_bytes, dtype=torch.uint8, pin_memory=self.pinned)
        self.views = self.layout.views(self.buffer)
        self.written = [written for written, _ in own]


def _own_parts(shards: list[Shard]) -> list[tuple[Written, Tensor]]:
    return [part for shard in shards if (part := own_part(shard)) is not None]


def own_part(shard: Shard) -> tuple[Written, Tensor] | None:
    """What this rank writes of ``shard``: ranks that hold the same part share its elements out, or its first has it."""
    place, values = shard.place, shard.tensor
    part: Range | Box = place.part
    if isinstance(part, Range):
        size, index, number = part.num_elements, place.copy, place.num_copies
        first, after = size * index // number, size * (index + 1) // number
        part = Range(part.start + first, part.start + after)
        values = values.reshape(-1)[first:after]
    elif place.copy:
        return None
    elif part.shape == place.shape:
        part = Range(0, part.num_elements)
    if not part.num_elements and (place.copy or place.shape.count(0) == 0):
        return None
    if isinstance(part, Range) and values.numel() == _num_elements(place.shape):
        values = values.view(place.shape)  # so that any reader of safetensors sees its shape
    return Written(f"{shard.kind}/{place.name}", place.shape, DTYPE_NAMES[values.dtype], part), values


def _num_elements(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
