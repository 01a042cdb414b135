"""Reading ``metrics.jsonl``: what a crash, a resume or a wrong path does to it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmlp.errors import ConfigError
from distmlp.report.metrics import RunMetrics, find_run, load_runs, position_key, read_metrics


def write_run(folder: Path, lines: list[dict[str, Any]], tail: bytes = b"") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + tail)
    return folder


LINES = [{"step": 1, "epoch": 0, "samples": 8, "train/loss": 2.0}, {"step": 2, "epoch": 0, "samples": 16, "lr": 0.1}]


def test_lines_come_back_in_order_with_the_keys_each_had(tmp_path: Path) -> None:
    assert read_metrics(write_run(tmp_path / "run", LINES)) == LINES


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "tr', b'{"step": 3, "tr\n', b'{"step": 3}', b"\x00\x00\xff\n", b"7\n", b"\n"]
)
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    assert read_metrics(write_run(tmp_path / "run", LINES, tail)) == LINES


@pytest.mark.parametrize("bad", [b'{"step": 3, "tr', b"[1]", b"\xff"])
@pytest.mark.parametrize("end", [b'{"step": 4}\n', b'{"step": 4'])
def test_an_invalid_line_in_the_middle_is_named(tmp_path: Path, bad: bytes, end: bytes) -> None:
    run = write_run(tmp_path / "run", LINES, bad + b"\n" + end)
    with pytest.raises(ConfigError, match=re.escape(f"{run / 'metrics.jsonl'}, line 3: not a JSON object")):
        read_metrics(run)


def test_the_folder_of_a_name_means_its_newest_run(tmp_path: Path) -> None:
    write_run(tmp_path / "mnist" / "a-name-of-the-users", LINES[:1])
    write_run(tmp_path / "mnist" / "20250102-000000-b", LINES)
    write_run(tmp_path / "mnist" / "20250101-000000-a", LINES[:1])
    (tmp_path / "mnist" / "20250103-000000-c").mkdir()
    for age, name in enumerate(("20250102-000000-b", "20250101-000000-a", "a-name-of-the-users")):
        os.utime(tmp_path / "mnist" / name / "metrics.jsonl", (1e9 - age, 1e9 - age))
    assert find_run(tmp_path / "mnist").name == "20250102-000000-b"
    assert find_run(tmp_path / "mnist" / "20250101-000000-a" / "metrics.jsonl").name == "20250101-000000-a"
    assert read_metrics(tmp_path / "mnist") == LINES


def test_a_missing_run_says_what_was_looked_for_and_names_the_newest(tmp_path: Path) -> None:
    for day in range(1, 6):
        write_run(tmp_path / "mnist" / f"2025010{day}", LINES)
    names = ", ".join(str(tmp_path / "mnist" / f"2025010{day}") for day in (5, 4, 3))
    for wrong in (tmp_path / "mnits", tmp_path / "mnist" / "20250199"):
        message = (
            f"no run at {wrong}: looked for {wrong}/metrics.jsonl and {wrong}/*/metrics.jsonl; newest runs: {names}"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            read_metrics(wrong)


def test_without_runs_nearby_none_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl$"):
        read_metrics(tmp_path / "mnist")


@pytest.mark.parametrize("tail", [b"", b'{"step": 1'])
def test_an_empty_file_is_an_error_that_names_other_runs(tmp_path: Path, tail: bytes) -> None:
    empty, other = write_run(tmp_path / "a" / "2", [], tail), write_run(tmp_path / "a" / "1", LINES)
    message = f"{empty / 'metrics.jsonl'} holds no logged step yet; newest runs: {other}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read_metrics(empty)


def test_a_step_logged_again_after_a_resume_counts_once_with_its_later_value() -> None:
    lines = [{"samples": at, "train/loss": loss} for at, loss in ((8, 3.0), (16, 2.0), (24, 9.0), (16, 1.5), (24, 1.0))]
    at, values = RunMetrics("a/1", lines).series("train/loss", "samples")
    np.testing.assert_array_equal(at, [8, 16, 24])
    np.testing.assert_array_equal(values, [3.0, 1.5, 1.0])


def test_runs_are_loaded_once_each_in_the_order_given(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "b" / "1", LINES), write_run(tmp_path / "a" / "1", LINES)
    assert [run.label for run in load_runs([first, second, tmp_path / "b", second / ".." / "1"])] == ["b/1", "a/1"]


def test_epochs_are_the_axis_only_where_they_tell_all_steps_apart() -> None:
    whole = RunMetrics("a/1", [{"epoch": step // 2, "samples": step * 8, "step": step} for step in range(6)])
    fractions = RunMetrics("a/2", [{"epoch": step / 2, "samples": step * 8, "step": step} for step in range(6)])
    steps = RunMetrics("a/3", [{"step": step} for step in range(6)])
    assert position_key([fractions]) == "epoch"
    assert position_key([fractions, whole]) == "samples"
    assert position_key([fractions, whole, RunMetrics("a/4", [{"step": 1}])]) == "step"
    assert position_key([steps]) == "step"
    with pytest.raises(ConfigError, match=r"^a/5: no line of metrics\.jsonl has a number under 'samples' or 'step'$"):
        position_key([whole, RunMetrics("a/5", [{"train/loss": 1.0}])])
