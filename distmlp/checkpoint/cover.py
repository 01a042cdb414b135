"""Whether parts make up a whole tensor, each element once."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from distmlp.shards import Box, Range


def covers(parts: Sequence[Range | Box], shape: tuple[int, ...]) -> bool:
    """Whether each element of a tensor of ``shape`` is in exactly one of ``parts``, and they hold no others."""
    ranges = [part for part in parts if isinstance(part, Range)]
    boxes = [part for part in parts if isinstance(part, Box)]
    if ranges and boxes:
        return False
    return _boxes_cover(boxes, shape) if boxes else _ranges_cover(ranges, prod(shape))


def _ranges_cover(ranges: list[Range], num_elements: int) -> bool:
    ends = [(0, 0), *sorted((part.start, part.stop) for part in ranges), (num_elements, num_elements)]
    return bool(ranges) and all(before[1] == after[0] and after[0] <= after[1] for before, after in pairwise(ends))


def _boxes_cover(boxes: list[Box], shape: tuple[int, ...]) -> bool:
    """Boxes inside the tensor that share nothing and have as many elements as it, make it up."""
    if not all(_inside(box, shape) for box in boxes) or sum(box.num_elements for box in boxes) != prod(shape):
        return False
    # Swept along the dimension in which most of them lie apart: few have to be compared with one another.
    sweep = max(range(len(shape)), key=lambda dimension: len({box.offset[dimension] for box in boxes}))
    open_boxes: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.offset[sweep]):
        open_boxes = [other for other in open_boxes if other.offset[sweep] + other.shape[sweep] > box.offset[sweep]]
        if any(_overlap(box, other) for other in open_boxes):
            return False
        open_boxes.append(box)
    return True


def _inside(box: Box, shape: tuple[int, ...]) -> bool:
    if not 0 < len(shape) == len(box.offset) == len(box.shape):
        return False
    sides = zip(box.offset, box.shape, shape, strict=True)
    return all(offset >= 0 and size > 0 and offset + size <= whole for offset, size, whole in sides)


def _overlap(one: Box, other: Box) -> bool:
    sides = zip(one.offset, one.shape, other.offset, other.shape, strict=True)
    return all(a < b + b_size and b < a + a_size for a, a_size, b, b_size in sides)
