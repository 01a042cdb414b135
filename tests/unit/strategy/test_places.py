"""A block of a tensor is a range where its elements follow each other, and a box where they do not."""

import pytest
import torch

from distmlp.shards import Box, Range
from distmlp.strategy.places import block


@pytest.mark.parametrize(
    ("whole", "offset", "shape", "expected"),
    [
        ((6, 4), (2, 0), (3, 4), Range(8, 20)),  # rows
        ((6, 4), (0, 2), (6, 2), Box((0, 2), (6, 2))),  # columns
        ((6, 4), (1, 2), (1, 2), Range(6, 8)),  # a part of one row
        ((6, 4), (1, 1), (2, 3), Box((1, 1), (2, 3))),
        ((7,), (3,), (4,), Range(3, 7)),
        ((1, 5, 2), (0, 2, 0), (1, 3, 2), Range(4, 10)),
        ((2, 5, 2), (0, 2, 0), (2, 3, 2), Box((0, 2, 0), (2, 3, 2))),
        ((3, 2, 2), (2, 1, 1), (1, 1, 1), Range(11, 12)),
        ((), (), (), Range(0, 1)),
        ((6, 4), (6, 0), (0, 4), Range(0, 0)),
    ],
)
def test_blocks(whole: tuple[int, ...], offset: tuple[int, ...], shape: tuple[int, ...], expected: Range | Box) -> None:
    found = block(whole, offset, shape)
    assert found == expected
    if isinstance(found, Range):
        every = torch.arange(torch.Size(whole).numel())
        cut = every.view(whole)[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))]
        assert torch.equal(every[found.start : found.stop], cut.flatten())
