"""Writes weights while training runs, every so many steps, and at the end."""

from pathlib import Path
from typing import Any

import lightning

from distmlp.checkpoint.weights import write_weights
from distmlp.log import log


class WeightsWriter(lightning.Callback):
    """Rank 0 writes the network's weights to ``checkpoints``. A failed write is reported and does not end the run.

    Args:
        checkpoints: folder for `step-…` folders.
        every_steps: steps between two; None: at the end only.
        average: the moving average of the weights, where one is kept: a callback with ``in_place(strategy)``.
    """

    def __init__(self, checkpoints: Path, every_steps: int | None, average: Any = None) -> None:
        self.checkpoints = checkpoints
        self.every_steps = every_steps
        self.average = average
        self.written_step: int | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if self.every_steps is not None and pl_module.position.step % self.every_steps == 0:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        position = pl_module.position
        if position.step == self.written_step:
            return
        self.written_step = position.step
        strategy: Any = trainer.strategy
        weights, average = strategy.full_weights(), None  # gathered from all ranks
        if self.average is not None:
            # A copy, since replicas hand out the weights themselves.
            weights = {name: weight.clone() for name, weight in weights.items()}
            with self.average.in_place(strategy):
                average = {name: weight.clone() for name, weight in strategy.full_weights().items()}
        if not trainer.is_global_zero:
            return
        state = {"step": position.step, "epoch": position.epoch, "samples": position.samples}
        try:
            write_weights(self.checkpoints, position.step, weights, state, average)
        except OSError as error:
            log.warning("the checkpoint of step %d was not written: %s", position.step, error.strerror)
