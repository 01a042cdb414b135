"""Writes `docs/parity.md` from what `make parity` measured: `python -m parity.report FOLDER docs/parity.md`."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from parity.bounds import BOUNDS, ROUNDING, Bound
from parity.cases import NETWORKS, RECIPES, STRATEGIES

PACKAGES = ("torch", "lightning", "deepspeed", "numpy")
TEXT = """# Parity: one run, whatever it is spread over

`make parity` trains the same run under every strategy on 1, 2, 3 and 4 ranks (gloo, CPU, float32) and compares them:
{num_runs} comparisons of two runs. It wrote this page, with {versions}.
`make test` has a part of it. What is compared is what a run folder holds: `metrics.jsonl` and the last checkpoint.

- The ids of the samples of every global batch are the same, always.
- Numbers below are the largest absolute difference over all steps (loss) and over all weights after the last step, and
  over all world sizes: 50 steps of a multi-layer perceptron, 20 of a Transformer. Losses start between 2.5 and 4.2.
- A test fails beyond its bound, which stands in `tests/distributed/parity/bounds.py`.

## Why they are not 0

Ranks add up the same numbers in another order: the gradients of 2 halves of a batch are not, to the last bit, that of
the whole. float32 keeps 24 bits, and the loss of a step shows a few units in the last place: 2.4e-07 is one unit for a
loss from 2 to 4. Fused optimizers also round an element by its place in its tensor, and sharding moves it.
It stays at that: {loss} for losses and {weights} for weights are the bounds, with these exceptions:

{exceptions}

`ddp_localsgd` runs with period=1 and groups of one rank, where averaging weights is averaging gradients, as long as a
step is linear in them; `ddp_powersgd` equals ddp exactly until its start_step=10, and then has its own loss curve.
Batch norms see the samples of a rank, so they are compared with ddp on as many ranks that hold different samples.
The networks are smooth (GELU, SwiGLU): where the input of a ReLU is 0 but for rounding the gradient jumps, and two runs
part from there on by 1e-5 or so.

## Against DDP on as many ranks

{against_ddp}
## Against one process

{against_one}"""


def main(folder: str, target: str) -> None:
    """Reads ``folder``/differences.jsonl, writes ``target``."""
    lines = [json.loads(line) for line in (Path(folder) / "differences.jsonl").read_text().splitlines()]
    exceptions = [f"- {_named(patterns)}: {_bound(limit)}" for *patterns, limit in BOUNDS if limit != ROUNDING]
    text = TEXT.format(
        num_runs=len(lines),
        versions=", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES),
        loss=f"{ROUNDING.loss:.0e}",
        weights=f"{ROUNDING.weights:.0e}",
        exceptions="\n".join(exceptions),
        against_ddp=_table([line for line in lines if line["against"] == "ddp"]),
        against_one=_table([line for line in lines if line["against"] == "one process"]),
    )
    Path(target).write_text(text)


def _named(patterns: Iterable[object]) -> str:
    names = [str(pattern) for pattern in patterns if pattern != "*"]
    return " with ".join(f"`{name}`" for name in names)


def _bound(limit: object) -> str:
    assert isinstance(limit, Bound)
    return f"{limit.loss:.0e} for losses, {limit.weights:.0e} for weights"


def _table(lines: list[dict[str, Any]]) -> str:
    """Networks and recipes down, strategies across; in a cell the largest differences of loss and weights."""
    cells: dict[tuple[str, str, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for line in lines:
        key = line["network"], line["recipe"], line["strategy"]
        cells[key] = max(cells[key][0], line["loss"]), max(cells[key][1], line["weights"])
    strategies = [name for name in STRATEGIES if any(key[2] == name for key in cells)]
    rows = [(network, recipe) for network in NETWORKS for recipe in RECIPES]
    rows = [row for row in rows if any(key[:2] == row for key in cells)]
    text = "| network, recipe | " + " | ".join(strategies) + " |\n" + "|---" * (len(strategies) + 1) + "|\n"
    for row in rows:
        shown = [_cell(cells[*row, name]) if (*row, name) in cells else "" for name in strategies]
        text += f"| {row[0]}, {row[1]} | " + " | ".join(shown) + " |\n"
    return text


def _cell(pair: tuple[float, float]) -> str:
    return " / ".join("0" if value == 0.0 else f"{value:.0e}" for value in pair)


if __name__ == "__main__":
    main(*sys.argv[1:])
