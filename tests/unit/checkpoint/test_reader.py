"""However ranks had divided a tensor, any part of it is read back bit by bit."""

import random
from itertools import pairwise
from math import prod

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import LocalStorage
from distmlp.shards import Box, Place, Range, Shard

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view(-1).view(torch.uint8)


def some_tensor(rng: random.Random) -> Tensor:
    dtype = rng.choice(DTYPES)
    shape = tuple(rng.choice([1, 2, 3, 5, 8]) for _ in range(rng.randint(0, 3)))
    if rng.random() < 0.1 and shape:
        shape = (*shape[:-1], 0)
    size = dtype.itemsize * prod(shape)
    if dtype == torch.bool:
        return torch.tensor([rng.random() < 0.5 for _ in range(prod(shape))], dtype=torch.bool).view(shape)
    return (
        torch.frombuffer(bytearray(rng.randbytes(size)), dtype=dtype).view(shape)
        if size
        else torch.empty(shape, dtype=dtype)
    )


def block(values: Tensor, box: Box) -> Tensor:
    return values[tuple(slice(o, o + s) for o, s in zip(box.offset, box.shape, strict=True))]


def as_copies(rng: random.Random, name: str, values: Tensor, world: int) -> list[Shard]:
    part = Range(0, values.numel())
    return [Shard("weights", Place(name, tuple(values.shape), part, r, world), values) for r in range(world)]


def as_ranges(rng: random.Random, name: str, values: Tensor, world: int) -> list[Shard]:
    cuts = sorted(rng.randint(0, values.numel()) for _ in range(world - 1))
    parts = [Range(*ends) for ends in pairwise([0, *cuts, values.numel()])]
    flat = values.reshape(-1)
    return [Shard("weights", Place(name, tuple(values.shape), part), flat[part.start : part.stop]) for part in parts]


def as_ranges_of_pairs(rng: random.Random, name: str, values: Tensor, world: int) -> list[Shard]:
    """Every two ranks hold the same range."""
    if world % 2:
        return as_ranges(rng, name, values, world)
    once = as_ranges(rng, name, values, world // 2)
    return [
        Shard("weights", Place(name, one.place.shape, one.place.part, copy, 2), one.tensor)
        for one in once
        for copy in (0, 1)
    ]


def as_boxes(rng: random.Random, name: str, values: Tensor, world: int) -> list[Shard]:
    """As a DTensor is sharded over a dimension: the last ranks may hold nothing."""
    if not values.dim() or not values.numel():
        return as_copies(rng, name, values, world)
    dimension = rng.randrange(values.dim())
    size = -(-values.shape[dimension] // world)
    shards = []
    for rank in range(world):
        start = min(rank * size, values.shape[dimension])
        part = values.narrow(dimension, start, min(size, values.shape[dimension] - start)).contiguous()
        offset = tuple(start if d == dimension else 0 for d in range(values.dim()))
        shards.append(Shard("weights", Place(name, tuple(values.shape), Box(offset, tuple(part.shape))), part))
    return shards


def as_grid(rng: random.Random, name: str, values: Tensor, world: int) -> list[Shard]:
    """Four ranks in a square over two dimensions."""
    if world != 4 or values.dim() < 2 or min(values.shape) < 2:
        return as_boxes(rng, name, values, world)
    a, b = values.shape[0] // 2, values.shape[1] // 2
    shards = []
    for top, rows in ((0, a), (a, values.shape[0] - a)):
        for left, columns in ((0, b), (b, values.shape[1] - b)):
            box = Box((top, left, *[0] * (values.dim() - 2)), (rows, columns, *values.shape[2:]))
            shards.append(Shard("weights", Place(name, tuple(values.shape), box), block(values, box).contiguous()))
    return shards


DIVISIONS = [as_copies, as_ranges, as_ranges_of_pairs, as_boxes, as_grid]


@pytest.mark.parametrize("divide", DIVISIONS, ids=lambda divide: divide.__name__)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_part_is_read_back_as_it_was(local: LocalStorage, save, world: int, divide) -> None:
    rng = random.Random(f"{world} {divide.__name__}")
    tensors = {f"t{number}": some_tensor(rng) for number in range(25)}
    divided = [divide(rng, name, values, world) for name, values in tensors.items()]
    name = save(local, [list(of_rank) for of_rank in zip(*divided, strict=True)])
    with CheckpointReader(local, name) as checkpoint:
        assert checkpoint.damages() == []
        for key, values in tensors.items():
            found = checkpoint.whole("weights", key)
            assert found.shape == values.shape
            assert found.dtype == values.dtype
            assert torch.equal(bits(found), bits(values)), key
            for _ in range(5):
                check_range(rng, checkpoint, key, values)
                check_box(rng, checkpoint, key, values)


def check_range(rng: random.Random, checkpoint: CheckpointReader, key: str, values: Tensor) -> None:
    start, stop = sorted(rng.randint(0, values.numel()) for _ in range(2))
    found = checkpoint.read("weights", Place(key, tuple(values.shape), Range(start, stop)))
    assert torch.equal(bits(found), bits(values.reshape(-1)[start:stop])), (key, start, stop)


def check_box(rng: random.Random, checkpoint: CheckpointReader, key: str, values: Tensor) -> None:
    ends = [sorted(rng.randint(0, size) for _ in range(2)) for size in values.shape]
    box = Box(tuple(a for a, _ in ends), tuple(b - a for a, b in ends))
    found = checkpoint.read("weights", Place(key, tuple(values.shape), box))
    assert found.shape == box.shape
    assert torch.equal(bits(found), bits(block(values, box))), (key, box)


@pytest.mark.parametrize("world", [1, 3])
def test_the_safetensors_library_reads_our_files(local: LocalStorage, save, world: int) -> None:
    rng = random.Random(0)
    tensors = {f"t{number}": some_tensor(rng) for number in range(30)}
    divided = [as_ranges(rng, name, values, world) for name, values in tensors.items()]
    name = save(local, [list(of_rank) for of_rank in zip(*divided, strict=True)])
    found: dict[str, list[Tensor]] = {}
    for rank in range(world):
        path = local.root / name / f"tensors-{rank:05d}-of-{world:05d}.safetensors"
        for key, values in load_file(path).items():
            found.setdefault(key.removeprefix("weights/"), []).append(bits(values))
    for key, values in tensors.items():
        assert torch.equal(torch.cat(found[key]), bits(values)), key


def test_a_whole_tensor_has_its_shape_in_the_file(local: LocalStorage, save) -> None:
    name = save(local, [as_copies(random.Random(0), "w", torch.ones(2, 3), 1)])
    assert load_file(local.root / name / "tensors-00000-of-00001.safetensors")["weights/w"].shape == (2, 3)


def test_ranks_with_the_same_values_share_the_writing(local: LocalStorage, save) -> None:
    name = save(local, list(zip(*[as_copies(random.Random(0), "w", torch.ones(100, 100), 4)], strict=True)))
    sizes = [local.size(f"{name}/tensors-{rank:05d}-of-00004.safetensors") for rank in range(4)]
    assert all(10_000 <= size < 10_500 for size in sizes)


def test_a_part_of_the_file_is_enough_for_a_part_of_the_tensor(local: LocalStorage, save, small) -> None:
    name = save(local, small)
    (local.root / name / "tensors-00001-of-00002.safetensors").unlink()
    with CheckpointReader(local, name) as checkpoint:
        assert checkpoint.read("weights", Place("w", (3, 4), Range(1, 4))).tolist() == [1.0, 2.0, 3.0]


def test_another_shape_is_refused_with_both(local: LocalStorage, save, small) -> None:
    with (
        CheckpointReader(local, save(local, small)) as checkpoint,
        pytest.raises(DamagedError, match=r"w has shape \(3, 4\), not \(4, 3\)"),
    ):
        checkpoint.read("weights", Place("w", (4, 3), Range(0, 12)))


def test_files_of_an_earlier_attempt_are_strangers_and_no_damage(local: LocalStorage, save, small) -> None:
    name = save(local, small)
    (local.root / name / "tensors-00002-of-00003.safetensors").write_bytes(b"old")
    with CheckpointReader(local, name) as checkpoint:
        assert checkpoint.strangers() == ["tensors-00002-of-00003.safetensors"]
        assert checkpoint.damages() == []


def test_the_state_holds_that_of_the_run_and_of_each_rank(local: LocalStorage, save, small) -> None:
    with CheckpointReader(local, save(local, small)) as checkpoint:
        assert checkpoint.state == {"step": 10, "ranks": [{"rank": 0}, {"rank": 1}]}


def test_a_nan_keeps_its_bits(local: LocalStorage, save) -> None:
    """One half-precision NaN assigned through a mask becomes the standard NaN in torch 2.13."""
    values = torch.tensor([[0x7EFB], [0x7EFC]], dtype=torch.int16).view(torch.float16)
    name = save(local, [[shard] for shard in as_boxes(random.Random(0), "w", values, 2)])
    with CheckpointReader(local, name) as checkpoint:
        assert torch.equal(bits(checkpoint.whole("weights", "w")), bits(values))
