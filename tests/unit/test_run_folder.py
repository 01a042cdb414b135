"""Run folders are never shared or overwritten, their files are whole, and the record of the machine holds no secret."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from distmlp import __version__
from distmlp.errors import ConfigError
from distmlp.run_folder import describe_environment, new_run_id, open_or_create, write_json, write_text
from distmlp.schema.run import Run


def test_ids_differ_sort_by_time_and_are_valid_names() -> None:
    ids = [new_run_id() for _ in range(20)]
    assert len(set(ids)) > 15  # four random digits keep those of one second apart
    time.sleep(1.01)
    later = new_run_id()
    assert all(later > earlier for earlier in ids)
    assert Run(id=later).id == later


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = open_or_create(str(tmp_path / "a" / "runs"), "digits-mlp", "one")
    assert folder == tmp_path / "a" / "runs" / "digits-mlp" / "one"
    assert [path.name for path in folder.iterdir()] == ["logs"]
    assert open_or_create(str(tmp_path / "a" / "runs"), "digits-mlp", "two") != folder


def test_a_run_folder_that_is_there_is_opened_and_left_alone(tmp_path: Path) -> None:
    folder = open_or_create(str(tmp_path), "name", "id")
    (folder / "metrics.jsonl").write_text("{}\n")
    assert open_or_create(str(tmp_path), "name", "id") == folder
    assert (folder / "metrics.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("blocked", ["runs", "runs/name"])
def test_a_root_that_cannot_hold_folders_is_named(blocked: str, tmp_path: Path) -> None:
    in_the_way = tmp_path / blocked
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("a file")
    message = r"^cannot make the run folder .*/runs/name/id: Not a directory; choose another run\.root$"
    with pytest.raises(ConfigError, match=message):
        open_or_create(str(tmp_path / "runs"), "name", "id")
    assert in_the_way.read_text() == "a file"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in ("first", "zweite Fassung: ä\n", ""):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_on_the_way_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, "old")
    with largest_file(100), pytest.raises(OSError, match="File too large"):
        write_text(path, "x" * 1000)
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_into_a_folder_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "config.yaml", "text")
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_of_a_killed_write_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.tmp").write_text("a torn and much longer text")
    write_text(tmp_path / "config.yaml", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "new"


def test_json_is_valid_even_for_a_run_that_diverged(tmp_path: Path) -> None:
    values = {"steps": 3, "final": {"val/loss": float("nan"), "val/accuracy": 0.5}, "best": {"x": float("-inf")}}
    write_json(tmp_path / "summary.json", values)
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == {"steps": 3, "final": {"val/loss": None, "val/accuracy": 0.5}, "best": {"x": None}}
    assert "NaN" not in text
    assert text.endswith("}\n")


def test_the_record_names_versions_and_devices_and_no_variable_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-nobody-may-read")
    monkeypatch.setenv("MARKER_OF_THIS_TEST", "b-secret")
    record = describe_environment(["cpu: x"], 4, "blake2b:00")
    text = json.dumps(record)
    assert "secret" not in text
    assert "MARKER" not in text
    assert "API_KEY" not in text
    assert record["distmlp"] == __version__
    assert {"torch", "lightning", "numpy", "hydra-core"} <= record["versions"].keys()
    assert (record["devices"], record["world_size"], record["data_fingerprint"]) == (["cpu: x"], 4, "blake2b:00")


def test_the_commit_is_that_of_the_folder_where_the_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    record = describe_environment([], 1, "")
    assert (record["git_commit"], record["git_changed"]) == (None, False)
    git("init", "-q")
    Path("file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    record = describe_environment([], 1, "")
    assert (record["git_commit"], record["git_changed"]) == (git("rev-parse", "HEAD"), False)
    Path("file").write_text("two")
    assert describe_environment([], 1, "")["git_changed"] is True
