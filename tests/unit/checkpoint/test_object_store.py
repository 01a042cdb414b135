"""An address of fsspec as a place for checkpoints: what may pass is tried again, what is missing is missing at once."""

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from distmlp.checkpoint import object_store
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.object_store import NUM_TRIES, ObjectStorage, open_storage
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.select import newest_sound
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.writer import SaveError, StepWriter
from distmlp.errors import ConfigError
from distmlp.shards import Place, Range, Shard


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStorage:
    return ObjectStorage(f"memory://{tmp_path.name}/checkpoints")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the pauses would have been."""
    pauses: list[float] = []
    monkeypatch.setattr(object_store.time, "sleep", pauses.append)
    return pauses


def failing(action: Any, errors: list[Exception]) -> Any:
    """``action``, but at first it fails with ``errors``, one at each call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return action(*args, **kwargs)

    return call


def fail(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize(
    ("place", "kind", "where"),
    [
        ("runs/a", LocalStorage, "runs/a"),
        (Path("/runs/a"), LocalStorage, "/runs/a"),
        ("file:///runs/a%20b", LocalStorage, "/runs/a b"),
        ("a:b", LocalStorage, "a:b"),
        ("memory://bucket/a", ObjectStorage, "memory://bucket/a"),
        ("memory://bucket/a/", ObjectStorage, "memory://bucket/a"),
        (Path("memory://bucket/a"), ObjectStorage, "memory://bucket/a"),
    ],
)
def test_a_path_or_an_address_opens_its_storage(place: str | Path, kind: type, where: str) -> None:
    storage = open_storage(place)
    assert type(storage) is kind
    assert storage.where() == where


@pytest.mark.parametrize("url", ["memory://user:secret@bucket/a", "s3://AKIA:se@cret@bucket/a"])
def test_a_password_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"//bucket/a: .*set it in the environment") as raised:
        open_storage(url)
    assert not any(word in str(raised.value) for word in ("secret", "cret", "AKIA", "user"))


def test_an_unknown_kind_of_address_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"nonsense://x: Protocol not known: nonsense"):
        open_storage("nonsense://x")


def test_a_kind_whose_package_is_missing_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", failing(None, [ImportError("Install s3fs to access S3")]))
    with pytest.raises(ConfigError, match="s3://x needs a package: Install s3fs"):
        open_storage("s3://x")


def test_a_checkpoint_is_written_and_read(objects: ObjectStorage, save, small) -> None:
    name = save(objects, small)
    with CheckpointReader(objects, name) as checkpoint:
        assert checkpoint.whole("weights", "w").flatten().tolist() == list(range(12))
        assert checkpoint.strangers() == []
    assert newest_sound(objects, fail) == name


def test_writing_over_a_checkpoint_begins_with_its_manifest(objects: ObjectStorage, save, small) -> None:
    """From then on it does not exist, so that nobody takes it half new and half old."""
    name = save(objects, small)
    seen: list[bool] = []
    write = objects.write

    def look(path: str, chunks: Any) -> None:
        seen.append(MANIFEST in objects.names(name))
        write(path, chunks)

    objects.write = look  # type: ignore[method-assign]
    save(objects, small, attempt="b")
    assert seen == [False] * 4
    assert newest_sound(objects, fail) == name


def test_fewer_ranks_leave_no_file_of_more(objects: ObjectStorage, save, small) -> None:
    save(objects, small)
    name = save(objects, [[Shard("weights", Place("w", (2,), Range(0, 2)), torch.ones(2))]], attempt="b")
    assert objects.names(name) == [MANIFEST, "state.json", "tensors-00000-of-00001.safetensors"]


def test_a_save_that_cannot_begin_leaves_the_checkpoint_of_its_step(objects: ObjectStorage, save, small) -> None:
    """Rank 0 could not remove the manifest, though it may remove again now: what is there is as it was."""
    name = save(objects, small)
    zero = StepWriter(objects, 10, attempt="b", rank=0, world_size=2, stop_waiting=threading.Event())
    refusal: list[Exception] = [PermissionError(errno.EACCES, "Access Denied")]
    objects._remove = failing(objects._remove, refusal)  # type: ignore[method-assign]
    with pytest.raises(SaveError, match="Access Denied"):
        zero.write_part(Snapshot(pinned=False), {})
    with pytest.raises(SaveError, match="Access Denied"):
        zero.commit({})
    assert newest_sound(objects, fail) == name


def test_a_removal_begins_with_the_manifest(objects: ObjectStorage, save, small, monkeypatch) -> None:
    name = save(objects, small)
    removed: list[list[str]] = []
    remove = objects.fs.rm
    monkeypatch.setattr(objects.fs, "rm", lambda paths: (removed.append(paths), remove(paths)))
    objects.remove(name)
    assert [path.rpartition("/")[2] for path in removed[0]] == [MANIFEST]
    assert objects.names() == []


def test_a_removal_takes_no_neighbour(objects: ObjectStorage) -> None:
    for name in ("step-1/a", "step-10/a", "step-1x"):
        objects.write(name, [b"x"])
    objects.remove("step-1")
    objects.remove("missing")
    assert objects.names() == ["step-10", "step-1x"]


def test_names_and_sizes(objects: ObjectStorage) -> None:
    objects.write("folder/a", [b"12", memoryview(b"345")])
    objects.write_at_once("folder/b", b"")
    assert objects.names("folder") == ["a", "b"]
    assert (objects.size("folder/a"), objects.size("folder/b")) == (5, 0)
    assert (objects.size("folder"), objects.size("missing")) == (None, None)
    assert (objects.names("folder/a"), objects.names("missing")) == ([], [])


def test_a_file_is_read_from_anywhere(objects: ObjectStorage, monkeypatch) -> None:
    text = bytes(range(256)) * 40_000
    objects.write("a", [text])
    fetched: list[int] = []
    cat = objects.fs.cat_file
    monkeypatch.setattr(
        objects.fs, "cat_file", lambda p, start, end: (fetched.append(end - start), cat(p, start, end))[1]
    )
    with objects.open("a") as file:
        file.seek(5_000_001)
        assert file.read(7) == text[5_000_001:5_000_008]
        assert sum(fetched) <= 2**20
        assert file.seek(-3, 2) == len(text) - 3
        assert file.read() == text[-3:]
        file.seek(0)
        fetched.clear()
        assert file.read() == text
        assert len(fetched) <= 2
        assert file.read() == b""
    with pytest.raises(FileNotFoundError, match=r"memory://.*/missing"):
        objects.open("missing")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "reset"), TimeoutError("slow"), RuntimeError("a client's own")])
def test_what_may_pass_is_tried_again(objects: ObjectStorage, error: Exception, no_pauses: list[float]) -> None:
    objects.fs.pipe_file = failing(objects.fs.pipe_file, [error] * (NUM_TRIES - 1))
    objects.write_at_once("a", b"123")
    assert objects.size("a") == 3
    assert len(no_pauses) == NUM_TRIES - 1
    assert no_pauses[-1] > 2 * no_pauses[0]  # longer and longer


def test_what_does_not_pass_ends_with_its_reason_and_place(objects: ObjectStorage) -> None:
    objects.fs.pipe_file = failing(objects.fs.pipe_file, [RuntimeError("reset")] * NUM_TRIES)
    with pytest.raises(OSError, match=rf"^memory://.*/checkpoints/a after {NUM_TRIES} tries: reset"):
        objects.write_at_once("a", b"123")


def test_no_more_is_tried_after_some_time(objects: ObjectStorage, monkeypatch, no_pauses: list[float]) -> None:
    times = iter(range(0, 10_000, 70))
    monkeypatch.setattr(object_store.time, "monotonic", lambda: float(next(times)))
    objects.fs.pipe_file = failing(None, [OSError("reset")] * NUM_TRIES)
    with pytest.raises(OSError, match="after 2 tries"):
        objects.write_at_once("a", b"123")
    assert len(no_pauses) == 1


@pytest.mark.parametrize("kind", [PermissionError, FileNotFoundError])
def test_what_lasts_is_not_tried_again(objects: ObjectStorage, kind: type[OSError], no_pauses: list[float]) -> None:
    objects.fs.pipe_file = failing(None, [kind(1, "no")])
    with pytest.raises(kind, match="checkpoints/a: no"):
        objects.write_at_once("a", b"123")
    assert no_pauses == []


def test_an_upload_that_was_cut_begins_anew_with_the_same_bytes(objects: ObjectStorage) -> None:
    """Though its chunks come from a generator, which runs once."""
    start = objects.fs.open
    errors: list[Exception] = [OSError("cut"), OSError("cut")]

    def cut(path: str, mode: str, **kwargs: Any) -> Any:
        file = start(path, mode, **kwargs)
        if errors:
            write, calls = file.write, iter(range(9))
            error = errors.pop()

            def write_two(chunk: bytes) -> int:
                if next(calls) == 2:
                    raise error
                return int(write(chunk))

            file.write = write_two
        return file

    objects.fs.open = cut
    objects.write("a", (bytes([number]) * 3 for number in range(5)))
    del objects.fs.open
    with objects.open("a") as file:
        assert file.read() == b"\0\0\0\1\1\1\2\2\2\3\3\3\4\4\4"
