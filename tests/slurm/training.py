"""How tests train on a cluster: the words of a small run, the script of its job, and its losses against one process."""

import json
import shlex
from pathlib import Path

# Digits, a small network, no files but the run's own: seconds, most of them for imports.
SMALL = (
    "train",
    "trainer.accelerator=cpu",
    "trainer.max_steps=20",
    "trainer.log_every_steps=1",
    "tracking=none",
    "run.root=runs",
    "run.name=test",
    "run.id=1",
)
DIFFERENCE = 1e-5  # of losses of about 2: what another order of summing costs in 32 bits, with room


def words(*more: str) -> str:
    """The words of the small run and ``more`` as a shell reads them."""
    return shlex.join((*SMALL, *more))


def script(folder: Path, *lines: str) -> str:
    """The path of a batch script of ``lines``, in ``folder``."""
    path = folder / "job.sh"
    path.write_text("\n".join(("#!/bin/bash", *lines, "")))
    return str(path)


def run_folder(folder: Path) -> Path:
    """The folder of the small run that was started in ``folder``."""
    return folder / "runs" / "test" / "1"


def losses(folder: Path) -> dict[int, float]:
    """The training loss of each step of the small run that was started in ``folder``, by step."""
    lines = map(json.loads, (run_folder(folder) / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def assert_same_losses(found: dict[int, float], expected: dict[int, float]) -> None:
    """Fails where a step is missing, is too many, or has another loss."""
    assert found.keys() == expected.keys()
    far = {step: (found[step], loss) for step, loss in expected.items() if abs(found[step] - loss) > DIFFERENCE}
    assert not far, f"step: (found, expected): {far}"
