"""Checkpoints as tables of up to 80 columns: the list of a run, one in detail, the verdict on each file."""

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distmlp.checkpoint.overview import Overview, biggest_weights, sizes_by_kind, tensor_bytes, total_bytes
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.report.network import format_bytes
from distmlp.report.spans import span

NUM_BIGGEST = 5


def checkpoint_table(overviews: list[Overview], now: float) -> Table:
    """A row for each checkpoint of a run. ``now`` is in seconds since 1970."""
    metric = next((name for one in overviews if (name := validation_metric(one.state))), "")
    headings = ["step", "epoch", "samples", "size", "strategy", "saved", *([metric] if metric else [])]
    table = plain_table(headings, left={"strategy", "saved"})
    for one in overviews:
        if one.damage:
            table.add_row(str(step_of(one.name)), *["–"] * 2, "[red]damaged[/]", *["–"] * (len(headings) - 4))
            continue
        state = one.state
        cells = [
            *(f"{state.get(key, 0):,}" for key in ("step", "epoch", "samples")),
            format_bytes(one.num_bytes),
            escape(f"{state.get('strategy', '–')} × {state.get('world_size', '–')}"),
            shown_age(str(state.get("saved_at", "")), now),
        ]
        table.add_row(*cells, *([shown_value(state.get("metrics", {}).get(metric))] if metric else []))
    return table


def show_checkpoint(console: Console, reader: CheckpointReader, now: float) -> None:
    """Position, origin and tensors of one checkpoint."""
    state = reader.state
    console.print(f"checkpoint: {reader.where}", soft_wrap=True, markup=False)
    facts = plain_table(["", ""], left={""}, headless=True)
    for name, text in _facts(reader, state, now).items():
        facts.add_row(name, escape(text))
    console.print(facts)
    kinds = plain_table(["kind", "tensors", "parameters", "size", "format"], left={"kind", "format"})
    for kind, size in sizes_by_kind(reader).items():
        dtypes = ", ".join(sorted(size.dtypes))
        kinds.add_row(
            escape(kind), f"{size.num_tensors:,}", f"{size.num_elements:,}", format_bytes(size.num_bytes), dtypes
        )
    biggest = plain_table(["biggest weights", "shape", "size"], left={"biggest weights"})
    for name, info in biggest_weights(reader, NUM_BIGGEST):
        biggest.add_row(escape(name), " × ".join(map(str, info.shape)) or "scalar", format_bytes(tensor_bytes(info)))
    for table in (kinds, biggest):
        console.print()
        console.print(table)


def _facts(reader: CheckpointReader, state: dict[str, Any], now: float) -> dict[str, str]:
    precision, versions = state.get("precision", "–"), state.get("versions") or {}
    step, epoch, samples = (state.get(key, 0) for key in ("step", "epoch", "samples"))
    facts = {
        "position": f"step {step:,}, epoch {epoch:,}, {samples:,} samples",
        "written by": f"{state.get('strategy', '–')} × {state.get('world_size', '–')}, {precision}",
        "saved": f"{state.get('saved_at', '–')} ({shown_age(str(state.get('saved_at', '')), now)})",
        "size": f"{format_bytes(total_bytes(reader))} in {len(reader.manifest.files) + 1} files",
        "learning rate": ", ".join(shown_value(rate) for rate in state.get("learning_rates", [])),
        "metrics": ", ".join(f"{name} {shown_value(value)}" for name, value in (state.get("metrics") or {}).items()),
        "best": ", ".join(f"{name} {shown_value(value)}" for name, value in (state.get("best") or {}).items()),
        "imported from": str(state.get("imported_from") or ""),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "git commit": str(state.get("git_commit") or "")[:12],
    }
    return {name: text for name, text in facts.items() if text}


def plain_table(headings: list[str], left: set[str], headless: bool = False) -> Table:
    """A table without lines; ``left`` are the columns of words, which may be folded."""
    table = Table(box=None, pad_edge=False, show_header=not headless)
    for heading in headings:
        is_left = heading in left
        table.add_column(heading, justify="left" if is_left else "right", overflow="fold", no_wrap=not is_left)
    return table


def step_of(name: str) -> int | str:
    """1200 of `step-00001200`."""
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else name


def validation_metric(state: dict[str, Any]) -> str:
    """The name of the metric to show beside a checkpoint: the loss on the validation split, or another on it."""
    names = [name for name in state.get("metrics") or {} if name.startswith("val/")]
    return "val/loss" if "val/loss" in names else next(iter(names), "")


def shown_value(value: Any) -> str:
    """Four significant digits, or four decimals."""
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def shown_age(saved_at: str, now: float) -> str:
    """How long ago the ISO time ``saved_at`` was."""
    try:
        then = datetime.fromisoformat(saved_at)
    except ValueError:
        return "–"
    return f"{span(now - then.timestamp())} ago"
