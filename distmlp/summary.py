"""`summary.json` and the short table at the end of a run: final and best metrics, why it ended, how fast it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def summarize(
    *,
    ended_because: str,
    step: int,
    epoch: int,
    samples: int,
    seconds: float,
    num_parameters: int,
    final: Mapping[str, float],
    best: Mapping[str, float],
) -> dict[str, Any]:
    """Contents of `summary.json`. ``epoch`` counts from 0; ``seconds`` is training with validations, all starts."""
    return {
        "ended_because": ended_because,
        "steps": step,
        "epochs": epoch + 1,
        "samples": samples,
        "seconds": round(seconds, 3),
        "samples_per_second": round(samples / seconds, 1) if seconds else 0.0,
        "num_parameters": num_parameters,
        "final": dict(final),
        "best": {name: value for name, value in best.items() if not name.startswith("test/")},
    }


def show_summary(console: Console, run_folder: Path, summary: dict[str, Any]) -> None:
    """Prints the table, the run folder and the command that shows the curves."""
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "final", "best"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name in sorted(summary["final"]):
        best = summary["best"].get(name)
        table.add_row(name, f"{summary['final'][name]:.4f}", "" if best is None else f"{best:.4f}")
    console.print(table)
    lines = [
        f"ended:      {summary['ended_because']}",
        f"trained:    {summary['steps']} steps, {summary['samples']:,} samples in {summary['seconds']:.1f} s "
        f"({summary['samples_per_second']:,.0f} samples/s)",
        f"run folder: {run_folder}",
        f"curves:     distmlp plot {run_folder}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
