"""The rows of runs as a table that fits the terminal, and what its question marks mean."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from distmlp.report.runs import Row
from distmlp.report.spans import span
from distmlp.report.tail import CONTROL

COLOURS = {"running": "green", "submitted": "cyan", "stopped": "yellow", "failed": "red", "lost": "red"}
HEADINGS = {name: name for name in ("run", "state", "step", "loss", "score", "job", "host")} | {"since": ""}
LEAST_NEEDED_FIRST = ("host", "total", "job", "score", "since")
NUMBERS = ("step", "loss", "score")
LONGEST_REASON = 20


def show_runs(console: Console, rows: list[Row], num_more: int) -> None:
    """Prints the table, and below it what could not be checked and how many older runs there are."""
    console.print(run_table(rows, console))
    for doubt in sorted({row.doubt for row in rows if row.doubt}):
        console.print(printable(f"? whether it still runs is not known: {doubt}"), soft_wrap=True)
    if num_more:
        console.print(f"{num_more:,} older: --last {len(rows) + num_more} shows all", soft_wrap=True, highlight=False)


def as_json_line(row: Row) -> str:
    """All fields of a row by name."""
    return json.dumps(asdict(row))


def run_table(rows: list[Row], console: Console) -> Table:
    """The widest table that fits: whole columns are left out, and only then are names folded."""
    for count in range(len(LEAST_NEEDED_FIRST) + 1):
        table = _table(rows, set(LEAST_NEEDED_FIRST[:count]))
        measured = Measurement.get(console, console.options.update(width=10_000), table)
        if measured.maximum <= console.width:
            break
    else:  # names so long that they fit beside nothing
        table = _table(rows, set(LEAST_NEEDED_FIRST[:3]))
    return table


def _table(rows: list[Row], without: set[str]) -> Table:
    metrics = {row.metric for row in rows}
    is_mixed = len(metrics) > 1
    headings = HEADINGS | {"score": "validation" if is_mixed else "".join(metrics)}
    empty = {name for name in ("job", "host") if not any(getattr(row, name) for row in rows)}
    columns = [name for name in headings if name not in without | empty]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        justify = "right" if name in NUMBERS else "left"
        is_name = name == "run"
        table.add_column(headings[name], justify=justify, no_wrap=not is_name, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        cells = _cells(row, with_total="total" not in without, with_metric=is_mixed)
        table.add_row(*(cells[name] for name in columns))
    return table


def _cells(row: Row, with_total: bool, with_metric: bool) -> dict[str, Text]:
    of_total = f"/{row.total_steps}" if with_total and row.total_steps else ""
    score = shown(row.score) + (f" {row.metric.removeprefix('val/')}" if with_metric and row.score is not None else "")
    return {
        "run": printable(row.name),
        "state": Text(shown_state(row), style=COLOURS.get(row.state, "")),
        "step": Text("–" if row.step is None else f"{row.step}{of_total}"),
        "loss": Text(shown(row.loss)),
        "score": Text(score),
        "job": printable(row.job or "–"),
        "host": printable(row.host or "–"),
        "since": Text(f"for {span(row.seconds)}" if row.state == "running" else f"{span(row.seconds)} ago"),
    }


def shown_state(row: Row) -> str:
    """``submitted (Priority)``, ``running?`` where that could not be checked."""
    if row.state == "submitted" and row.reason:
        reason = row.reason if len(row.reason) <= LONGEST_REASON else f"{row.reason[: LONGEST_REASON - 1]}…"
        return f"submitted ({printable(reason)!s})"
    return row.state + ("?" if row.doubt else "")


def shown(value: float | None) -> str:
    """Four significant digits."""
    return "–" if value is None else f"{value:.4g}"


def printable(text: str) -> Text:
    """``text`` without what a terminal would obey; names of files may hold anything, bytes of no text too."""
    return Text(CONTROL.sub("", text).encode(errors="replace").decode())
