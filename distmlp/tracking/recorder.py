"""Carries logged steps from the device to `metrics.jsonl` and the dashboards, by time and never by step.

Values of many steps travel together in one copy. On CUDA the copy of one flush is read at the next, when it has long
arrived, so that no step waits for the device.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from distmlp.log import log, one_line
from distmlp.tracking.metrics_file import MetricsFile

FLUSH_SECONDS = 1.0
DASHBOARD_POINTS_A_FLUSH = 10
LOWER_IS_BETTER = ("loss", "mae", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class InFlight:
    """Steps whose ``values`` (steps, metrics) are on their way to the host, and the results of the same stretch."""

    steps: list[Any]
    values: Tensor
    arrived: torch.cuda.Event | None
    results: list[dict[str, Any]]


class Recorder(lightning.Callback):
    """Writes what the module logged.

    Args:
        metrics_file: where every line goes; None on ranks that write nothing.
        latest: newest value of each metric, shared with whatever shows it.
        best: best value of each evaluated metric so far.
    """

    def __init__(self, metrics_file: MetricsFile | None, latest: dict[str, float], best: dict[str, float]) -> None:
        self.metrics_file = metrics_file
        self.latest = latest
        self.best = best
        self.started = self.flushed = time.time()
        self.seconds_before = 0.0  # of training, before a resumed run went on
        self.results: list[dict[str, Any]] = []
        self.in_flight: InFlight | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.started = time.time() - self.seconds_before

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if time.time() - self.flushed >= FLUSH_SECONDS:
            self._flush(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._keep_results(pl_module)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._keep_results(pl_module)
        self.flush_all(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.flush_all(trainer, pl_module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.flush_all(trainer, pl_module)

    def flush_all(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Writes all that was logged so far. Waits for the device."""
        self._flush(trainer, pl_module)
        self._write_arrived(trainer)

    def _flush(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.flushed = time.time()
        self._write_arrived(trainer)
        steps, pl_module.logged = pl_module.logged, []
        results, self.results = self.results, []
        if self.metrics_file is None or not (steps or results):
            return
        values = torch.stack([torch.stack(list(step.values.values())) for step in steps]) if steps else torch.empty(0)
        on_host = values.float().to("cpu", non_blocking=True)
        arrived = torch.cuda.current_stream().record_event() if values.is_cuda else None
        self.in_flight = InFlight(steps, on_host, arrived, results)
        if arrived is None:
            self._write_arrived(trainer)

    def _write_arrived(self, trainer: lightning.Trainer) -> None:
        if self.in_flight is None:
            return
        flight, self.in_flight = self.in_flight, None
        if flight.arrived is not None:
            flight.arrived.synchronize()
        lines = [self._line(step, row) for step, row in zip(flight.steps, flight.values.tolist(), strict=True)]
        self._write(trainer, sorted(lines + flight.results, key=lambda line: int(line["step"])))

    def _line(self, step: Any, row: list[float]) -> dict[str, Any]:
        line = {
            "step": step.step,
            "epoch": step.epoch,
            "samples": step.samples,
            "seconds": round(step.time - self.started, 4),
            **dict(zip(step.values, row, strict=True)),
            "lr": step.lr,
        }
        if step.sample_ids is not None:
            line["sample_ids"] = sorted(step.sample_ids.tolist())
        return line

    def _keep_results(self, pl_module: Any) -> None:
        for name, value in pl_module.results.items():
            if not math.isfinite(value):
                continue
            better: Callable[..., float] = min if name.endswith(LOWER_IS_BETTER) else max
            self.best[name] = better(value, self.best.get(name, value))
        position = pl_module.position
        seconds = round(time.time() - self.started, 4)
        place = {"step": position.step, "epoch": position.epoch, "samples": position.samples, "seconds": seconds}
        self.latest.update(pl_module.results)
        self.results.append(place | pl_module.results)

    def _write(self, trainer: lightning.Trainer, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            self.latest.update({name: value for name, value in line.items() if isinstance(value, float)})
        if self.metrics_file is None or not lines:
            return
        self.metrics_file.append(lines)
        steps = [line for line in lines if "train/loss" in line]
        results = [line for line in lines if "train/loss" not in line]
        for line in sorted(_thinned(steps) + _thinned(results), key=lambda line: int(line["step"])):
            for logger in list(trainer.loggers):
                self._show(trainer, logger, line)

    def _show(self, trainer: lightning.Trainer, logger: Logger, line: dict[str, Any]) -> None:
        shown = {name: value for name, value in line.items() if isinstance(value, float) and name != "seconds"}
        try:
            logger.log_metrics(shown | {"epoch": line["epoch"]}, step=line["step"])
        except Exception as error:  # a dashboard is a view of the run; its fault must not end the run
            trainer.loggers = [other for other in trainer.loggers if other is not logger]
            log.warning("%s failed (%s): the run goes on without it", type(logger).__name__, one_line(error))


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `DASHBOARD_POINTS_A_FLUSH` of ``lines``, evenly, the last one always."""
    every = -(-len(lines) // DASHBOARD_POINTS_A_FLUSH) or 1
    return lines[::-1][::every][::-1]
