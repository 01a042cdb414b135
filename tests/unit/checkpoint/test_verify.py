"""Every change of any byte of a checkpoint shows, and the file is named."""

import random
from pathlib import Path

import pytest
import torch

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.reader import STATE, CheckpointReader
from distmlp.checkpoint.storage import LocalStorage
from distmlp.shards import Place, Range, Shard

SHARDS = [f"tensors-{rank:05d}-of-00002.safetensors" for rank in range(2)]
FILES = [*SHARDS, STATE, MANIFEST]


@pytest.fixture
def folder(local: LocalStorage, save, small) -> Path:
    return local.root / save(local, small)


def wrong(folder: Path) -> list[str]:
    """What a reader says of a checkpoint."""
    try:
        with CheckpointReader(LocalStorage(folder.parent), folder.name) as checkpoint:
            return checkpoint.damages()
    except DamagedError as error:
        return [str(error)]


@pytest.mark.parametrize("name", FILES)
def test_each_byte_counts(folder: Path, name: str) -> None:
    assert wrong(folder) == []
    path = folder / name
    text = path.read_bytes()
    for position in range(len(text)):
        changed = bytearray(text)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        [line] = wrong(folder)
        assert name in line, (position, line)
    path.write_bytes(text)
    assert wrong(folder) == []


@pytest.mark.parametrize("name", [SHARDS[0], MANIFEST])
def test_each_bit_of_some_bytes_counts(folder: Path, name: str) -> None:
    path, rng = folder / name, random.Random(0)
    text = path.read_bytes()
    for position in rng.sample(range(len(text)), 20):
        for bit in range(8):
            changed = bytearray(text)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            assert len(wrong(folder)) == 1, (position, bit)


def test_bytes_of_a_larger_file_count(local: LocalStorage, save) -> None:
    values = torch.randn(3_000_000)
    name = save(local, [[Shard("weights", Place("w", (3_000_000,), Range(0, 3_000_000)), values)]])
    path, rng = local.root / name / "tensors-00000-of-00001.safetensors", random.Random(0)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for position in [0, 7, size - 1, 8 * 2**20 - 1, 8 * 2**20, *rng.sample(range(size), 25)]:
            file.seek(position)
            [byte] = file.read(1)
            for value, expected in ((byte ^ 16, 1), (byte, 0)):
                file.seek(position)
                file.write(bytes([value]))
                file.flush()
                assert len(wrong(path.parent)) == expected, position


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 0.5, -1])
def test_a_file_that_was_cut_is_named(folder: Path, name: str, keep: float) -> None:
    path = folder / name
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * keep) if isinstance(keep, float) else keep % size)
    [line] = wrong(folder)
    assert name in line


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_more_at_its_end_is_named(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    [line] = wrong(folder)
    assert name in line


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    [line] = wrong(folder)
    assert name in line
    assert "missing" in line


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_nowhere_in_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "nowhere")
    [line] = wrong(folder)
    assert name in line


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    [line] = wrong(folder)
    assert name in line


def test_two_files_of_one_size_that_changed_places_are_named(local: LocalStorage, save) -> None:
    shards = [[Shard("weights", Place("w", (4,), Range(2 * r, 2 * r + 2)), torch.full((2,), r))] for r in range(2)]
    folder = local.root / save(local, shards)
    first, second = (folder / name for name in SHARDS)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    lines = wrong(folder)
    assert [name in line for name, line in zip(SHARDS, lines, strict=True)] == [True, True]


def test_the_manifest_of_another_step_does_not_fit(local: LocalStorage, save, small, folder: Path) -> None:
    other = local.root / save(local, small, step=20)
    (folder / STATE).write_bytes((other / STATE).read_bytes())
    [line] = wrong(folder)
    assert STATE in line


def test_every_damaged_file_has_its_line(folder: Path) -> None:
    for name in SHARDS:
        (folder / name).write_bytes(b"")
    assert len(wrong(folder)) == 2


def test_the_state_alone_is_verified_when_it_is_read(local: LocalStorage, folder: Path) -> None:
    text = (folder / STATE).read_bytes()
    (folder / STATE).write_bytes(text.replace(b"10", b"20"))
    with CheckpointReader(local, folder.name) as checkpoint, pytest.raises(DamagedError, match=f"{STATE} is damaged"):
        _ = checkpoint.state


def test_progress_is_told_of_every_byte(local: LocalStorage, folder: Path) -> None:
    told: list[int] = []
    with CheckpointReader(local, folder.name) as checkpoint:
        checkpoint.damages(told.append)
        assert sum(told) == sum(size for size, _ in checkpoint.manifest.files.values())
