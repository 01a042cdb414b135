"""The differences between two runs, and their record for `docs/parity.md`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from parity.bounds import Bound
from parity.cases import Case
from parity.ranks import Outcome


@dataclass(frozen=True)
class Difference:
    """The largest absolute ones: of losses, over all steps, and of weights after the last step."""

    loss: float
    weights: float

    def exceeds(self, bound: Bound) -> bool:
        # Written so that a difference that is not a number exceeds every bound.
        return not (self.loss <= bound.loss and self.weights <= bound.weights)


def difference(one: Outcome, other: Outcome) -> Difference:
    """Between two runs of as many steps."""
    assert one.weights.keys() == other.weights.keys()
    weights = max(float(np.abs(one.weights[name] - other.weights[name]).max()) for name in one.weights)
    return Difference(largest(one.of_steps("train/loss"), other.of_steps("train/loss")), weights)


def largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest absolute difference of two equally long rows; JSON's null is NaN."""
    return float(np.abs(np.subtract(np.array(ours, float), np.array(theirs, float))).max())


def keep(folder: str, case: Case, against: str, found: Difference) -> None:
    """Adds a line to ``folder``/differences.jsonl."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / "differences.jsonl").open("a") as file:
        file.write(json.dumps({**asdict(case), "against": against, **asdict(found)}) + "\n")
