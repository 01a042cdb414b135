"""Which checkpoints to keep: the last ones, the best ones, and one every so many steps for good."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Saved:
    """A checkpoint, and the metric of the run when it was saved, where there is one."""

    name: str
    step: int
    metric: float | None = None


@dataclass(frozen=True)
class Retention:
    """Rules; what any of them keeps stays. The newest checkpoint always stays.

    Attributes:
        keep_last: how many of the newest; None keeps all.
        keep_best: how many of those with the best metric. Of equal ones the newer is better; one without a metric, or
            whose metric is NaN, is no best one.
        lower_is_better: of the metric.
        keep_every_steps: checkpoints at multiples of this number of steps stay for good.
    """

    keep_last: int | None
    keep_best: int = 0
    lower_is_better: bool = True
    keep_every_steps: int | None = None

    def to_remove(self, saved: Sequence[Saved]) -> list[str]:
        """Names of those that no rule keeps, the oldest first."""
        if self.keep_last is None:
            return []
        by_age = sorted(saved, key=lambda one: one.step)
        kept = {one.name for one in by_age[-max(self.keep_last, 1) :]}
        kept |= {one.name for one in self._best(by_age)}
        kept |= {one.name for one in by_age if self.keep_every_steps and one.step % self.keep_every_steps == 0}
        return [one.name for one in by_age if one.name not in kept]

    def _best(self, saved: Sequence[Saved]) -> list[Saved]:
        rated = [(one.metric, one) for one in saved if one.metric is not None and not math.isnan(one.metric)]
        sign = 1 if self.lower_is_better else -1
        return [one for _, one in sorted(rated, key=lambda pair: (sign * pair[0], -pair[1].step))[: self.keep_best]]
