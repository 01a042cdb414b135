"""Writes `docs/resume-matrix.md` from what `make resume-matrix` measured: `… resume_report FOLDER TARGET`."""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "lightning", "deepspeed", "numpy")
TEXT = """# Resume: from any strategy to any other

`make resume-matrix` trained each run from start to end under the strategy above, with a checkpoint inside an epoch,
and let it go on from there under the strategy on the left; `x3` means three ranks (gloo, CPU). It wrote this page,
with {versions}. `make test` has a part of it.

In all {num_changes} changes
- weights, their moving average and every state of the optimizer were, after the change, **equal bit for bit** to what
  was saved;
- every sample of the epoch was taken once, those before the checkpoint and those after it, in the order of the run that
  was never stopped.

A number is the largest absolute difference, over all steps after the change, between the losses and those of the run
that was never stopped: what two strategies differ by anyway, as in [parity.md](parity.md). `=` means that the ranks
were the same, and the rest of the run was bit-identical to it: every loss, every metric, and all that the last
checkpoint holds.

## AdamW with warm-up, clipping and a moving average

{matrix}
## Other optimizers, networks and precisions

With bf16_mixed ranks compute with 8 bits, and batch norms see the samples of a rank: there the losses of two
strategies are not comparable, and the state is what was compared.

{others}"""


def main(folder: str, target: str) -> None:
    """Reads ``folder``/resumed.jsonl, writes ``target``."""
    lines = [json.loads(line) for line in (Path(folder) / "resumed.jsonl").read_text().splitlines()]
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in lines:
        found.setdefault((line["kind"], line["source"], line["target"]), {}).update(line)
    started_to_many = {source for kind, source, target in found if kind == "adamw" and target != source}
    matrix = {key: cell for key, cell in found.items() if key[0] == "adamw" and key[1] in started_to_many}
    others = {key: cell for key, cell in found.items() if key not in matrix}
    text = TEXT.format(
        versions=", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES),
        num_changes=sum("state" in cell for cell in found.values()),
        matrix=_matrix({key[1:]: cell for key, cell in matrix.items()}),
        others=_list(others),
    )
    Path(target).write_text(text)


def _matrix(cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    sources = list(dict.fromkeys(source for source, _ in cells))
    targets = list(dict.fromkeys(target for _, target in cells))
    text = "| to | " + " | ".join(f"from {source}" for source in sources) + " |\n" + "|---" * (len(sources) + 1) + "|\n"
    for target in targets:
        text += f"| {target} | " + " | ".join(_cell(cells.get((source, target))) for source in sources) + " |\n"
    return text


def _list(cells: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    text = "| run | from | to | losses |\n|---|---|---|---|\n"
    for (kind, source, target), cell in sorted(cells.items()):
        text += f"| {kind} | {source} | {target} | {_cell(cell)} |\n"
    return text


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return "=" if "same" in cell else f"{cell['loss']:.0e}" if cell["loss"] else "0"


if __name__ == "__main__":
    main(*sys.argv[1:])
