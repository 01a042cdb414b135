"""A folder of this machine: nothing has its final name before it is whole, and nothing is lost when it is moved."""

import os
from pathlib import Path

import pytest

from distmlp.checkpoint.storage import LocalStorage


def write(storage: LocalStorage, *names: str) -> None:
    for name in names:
        storage.write(name, [name.encode()])


def test_what_is_published_replaces_what_was_there(local: LocalStorage) -> None:
    write(local, "step/a", "step/b", ".step.1.tmp/c")
    local.publish(".step.1.tmp", "step")
    assert local.names() == ["step"]
    assert local.names("step") == ["c"]


def test_the_hidden_name_of_what_is_removed_is_no_checkpoint(local: LocalStorage, monkeypatch) -> None:
    """A removal that is cut leaves nothing under the name of the checkpoint."""
    write(local, "step-00000010/a")

    def cut(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError("cut")

    monkeypatch.setattr("shutil.rmtree", cut)
    with pytest.raises(OSError, match="cut"):
        local.remove("step-00000010")
    assert local.names() == [".step-00000010.removed.tmp"]


def test_files_folders_and_links_are_removed_and_what_is_missing_is_no_error(local: LocalStorage, tmp_path) -> None:
    write(local, "a", "folder/b")
    (tmp_path / "kept").mkdir()
    (local.root / "link").symlink_to(tmp_path / "kept")
    for name in ("a", "folder", "link", "missing", "no/folder"):
        local.remove(name)
    assert local.names() == []
    assert (tmp_path / "kept").is_dir()


def test_what_is_set_aside_lies_beside_the_storage_and_replaces_nothing(local: LocalStorage, tmp_path) -> None:
    for _ in range(3):
        write(local, "step/a")
        local.set_aside("step", "quarantine")
    assert sorted(os.listdir(tmp_path / "quarantine")) == ["step", "step-2", "step-3"]
    assert local.names() == []


def test_a_small_file_appears_whole(local: LocalStorage, monkeypatch) -> None:
    """Until it is renamed, nobody sees it under its name."""
    monkeypatch.setattr("os.replace", lambda *_: None)
    local.write_at_once("note.json", b"{}")
    assert local.size("note.json") is None


def test_where_there_is_no_folder_there_are_no_names(local: LocalStorage) -> None:
    write(local, "file")
    assert local.names("missing") == []
    assert local.names("file") == []
    assert local.size("file/below") is None
