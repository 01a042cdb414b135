"""Lines of `metrics.jsonl` are whole, valid JSON, and a full disk costs lines and never the run."""

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from distmlp.tracking.metrics_file import MetricsFile


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_blocks_of_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.append([{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.25}])
    metrics.append([])
    MetricsFile(path).append([{"step": 3, "sample_ids": [1, 2]}])  # as a continued run does
    assert lines_of(path) == [
        {"step": 1, "train/loss": 0.5},
        {"step": 2, "train/loss": 0.25},
        {"step": 3, "sample_ids": [1, 2]},
    ]
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_say_is_null(value: float, tmp_path: Path) -> None:
    MetricsFile(tmp_path / "m").append([{"step": 1, "train/loss": value, "lr": 0.1}])
    assert lines_of(tmp_path / "m") == [{"step": 1, "train/loss": None, "lr": 0.1}]


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 1e-45, 1.7976931348623157e308]
    MetricsFile(tmp_path / "m").append([{"x": value} for value in values])
    assert [line["x"] for line in lines_of(tmp_path / "m")] == values


def test_a_full_disk_tears_no_line_is_said_once_and_is_forgotten_when_there_is_room(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]], warnings_logged: list[str]
) -> None:
    metrics = MetricsFile(tmp_path / "m")
    block = [{"step": step, "train/loss": 0.5} for step in range(10)]
    metrics.append(block)
    size = (tmp_path / "m").stat().st_size
    with largest_file(size + 40):
        metrics.append(block)  # only a part of it fits
        metrics.append(block)
    assert (tmp_path / "m").stat().st_size == size
    assert warnings_logged == ["metrics.jsonl cannot be written (No space left on device): training goes on without it"]
    metrics.append([{"step": 99}])
    assert lines_of(tmp_path / "m") == [*block, {"step": 99}]


def test_a_folder_that_is_gone_is_said_once(tmp_path: Path, warnings_logged: list[str]) -> None:
    metrics = MetricsFile(tmp_path / "gone" / "m")
    for _ in range(3):
        metrics.append([{"step": 1}])
    assert len(warnings_logged) == 1
    assert "No such file or directory" in warnings_logged[0]
