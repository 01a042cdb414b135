"""Of a file of any size only the end is read, whatever stands there; and what is appended is read once."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from distmlp.report import tail
from distmlp.report.tail import Follower, last_metrics, last_words


def never(lines: list[Any]) -> bool:
    return False


def line(step: int, **more: Any) -> str:
    return json.dumps({"step": step, "train/loss": 1 / step, **more}) + "\n"


class CountingFile(io.FileIO):
    num_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        CountingFile.num_bytes += len(data)
        return data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[CountingFile]:
    """Counts the bytes that are read through `Path.open`."""
    CountingFile.num_bytes = 0
    plain = Path.open

    def opened(path: Path, mode: str = "r", *more: Any, **others: Any) -> Any:
        return CountingFile(path, "r") if mode == "rb" else plain(path, mode, *more, **others)

    monkeypatch.setattr(Path, "open", opened)
    return CountingFile


@pytest.fixture
def giant(tmp_path: Path) -> Path:
    """A file of 4 GiB that takes no space, with three lines at its end."""
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(4 * 2**30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + "".join(map(line, (1, 2, 3))).encode())
    return path


def test_of_a_giant_file_only_the_end_is_read(giant: Path, counted: type[CountingFile]) -> None:
    assert [one["step"] for one in last_metrics(giant, lambda lines: len(lines) >= 3)] == [1, 2, 3]
    assert 0 < counted.num_bytes <= tail.CHUNK
    counted.num_bytes = 0
    assert len(last_metrics(giant, never)) == 3
    assert counted.num_bytes <= 2 * tail.MOST
    counted.num_bytes = 0
    lines, _ = Follower(giant).look()
    assert [one["step"] for one in lines] == [1, 2, 3]
    assert counted.num_bytes <= tail.MOST


def test_more_is_read_until_it_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, **{"val/loss": 9.0}) + "".join(line(step, pad="x" * 1000) for step in range(2, 200)))
    assert path.stat().st_size > tail.CHUNK
    lines = last_metrics(path, lambda lines: any("val/loss" in one for one in lines))
    assert lines[0]["val/loss"] == 9.0
    assert len(lines) == 199
    few = last_metrics(path, lambda lines: True)
    assert 0 < len(few) < 80
    assert few[-1]["step"] == 199


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1).encode() + b'not json\n[1]\n\xff\xfe\n\n{"step": 2}\n{"step": 3, "tr')
    assert [one["step"] for one in last_metrics(path, never)] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"\n\n", b'{"step": 1}'])
def test_a_file_without_a_whole_line_has_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_metrics(path, never) == []
    path.write_bytes(content)
    assert last_metrics(path, never) == []


def test_a_follower_reads_only_what_was_appended(tmp_path: Path, counted: type[CountingFile]) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.look() == ([], False)
    path.write_text(line(1))
    assert [one["step"] for one in follower.look()[0]] == [1]
    counted.num_bytes = 0
    assert follower.look() == ([], False)
    assert counted.num_bytes == 0
    with path.open("a") as file:
        file.write(line(2) + line(3)[:10])
    assert follower.look() == ([json.loads(line(2))], False)
    with path.open("a") as file:
        file.write(line(3)[10:] + line(4))
    lines, is_another = follower.look()
    assert [one["step"] for one in lines] == [3, 4]
    assert not is_another
    assert counted.num_bytes == len(line(2) + line(3) + line(4)) + 10  # the torn part twice


def test_a_follower_begins_again_when_a_resume_has_cut_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(1, 6))))
    follower = Follower(path)
    assert follower.look()[1]
    cut = tmp_path / "cut"
    cut.write_text("".join(map(line, range(1, 4))))
    os.replace(cut, path)  # as the run does
    lines, is_another = follower.look()
    assert is_another
    assert [one["step"] for one in lines] == [1, 2, 3]
    path.write_text(line(1))  # or in its place
    assert follower.look() == ([json.loads(line(1))], True)


def test_a_follower_that_was_away_reads_no_more_than_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST", 100)
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1))
    follower = Follower(path)
    follower.look()
    with path.open("a") as file:
        file.writelines(map(line, range(2, 50)))
    lines, is_another = follower.look()
    assert not is_another
    assert [one["step"] for one in lines] == [48, 49]
    with path.open("a") as file:
        file.write("x" * 300)  # a line longer than what is read at once
    assert follower.look() == ([], False)
    with path.open("a") as file:
        file.write("\n" + line(50))
    assert follower.look() == ([json.loads(line(50))], False)


def test_a_log_is_shown_as_a_terminal_shows_it_and_cannot_command_it(tmp_path: Path) -> None:
    path = tmp_path / "job-1.log"
    path.write_bytes(
        b"first\r\n\n10%\r50%\r100%\n\x1b[31mred\x1b[0m \x1b]0;title\x07 caf\xc3\xa9\xff\n\x1b[2J\x9b[up\n" + b"last"
    )
    assert last_words(path, 10) == ["first", "100%", "red  café\ufffd", "\ufffd[up", "last"]
    assert last_words(path, 1) == ["last"]
    assert last_words(path, 0) == []
    assert last_words(tmp_path / "none", 3) == []
