"""A save that fails says which rank and why, leaves nothing behind, and the checkpoint before it stays sound."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.select import newest_sound
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.writer import SaveError, StepWriter
from distmlp.shards import Place, Range, Shard

NUM_ELEMENTS = 1_000_000  # 4 MB, half of it on each of two ranks


def writer(storage: LocalStorage, rank: int, step: int = 20, attempt: str = "a", world_size: int = 2) -> StepWriter:
    stop = threading.Event()
    return StepWriter(storage, step, attempt=attempt, rank=rank, world_size=world_size, stop_waiting=stop)


def part(rank: int) -> Snapshot:
    ends = NUM_ELEMENTS // 2 * rank, NUM_ELEMENTS // 2 * (rank + 1)
    snapshot = Snapshot(pinned=False)
    snapshot.take([Shard("weights", Place("w", (NUM_ELEMENTS,), Range(*ends)), torch.ones(NUM_ELEMENTS // 2))])
    return snapshot


def fail(line: str) -> None:
    raise AssertionError(line)


def only_step_10_is_there(storage: LocalStorage) -> None:
    assert storage.names() == ["step-00000010"]
    assert newest_sound(storage, fail) == "step-00000010"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB. Where none may be mounted, the tensors of step 20 go to a device that is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        working = folder / ".step-00000020.a.tmp"
        working.mkdir()
        for rank in range(2):
            (working / f"tensors-{rank:05d}-of-00002.safetensors").symlink_to("/dev/full")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_the_save_and_nothing_else(full_disk: Path, save, small) -> None:
    storage = LocalStorage(full_disk)
    save(storage, small)
    zero = writer(storage, 0)
    with pytest.raises(SaveError, match=r"\.step-00000020\.a\.tmp cannot be written: No space left on device"):
        zero.write_part(part(0), {})
    with pytest.raises(SaveError, match=r"rank 0: .* cannot be written: No space left on device"):
        zero.commit({})
    only_step_10_is_there(storage)


def test_a_rank_with_a_full_disk_is_named_by_rank_0(local: LocalStorage, save, small) -> None:
    save(local, small)
    one, zero = writer(local, 1), writer(local, 0)
    zero.write_part(part(0), {})
    (local.root / one.working / "tensors-00001-of-00002.safetensors").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left on device"):
        one.write_part(part(1), {})
    with pytest.raises(SaveError, match=r"^rank 1: .*No space left on device"):
        zero.commit({})
    only_step_10_is_there(local)


def test_the_words_of_a_rank_find_room_on_a_full_disk(full_disk: Path) -> None:
    """What was written of its tensors is removed first."""
    storage = LocalStorage(full_disk)
    with pytest.raises(SaveError):
        writer(storage, 1).write_part(part(1), {})
    [note] = [name for name in storage.names(".step-00000020.a.tmp") if name.startswith("failure")]
    assert "No space left" in json.loads((full_disk / ".step-00000020.a.tmp" / note).read_text())["failure"]


def test_a_limit_on_the_size_of_files_fails_the_save(
    local: LocalStorage, save, small, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    save(local, small)
    zero = writer(local, 0)
    with largest_file(500_000), pytest.raises(SaveError, match="cannot be written: File too large"):
        zero.write_part(part(0), {})
    with pytest.raises(SaveError, match=r"rank 0: .*File too large"):
        zero.commit({})
    only_step_10_is_there(local)


def test_a_folder_that_cannot_be_made_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    zero = writer(LocalStorage(tmp_path / "checkpoints"), 0)
    with pytest.raises(SaveError, match=r"checkpoints/.* cannot be written: Not a directory"):
        zero.write_part(part(0), {})
    with pytest.raises(SaveError, match="rank 0: "):  # though it could leave no note of its failure
        zero.commit({})


def test_a_disk_that_is_full_only_for_the_manifest_leaves_nothing(
    local: LocalStorage, save, small, monkeypatch
) -> None:
    save(local, small)
    writers = [writer(local, rank) for rank in range(2)]
    for rank, one in enumerate(writers):
        one.write_part(part(rank), {})
    (local.root / writers[0].working / "manifest.json").symlink_to("/dev/full")
    monkeypatch.setattr(local, "names", lambda folder="": [])  # or the link is removed as a stranger
    with pytest.raises(SaveError, match="No space left on device"):
        writers[0].commit({})
    monkeypatch.undo()
    only_step_10_is_there(local)


def test_a_rank_that_never_writes_is_named(local: LocalStorage, save, small) -> None:
    save(local, small)
    zero = writer(local, 0)
    zero.write_part(part(0), {})
    zero.stop_waiting.set()
    with pytest.raises(SaveError, match="rank 1 has written nothing within"):
        zero.commit({})
    only_step_10_is_there(local)


def test_parts_that_do_not_make_up_a_tensor_are_not_published(local: LocalStorage, save, small) -> None:
    save(local, small)
    writers = [writer(local, rank) for rank in range(2)]
    for one in writers:
        one.write_part(part(0), {})  # both write the same half
    with pytest.raises(SaveError, match="the parts of weights/w do not make up its shape"):
        writers[0].commit({})
    only_step_10_is_there(local)


def test_a_step_that_failed_can_be_saved_again(local: LocalStorage) -> None:
    """What an earlier save of this very step and attempt left counts for nothing."""
    one = writer(local, 1)
    local.write(f"{one.working}/note-a-00001.json", [b'{"failure": "of before"}'])
    (local.root / one.working / "tensors-00001-of-00002.safetensors").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left"):
        one.write_part(part(1), {})
    writers = [writer(local, rank) for rank in (0, 1)]
    for rank, again in enumerate(writers):
        again.write_part(part(rank), {})
    writers[0].commit({})
    assert newest_sound(local, fail) == "step-00000020"


def test_files_of_an_earlier_try_are_not_published(local: LocalStorage) -> None:
    writers = [writer(local, rank) for rank in (0, 1)]
    local.write(f"{writers[0].working}/tensors-00002-of-00003.safetensors", [b"old"])
    for rank, one in enumerate(writers):
        one.write_part(part(rank), {})
    writers[0].commit({})
    with CheckpointReader(local, "step-00000020") as checkpoint:
        assert checkpoint.strangers() == []
