"""The table fits the terminal, leaves out what is least needed, and shows no character that a terminal would obey."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from distmlp.report.run_table import as_json_line, show_runs
from distmlp.report.runs import Row

ID = "20261124-110116-ae02"
ROW: dict[str, Any] = {
    "name": f"digits-mlp/{ID}",
    "folder": "runs/x",
    "state": "finished",
    "reason": "done",
    "doubt": "",
    "step": 300000,
    "total_steps": 600000,
    "loss": 0.00634521,
    "metric": "val/loss",
    "score": 0.0679123,
    "job": "123456_17",
    "host": "gpu-node-0042",
    "seconds": 7300.0,
}


def row(**values: Any) -> Row:
    return Row(**(ROW | values))


def shown(rows: list[Row], width: int = 120, num_more: int = 0) -> list[str]:
    text = io.StringIO()
    show_runs(Console(file=text, width=width, highlight=False), rows, num_more)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_wide_terminals_show_all_columns() -> None:
    heading, line = shown([row()])
    assert heading.split() == ["run", "state", "step", "loss", "val/loss", "job", "host"]
    assert line.split("  ")[0] == f"digits-mlp/{ID}"
    for cell in ("finished", "300000/600000", "0.006345", "0.06791", "123456_17", "gpu-node-0042", "2 h ago"):
        assert cell in line


@pytest.mark.parametrize(
    ("width", "without"),
    [
        (120, []),
        (100, ["gpu-node-0042"]),
        (80, ["gpu-node-0042", "/600000", "123456_17"]),
    ],
)
def test_narrow_terminals_lack_what_is_least_needed(width: int, without: list[str]) -> None:
    lines = shown([row(), row(state="running", name="a/1")], width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 3
    for cell in ("gpu-node-0042", "/600000", "123456_17"):
        assert (cell not in lines[1]) == (cell in without)
    for cell in (f"digits-mlp/{ID}", "finished", "300000", "0.006345", "0.06791", "2 h ago"):
        assert cell in lines[1]
    assert "for 2 h" in lines[2]


@pytest.mark.parametrize("width", [80, 120])
def test_a_name_that_is_too_long_is_folded_and_not_cut(width: int) -> None:
    name = "n" * 100 + "/" + "i" * 100
    lines = shown([row(name=name)], width)
    assert max(map(len, lines)) <= width
    assert "".join(line.split("  ")[0].strip() for line in lines[1:]) == name
    assert "finished" in lines[1]


def test_columns_that_no_run_fills_are_not_there() -> None:
    heading, line = shown([row(job="", host="", step=None, total_steps=None, loss=None, score=None)])
    assert heading.split() == ["run", "state", "step", "loss", "val/loss"]
    assert line.split()[2:5] == ["–", "–", "–"]


def test_runs_with_other_scores_name_them() -> None:
    heading, first, second = shown([row(), row(metric="val/accuracy", score=0.98)])
    assert "validation" in heading
    assert "0.06791 loss" in first
    assert "0.98 accuracy" in second


def test_what_a_job_waits_for_and_what_is_not_known() -> None:
    doubt = "there is no squeue here"
    lines = shown(
        [
            row(state="submitted", reason="Priority"),
            row(state="submitted", reason="ReqNodeNotAvail, UnavailableNodes:node[1-2]"),
            row(state="running", doubt=doubt),
            row(state="submitted", reason="", doubt=doubt),
        ],
        200,
    )
    assert "submitted (Priority)" in lines[1]
    assert "submitted (ReqNodeNotAvail, Un…)" in lines[2]
    assert "running?" in lines[3]
    assert "submitted?" in lines[4]
    assert lines[5:] == ["? whether it still runs is not known: there is no squeue here"]


def test_how_many_more_there_are_is_said() -> None:
    assert shown([row()], num_more=1500)[-1] == "1,500 older: --last 1501 shows all"
    assert len(shown([row()])) == 2


def test_names_are_text_and_nothing_else() -> None:
    text = "\n".join(shown([row(name="模型/[red]a\x1b[2J\x07\udcff", host="[/]")]))
    assert "模型/[red]a?" in text
    assert "[/]" in text
    assert not set("\x1b\x07\udcff") & set(text)


def test_json_has_every_field_of_any_name() -> None:
    line = as_json_line(row(name="größe/\udcff\n"))
    assert "\n" not in line
    assert json.loads(line) == ROW | {"name": "größe/\udcff\n"}
