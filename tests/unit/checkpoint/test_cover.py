"""Parts make up a tensor only where each element is in exactly one of them."""

import itertools
import random
import time

import pytest

from distmlp.checkpoint.cover import covers
from distmlp.shards import Box, Range


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ([Range(0, 6)], (2, 3)),
        ([Range(4, 6), Range(0, 4)], (6,)),
        ([Range(0, 1)], ()),
        ([Range(0, 0)], (3, 0)),
        ([Range(0, 0), Range(0, 0)], (0,)),
        ([Box((0, 0), (2, 1)), Box((0, 1), (2, 2))], (2, 3)),
        ([Box((0, 0), (1, 2)), Box((1, 0), (1, 2)), Box((0, 2), (2, 1))], (2, 3)),
    ],
)
def test_exact_parts_cover(parts: list[Range | Box], shape: tuple[int, ...]) -> None:
    assert covers(parts, shape)


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ([], (3,)),
        ([], (0,)),
        ([Range(0, 5)], (6,)),
        ([Range(1, 6)], (6,)),
        ([Range(0, 7)], (6,)),
        ([Range(0, 4), Range(3, 6)], (6,)),
        ([Range(0, 2), Range(3, 6)], (6,)),
        ([Range(0, 3), Range(0, 3)], (6,)),  # as many elements as the tensor
        ([Range(0, 4), Range(4, 2), Range(2, 6)], (6,)),
        ([Range(0, 6), Range(6, 0), Range(0, 6)], (6,)),
        ([Box((0, 0), (2, 2)), Box((0, 1), (2, 1))], (2, 3)),  # two columns twice, one never
        ([Box((0, 0), (2, 2))], (2, 3)),
        ([Box((0, 1), (2, 3))], (2, 3)),
        ([Box((-1, 0), (2, 3))], (2, 3)),
        ([Box((0, 0), (-2, -3))], (2, 3)),
        ([Box((0,), (6,))], (2, 3)),
        ([Box((), ())], ()),
        ([Box((0, 0), (3, 0))], (3, 0)),
        ([Range(0, 3), Box((1, 0), (1, 3))], (2, 3)),
    ],
)
def test_holes_overlaps_and_strays_do_not_cover(parts: list[Range | Box], shape: tuple[int, ...]) -> None:
    assert not covers(parts, shape)


def cells(box: Box) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(o, o + s) for o, s in zip(box.offset, box.shape, strict=True))))


def test_boxes_cover_as_counting_each_element_says() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(4000):
        shape = (rng.randint(1, 2), rng.randint(1, 3))
        boxes = []
        for _ in range(rng.randint(1, 3)):
            offset = tuple(rng.randrange(size) for size in shape)
            boxes.append(Box(offset, tuple(rng.randint(1, s - o) for o, s in zip(offset, shape, strict=True))))
        counted = sorted(itertools.chain.from_iterable(cells(box) for box in boxes))
        exact = counted == sorted(itertools.product(*map(range, shape)))
        assert covers(boxes, shape) == exact, (boxes, shape)
        seen.add(exact)
    assert seen == {True, False}


@pytest.mark.parametrize(("rows", "columns"), [(4096, 1), (1, 4096), (64, 64)])
def test_thousands_of_ranks_are_checked_in_a_moment(rows: int, columns: int) -> None:
    boxes = [Box((2 * r, 3 * c), (2, 3)) for r in range(rows) for c in range(columns)]
    started = time.process_time()
    assert covers(boxes, (2 * rows, 3 * columns))
    assert time.process_time() - started < 5  # comparing each with each takes half a minute
