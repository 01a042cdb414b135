"""Learning-rate schedules as pure functions of the optimizer step: a resumed run cannot differ from a whole one."""

import math
from dataclasses import dataclass

from distmlp.errors import ConfigError, did_you_mean

NAMES = ("constant", "step", "cosine", "linear", "wsd", "one_cycle")
NEEDS_END = ("cosine", "linear", "wsd", "one_cycle")
END_FIELDS = "trainer.max_epochs, trainer.max_steps or trainer.max_samples"


@dataclass(frozen=True)
class Schedule:
    """What the base learning rate is multiplied with at each optimizer step.

    ``constant`` keeps it; ``step`` multiplies by ``step_factor`` every ``step_every_steps``; ``cosine`` (Loshchilov and
    Hutter, "SGDR", ICLR 2017, without restarts) and ``linear`` fall to ``final_factor`` at ``total_steps``; ``wsd``
    (warm-up, stable, decay: Hu et al., "MiniCPM", 2024) stays at 1 until the last ``decay_fraction`` of the run and
    then falls to ``final_factor``, linearly as in Hägele et al. (NeurIPS 2024), because the paper's exponential cannot
    reach 0; ``one_cycle`` (Smith and Topin, "Super-convergence", 2018) rises from ``start_factor`` to 1 in the first
    ``peak_fraction`` of the run and falls to ``final_factor``, along cosines, as in torch's ``OneCycleLR``.

    The first ``warmup_steps`` rise linearly from ``1 / warmup_steps`` to 1; the schedule counts from their end, except
    that ``total_steps`` and ``decay_fraction`` are of the whole run. ``one_cycle`` rises by itself: no warm-up.

    Raises:
        ConfigError: an unknown name, a parameter out of range, an end that is needed and not known, or a warm-up that
            does not fit into the run.
    """

    name: str = "constant"
    warmup_steps: int = 0
    total_steps: int | None = None
    step_every_steps: int = 1000
    step_factor: float = 0.1
    final_factor: float = 0.0
    decay_fraction: float = 0.2
    start_factor: float = 0.04
    peak_fraction: float = 0.3

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.total_steps is None:
            if self.name in NEEDS_END:
                raise ConfigError(f"scheduler.name={self.name} needs to know the end: set {END_FIELDS}")
            return
        if 0 < self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"scheduler.warmup_* is {self.warmup_steps} steps and the run ends after {self.total_steps}: "
                f"warm up for less, or raise {END_FIELDS}"
            )
        if self.name == "wsd" and self.warmup_steps > self._decay_start:
            raise ConfigError(
                f"scheduler.warmup_* is {self.warmup_steps} steps and scheduler.decay_fraction={self.decay_fraction} "
                f"starts the decay at step {self._decay_start} of {self.total_steps}: lower one of the two"
            )

    def factor(self, step: int) -> float:
        """Multiplier of the base learning rate for optimizer step ``step``, counted from 0; past the end, the last."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.name == "constant":
            return 1.0
        if self.name == "step":
            return float(self.step_factor ** ((step - self.warmup_steps) // self.step_every_steps))
        if self.name == "one_cycle":
            return self._one_cycle(step)
        if self.name == "wsd":
            return _line(1.0, self.final_factor, self._progress(step, self._decay_start))
        anneal = _cosine if self.name == "cosine" else _line
        return anneal(1.0, self.final_factor, self._progress(step, self.warmup_steps))

    @property
    def _decay_start(self) -> int:
        assert self.total_steps is not None
        return self.total_steps - round(self.decay_fraction * self.total_steps)

    def _progress(self, step: int, start: int) -> float:
        """How much of the way from ``start`` to the end of the run is behind ``step``, in [0, 1]."""
        assert self.total_steps is not None
        if step >= self.total_steps:
            return 1.0
        return max((step - start) / max(self.total_steps - start, 1), 0.0)

    def _one_cycle(self, step: int) -> float:
        assert self.total_steps is not None
        # torch's phases: the peak is at step peak_fraction · total - 1, not always a whole one; the end at total - 1.
        last = self.total_steps - 1
        peak = max(self.peak_fraction * self.total_steps - 1, 0.0)
        if peak > 0 and step <= peak:
            return _cosine(self.start_factor, 1.0, step / peak)
        if last <= peak:
            return 1.0
        return _cosine(1.0, self.final_factor, min((step - peak) / (last - peak), 1.0))


def warmup_in_steps(*, steps: int, samples: int, epochs: float, global_batch_size: int, steps_per_epoch: int) -> int:
    """The warm-up in optimizer steps, rounded up, from the one of its three units that is not zero.

    Raises:
        ConfigError: two units are given, or one is negative.
    """
    amounts = {"steps": steps, "samples": samples, "epochs": epochs}
    for unit, amount in amounts.items():
        if amount < 0:
            raise ConfigError(f"scheduler.warmup_{unit}={amount} must not be negative")
    given = [f"scheduler.warmup_{unit}={amount}" for unit, amount in amounts.items() if amount]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other: keep one and set the others to 0")
    if epochs:
        # Rounded first: 0.07 epochs of 100 steps is 7.000000000000001 in floating point, and means 7.
        return math.ceil(round(epochs * steps_per_epoch, 6))
    return steps or -(-samples // global_batch_size)


def _line(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _check_ranges(schedule: Schedule) -> None:
    if schedule.name not in NAMES:
        raise ConfigError(
            f"scheduler.name={schedule.name} is unknown{did_you_mean(schedule.name, NAMES)} (valid: {', '.join(NAMES)})"
        )
    if schedule.name == "one_cycle" and schedule.warmup_steps:
        raise ConfigError(
            "scheduler.name=one_cycle rises by itself: set scheduler.warmup_* to 0 and use scheduler.peak_fraction"
        )
    infinity = math.inf
    for field, low, high in (
        ("warmup_steps", 0, infinity),
        ("step_every_steps", 1, infinity),
        ("step_factor", 0.0, infinity),
        ("final_factor", 0.0, infinity),
        ("start_factor", 0.0, infinity),
        ("decay_fraction", 0.0, 1.0),
        ("peak_fraction", 0.0, 1.0),
    ):
        value = getattr(schedule, field)
        if not low <= value <= high or value == infinity:
            upper = f"and at most {high:g}" if high < infinity else "and finite"
            raise ConfigError(f"scheduler.{field}={value} must be at least {low:g} {upper}")
