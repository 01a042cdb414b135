"""Ends training at whichever limit comes first, and remembers which it was."""

import time
from datetime import timedelta
from typing import Any

import lightning


class Stopping(lightning.Callback):
    """Limits on steps, samples, wall time and training loss; the Trainer itself counts epochs.

    The loss that is compared with ``loss_threshold`` is the mean over the samples since the last validation (of an
    epoch, unless validation runs more often), the same on every rank.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None,
        max_steps: int | None,
        max_samples: int | None,
        max_time: timedelta | None,
        loss_threshold: float | None,
        check_every_steps: int,
    ) -> None:
        self.max_steps = max_steps
        self.max_samples = max_samples
        self.max_time = max_time
        self.loss_threshold = loss_threshold
        self.check_every_steps = check_every_steps
        self.started = time.monotonic()
        self.reason = f"trainer.max_epochs={max_epochs} reached"

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        position = pl_module.position
        if self.max_steps is not None and position.step >= self.max_steps:
            self._stop(trainer, f"trainer.max_steps={self.max_steps} reached")
        elif self.max_samples is not None and position.samples >= self.max_samples:
            self._stop(trainer, f"trainer.max_samples={self.max_samples} reached")
        elif self.max_time is not None and self._time_is_over(trainer, position.step):
            self._stop(trainer, f"trainer.max_time={self.max_time} reached")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not pl_module.position.loss_samples or trainer.state.fn != "fit":
            return
        loss = pl_module.mean_training_loss()
        if self.loss_threshold is not None and loss <= self.loss_threshold:
            self._stop(trainer, f"trainer.loss_threshold={self.loss_threshold} reached with a mean loss of {loss:.4g}")

    def _time_is_over(self, trainer: lightning.Trainer, step: int) -> bool:
        assert self.max_time is not None
        over = time.monotonic() - self.started >= self.max_time.total_seconds()
        if trainer.world_size == 1:
            return over
        if step % self.check_every_steps:
            return False
        return bool(trainer.strategy.broadcast(over))  # clocks differ between ranks: rank 0 decides

    def _stop(self, trainer: lightning.Trainer, reason: str) -> None:
        if not trainer.should_stop:
            self.reason = reason
        trainer.should_stop = True
