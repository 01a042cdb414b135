"""A run goes on from the newest checkpoint that is sound; what is not is named and kept, what was cut is cleared."""

import errno
import json
import os
import re
from typing import BinaryIO

import pytest

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.object_store import ObjectStorage
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.select import checkpoint_names, clear_leftovers, newest_sound
from distmlp.checkpoint.storage import LocalStorage
from distmlp.errors import ConfigError

SHARD = "tensors-00001-of-00002.safetensors"


@pytest.fixture
def three(local: LocalStorage, save, small) -> LocalStorage:
    for step in (10, 20, 30):
        save(local, small, step=step)
    return local


def spoil(storage: LocalStorage, step: int, name: str = SHARD) -> None:
    path = storage.root / f"step-{step:08d}" / name
    text = bytearray(path.read_bytes())
    text[-1] ^= 1
    path.write_bytes(text)


def fail(line: str) -> None:
    raise AssertionError(line)


def test_the_newest_comes_first(local: LocalStorage) -> None:
    for step in (9, 100, 20, 123456789):
        (local.root / f"step-{step:08d}").mkdir(parents=True)
    assert checkpoint_names(local) == ["step-123456789", "step-00000100", "step-00000020", "step-00000009"]


def test_other_names_are_no_checkpoints(local: LocalStorage) -> None:
    for name in (
        "step-10",
        "step-0000000010",
        "step-00000010.old",
        "step-0000001x",
        "xstep-00000010",
        ".step-00000010.a.tmp",
        "last",
    ):
        (local.root / name).mkdir(parents=True)
    assert checkpoint_names(local) == []
    assert newest_sound(local, fail) is None


def test_there_may_be_no_folder_yet(local: LocalStorage) -> None:
    assert newest_sound(local, fail) is None
    clear_leftovers(local, "a")


def test_the_newest_sound_one_is_found_and_nothing_is_moved(three: LocalStorage) -> None:
    assert newest_sound(three, fail) == "step-00000030"
    assert len(three.names()) == 3


def test_a_damaged_one_is_named_kept_and_passed_over(three: LocalStorage, tmp_path) -> None:
    spoil(three, 30)
    lines: list[str] = []
    assert newest_sound(three, lines.append) == "step-00000020"
    [line] = lines
    damaged = three.root / "step-00000030" / SHARD
    aside = tmp_path / "quarantine" / "step-00000030"
    assert line == (
        f"checkpoint step-00000030 is passed over: {damaged} is damaged: its SHA-256 is not the one in manifest.json; "
        f"it lies in {aside} now"
    )
    assert sorted(os.listdir(aside)) == [MANIFEST, "state.json", "tensors-00000-of-00002.safetensors", SHARD]
    assert checkpoint_names(three) == ["step-00000020", "step-00000010"]


def test_all_damaged_is_none(three: LocalStorage) -> None:
    for step in (10, 20, 30):
        spoil(three, step)
    lines: list[str] = []
    assert newest_sound(three, lines.append) is None
    assert len(lines) == 3


def test_several_damages_are_one_line(three: LocalStorage) -> None:
    spoil(three, 30)
    spoil(three, 30, "state.json")
    lines: list[str] = []
    newest_sound(three, lines.append)
    assert len(lines) == 1
    assert "(and 1 more)" in lines[0]


def link_to_nowhere(storage: LocalStorage, name: str) -> None:
    (storage.root / name).symlink_to("nowhere")


def link_to_itself(storage: LocalStorage, name: str) -> None:
    (storage.root / name).symlink_to(name)


def plain_file(storage: LocalStorage, name: str) -> None:
    (storage.root / name).write_text("no folder")


def empty_folder(storage: LocalStorage, name: str) -> None:
    (storage.root / name).mkdir()


def pipe(storage: LocalStorage, name: str) -> None:
    os.mkfifo(storage.root / name)


def pipe_for_a_manifest(storage: LocalStorage, name: str) -> None:
    (storage.root / name).mkdir()
    os.mkfifo(storage.root / name / MANIFEST)


STRANGE = [link_to_nowhere, link_to_itself, plain_file, empty_folder, pipe, pipe_for_a_manifest]


@pytest.mark.parametrize("make", STRANGE, ids=lambda make: make.__name__)
def test_what_only_looks_like_a_checkpoint_is_named_and_passed_over(three: LocalStorage, make, tmp_path) -> None:
    make(three, "step-00000040")
    lines: list[str] = []
    assert newest_sound(three, lines.append) == "step-00000030"
    [line] = lines
    assert "step-00000040 is not a sound checkpoint: its manifest.json is missing" in line
    assert os.path.lexists(tmp_path / "quarantine" / "step-00000040")


def test_a_checkpoint_under_the_name_of_another_step_is_no_newest(three: LocalStorage) -> None:
    (three.root / "step-00000010").rename(three.root / "step-00000040")
    lines: list[str] = []
    assert newest_sound(three, lines.append) == "step-00000030"
    assert "step-00000040 holds step 10" in lines[0]


def test_another_version_is_no_damage_and_stays(three: LocalStorage, monkeypatch) -> None:
    monkeypatch.setattr("distmlp.checkpoint.manifest.VERSION", 2)
    with pytest.raises(
        ConfigError, match="has format distmlp-checkpoint version 1; this distmlp reads version 2"
    ) as it:
        newest_sound(three, fail)
    assert not isinstance(it.value, DamagedError)
    assert len(checkpoint_names(three)) == 3


def test_progress_is_told_of_every_byte(three: LocalStorage) -> None:
    told: list[int] = []
    name = newest_sound(three, fail, told.append)
    with CheckpointReader(three, str(name)) as checkpoint:
        assert sum(told) == sum(size for size, _ in checkpoint.manifest.files.values())


class BrokenDisk(LocalStorage):
    """Files of step 30 cannot be read for this reason."""

    number = errno.EIO

    def open(self, name: str) -> BinaryIO:
        if name.startswith("step-00000030/tensors"):
            raise OSError(self.number, os.strerror(self.number))
        return super().open(name)


def test_a_disk_that_cannot_read_a_file_damages_it(three: LocalStorage) -> None:
    lines: list[str] = []
    assert newest_sound(BrokenDisk(three.root), lines.append) == "step-00000020"
    assert "step-00000030 cannot be read: Input/output error" in lines[0]


def test_a_storage_that_does_not_answer_moves_nothing(three: LocalStorage, monkeypatch) -> None:
    monkeypatch.setattr(BrokenDisk, "number", errno.ETIMEDOUT)
    with pytest.raises(TimeoutError):
        newest_sound(BrokenDisk(three.root), fail)
    assert len(checkpoint_names(three)) == 3


def test_what_cannot_be_moved_is_passed_over_where_it_is(three: LocalStorage, tmp_path) -> None:
    spoil(three, 30)
    (tmp_path / "quarantine").write_text("no folder")
    lines: list[str] = []
    assert newest_sound(three, lines.append) == "step-00000020"
    assert re.search("it stays there, for it cannot be moved: ", lines[0])


def test_leftovers_of_other_attempts_go(three: LocalStorage) -> None:
    before = three.names()
    for name in (
        ".step-00000040.old-start.tmp",
        ".step-00000030.b.tmp",
        ".step-00000020.removed.tmp",
        ".step-00000010.old.tmp",
    ):
        three.write(f"{name}/{SHARD}", [b"x"])
    clear_leftovers(three, "a")
    assert three.names() == before
    assert newest_sound(three, fail) == "step-00000030"


def test_leftovers_of_this_attempt_and_of_others_stay(three: LocalStorage) -> None:
    kept = [".step-00000040.a.tmp", ".cache", ".mine.a.tmp", "notes.txt", "step-00000050", "last"]
    for name in kept:
        three.write(f"{name}/x", [b"x"])
    clear_leftovers(three, "a")
    assert set(kept) < set(three.names())


def test_a_checkpoint_gets_its_name_back_when_its_replacement_was_cut(three: LocalStorage) -> None:
    (three.root / "step-00000030").rename(three.root / ".step-00000030.old.tmp")
    clear_leftovers(three, "b")
    assert newest_sound(three, fail) == "step-00000030"
    assert ".step-00000030.old.tmp" not in three.names()


@pytest.fixture
def objects(tmp_path) -> ObjectStorage:
    return ObjectStorage(f"memory://{tmp_path.name}/checkpoints")


def test_in_an_object_store_a_folder_without_manifest_is_being_written(objects: ObjectStorage, save, small) -> None:
    save(objects, small)
    objects.write(f"step-00000020/{SHARD}", [b"x"])
    assert newest_sound(objects, fail) == "step-00000010"
    assert objects.names() == ["step-00000010", "step-00000020"]


def test_in_an_object_store_leftovers_of_other_attempts_go(objects: ObjectStorage, save, small) -> None:
    save(objects, small)
    for attempt, step in (("old", 20), ("new", 30)):
        objects.write(f"step-{step:08d}/{SHARD}", [b"x"])
        objects.write_at_once(f"step-{step:08d}/note-{attempt}-00001.json", json.dumps({}).encode())
    objects.write("step-00000040/x", [b"x"])
    objects.write("other/x", [b"x"])
    clear_leftovers(objects, "new")
    assert objects.names() == ["other", "step-00000010", "step-00000030"]


def test_in_an_object_store_a_damaged_one_is_copied_aside(objects: ObjectStorage, save, small, tmp_path) -> None:
    for step in (10, 20):
        save(objects, small, step=step)
    for _ in range(2):
        save(objects, small, step=20)
        objects.write(f"step-00000020/{SHARD}", [b"x"])
        lines: list[str] = []
        assert newest_sound(objects, lines.append) == "step-00000010"
        assert f"memory://{tmp_path.name}/checkpoints/step-00000020/{SHARD} has 1 bytes" in lines[0]
    aside = ObjectStorage(f"memory://{tmp_path.name}/quarantine")
    assert aside.names() == ["step-00000020", "step-00000020-2"]
    assert len(aside.names("step-00000020-2")) == 4
    assert lines[0].endswith(f"it lies in memory://{tmp_path.name}/quarantine/step-00000020-2 now")
