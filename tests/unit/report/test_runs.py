"""Folders become rows: which there are, in which order, and what each says, however odd the files are."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distmlp.report.runs import Found, find_runs, rows, total_steps
from distmlp.run_state import RunState, Started

MakeRun = Callable[..., Path]


def dated(folder: Path, seconds: float) -> None:
    """All files of a run were last changed so long ago that ``seconds`` orders them."""
    for file in folder.iterdir():
        os.utime(file, (seconds, seconds))


def step(number: int, **values: Any) -> dict[str, Any]:
    return {"step": number, "epoch": 0, "samples": number * 8, "seconds": number / 10, **values}


def names(places: list[Path]) -> list[str]:
    unreadable: list[str] = []
    found = [run.name for run in find_runs(places, unreadable)]
    assert unreadable == []
    return found


def test_the_run_that_wrote_last_comes_first(make_run: MakeRun, tmp_path: Path) -> None:
    for number, name in enumerate(["a/1", "b/9", "a/2"]):
        dated(make_run(tmp_path / name), 1e9 + number)
    assert names([tmp_path]) == ["a/2", "b/9", "a/1"]
    assert names([tmp_path / "a"]) == ["a/2", "a/1"]
    assert names([tmp_path / "a" / "1", tmp_path / "b"]) == ["b/9", "a/1"]
    assert names([tmp_path / "a", tmp_path]) == ["a/2", "b/9", "a/1"]
    with (tmp_path / "a" / "1" / "metrics.jsonl").open("w") as file:  # it is running again
        file.write("\n")
    assert names([tmp_path])[0] == "a/1"


def test_other_folders_and_links_are_no_runs(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a" / "1")
    make_run(run / "checkpoints" / "config-of-another")
    make_run(tmp_path / ".trash" / "2")
    make_run(tmp_path / "b" / "deep" / "down")
    (tmp_path / "empty" / "3").mkdir(parents=True)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "a" / "0-latest").symlink_to(run)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "broken").symlink_to(tmp_path / "nowhere")
    assert names([tmp_path]) == ["a/1"]


def test_names_may_hold_anything(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "größe 模型" / "lr=0.1 [bold]")
    make_run(tmp_path / os.fsdecode(b"\xff") / "1")
    assert set(names([tmp_path])) == {"größe 模型/lr=0.1 [bold]", "\udcff/1"}


def test_a_run_is_named_from_inside_too(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_run(tmp_path / "a" / "1"))
    assert names([Path(".")]) == ["a/1"]


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder for all users, and the rights of one whom permissions bind."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        is_root = os.geteuid() == 0
        yield Path(name)
        if is_root:
            os.seteuid(0)


def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_shown(make_run: MakeRun, as_somebody: Path) -> None:
    make_run(as_somebody / "a" / "1")
    make_run(as_somebody / "a" / "2")
    make_run(as_somebody / "b" / "3")
    closed = [as_somebody / "a" / "2", as_somebody / "b"]
    for folder in closed:
        folder.chmod(0)
    try:
        if os.geteuid() == 0:
            os.seteuid(65534)
        unreadable: list[str] = []
        found = find_runs([as_somebody], unreadable)
    finally:
        os.seteuid(os.getuid())
        for folder in closed:
            folder.chmod(0o755)
    assert [run.name for run in found] == ["a/1"]
    assert unreadable == [f"{folder}: Permission denied" for folder in closed]


def row(folder: Path) -> Any:
    [found] = rows([Found(folder, 0.0)])
    return found


def test_a_row_has_the_newest_of_each(make_run: MakeRun, tmp_path: Path, slurm: Any) -> None:
    slurm.answers("squeue", "12_3|RUNNING|node[1-2]|None\n")
    lines = [
        step(10, **{"train/loss": 0.5}),
        step(10, **{"val/loss": 0.6, "val/accuracy": 0.9}),
        step(20, **{"train/loss": 0.4, "sample_ids": [1, 2]}),
    ]
    state = RunState("running", job="12_3", host="node1", starts=(Started(5.0, 0, 0, "12_3", 4),))
    found = row(make_run(tmp_path / "a" / "1", lines, state, max_steps=500))
    assert (found.name, found.state, found.step, found.total_steps) == ("a/1", "running", 20, 500)
    assert (found.loss, found.metric, found.score) == (0.4, "val/loss", 0.6)
    assert (found.job, found.host) == ("12_3", "node1")
    assert found.seconds > 1e9  # since it started, in 1970
    assert json.dumps(found.__dict__)


def test_a_score_is_the_metric_that_the_run_selects_by(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a" / "1", [step(1, **{"val/loss": 0.6, "val/accuracy": 0.9})])
    (folder / "config.yaml").write_text("checkpoint: {metric: val/accuracy}")
    assert (row(folder).metric, row(folder).score) == ("val/accuracy", 0.9)


def test_a_summary_tells_what_the_lines_do_not(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a" / "1")
    final = {"train/loss": 0.1, "val/loss": 0.2}
    (folder / "summary.json").write_text(json.dumps({"ended_because": "done", "steps": 7, "final": final}))
    found = row(folder)
    assert (found.state, found.step, found.loss, found.score) == ("finished", 7, 0.1, 0.2)


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[1, 2]", b"null", b'{"step": "x", "trainer": 3, "final": []}'])
def test_files_of_any_content_make_a_row(content: bytes, tmp_path: Path) -> None:
    for file in ("config.yaml", "metrics.jsonl", "summary.json", "status.json"):
        (tmp_path / file).write_bytes(content + b"\n")
    found = row(tmp_path)
    assert (found.state, found.step, found.loss, found.total_steps) == ("unknown", None, None, None)


def test_files_that_are_folders_make_a_row(tmp_path: Path) -> None:
    for file in ("config.yaml", "metrics.jsonl", "summary.json", "status.json"):
        (tmp_path / file).mkdir()
    assert row(tmp_path).state == "unknown"


@pytest.mark.parametrize(
    ("trainer", "evaluated", "expected"),
    [
        ({"max_steps": 500}, None, 500),
        ({"max_epochs": 30}, None, None),
        ({"max_epochs": 30}, {"step": 40, "epoch": 1}, 600),
        ({"max_epochs": 30, "max_steps": 500}, {"step": 40, "epoch": 1}, 500),
        ({"max_epochs": 30, "max_steps": 700}, {"step": 40, "epoch": 1}, 600),
        ({"max_epochs": 30, "max_samples": 1000}, {"step": 40, "epoch": 1}, None),
        ({"max_epochs": 30, "validate_every_steps": 5}, {"step": 40, "epoch": 1}, None),
        ({"max_epochs": 30}, {"step": 41, "epoch": 1}, None),
        ({"max_epochs": "many", "max_steps": "x"}, {"step": 40, "epoch": 1}, None),
    ],
)
def test_the_total_follows_from_the_limits(
    trainer: dict[str, Any], evaluated: dict[str, Any] | None, expected: int | None
) -> None:
    assert total_steps({"trainer": trainer}, {"evaluated": evaluated}) == expected
