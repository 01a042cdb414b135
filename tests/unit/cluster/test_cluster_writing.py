"""All files of a submission are written, or none: what was there before comes back."""

from pathlib import Path

import pytest

from distmlp.cluster.writing import all_or_nothing
from distmlp.errors import ConfigError


def test_what_was_made_stays_where_nothing_fails(tmp_path: Path) -> None:
    with all_or_nothing() as writing:
        writing.folder(tmp_path / "a" / "b")
        writing.file(tmp_path / "a" / "new").write_text("new")
    assert (tmp_path / "a" / "new").read_text() == "new"


def test_an_error_takes_all_back(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("before")

    def fail() -> None:
        with all_or_nothing() as writing:
            writing.folder(tmp_path / "a" / "b")
            writing.file(tmp_path / "a" / "b" / "new").write_text("new")
            writing.file(tmp_path / "a" / "not written")
            writing.file(tmp_path / "old").write_text("after")
            raise ConfigError("refused")

    with pytest.raises(ConfigError, match=r"^refused$"):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    assert (tmp_path / "old").read_text() == "before"


def test_a_folder_that_somebody_else_uses_by_now_stays(tmp_path: Path) -> None:
    def fail() -> None:
        with all_or_nothing() as writing:
            writing.folder(tmp_path / "a" / "b")
            (tmp_path / "a" / "theirs").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "theirs"}


def test_a_folder_that_cannot_be_made_is_a_user_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"choose another run\.root$"), all_or_nothing() as writing:
        writing.folder(tmp_path / "file" / "a")
