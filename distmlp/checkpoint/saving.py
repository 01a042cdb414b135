"""When checkpoints are written, and what a checkpoint says of the run beside its tensors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning

from distmlp.checkpoint.random_state import capture
from distmlp.checkpoint.saver import Saver
from distmlp.log import log
from distmlp.shards import Shard


@dataclass(frozen=True)
class Rules:
    """When to save, beside the end of training. None: not by this measure.

    Attributes:
        every_steps: optimizer steps between two.
        every_epochs: epochs between two.
        every_seconds: of training between two; ranks agree on the moment within some steps.
        check_every_steps: how often ranks ask each other about it.
        skips_when_busy: leaves a save out while the former one is still written; otherwise training waits.
    """

    every_steps: int | None = None
    every_epochs: int | None = None
    every_seconds: float | None = None
    check_every_steps: int = 10
    skips_when_busy: bool = False


class Saving(lightning.Callback):
    """Saves by ``rules``, at the end, and when a signal stops the run.

    Where validation is due after the same step, it comes first: its results belong to the step. A run that a signal
    stops saves without it, and makes up for it when it is resumed. A run that goes on from another run's checkpoint
    saves at once.

    Args:
        saver: writes.
        rules: when.
        facts: what is the same in all checkpoints of this start: configuration, versions, ….
        describe: what the run knows at the moment, as JSON: metrics and the like; called before each save.
        average: the callback that keeps a moving average of the weights, with its list ``average``; or None.
    """

    def __init__(
        self,
        saver: Saver,
        rules: Rules,
        *,
        facts: dict[str, Any],
        describe: Callable[[Any, Any], dict[str, Any]],
        average: Any = None,
    ) -> None:
        self.saver = saver
        self.rules = rules
        self.facts = facts
        self.describe = describe
        self.average = average
        self.validates_first = False
        self.is_from_elsewhere = False
        self.is_prepared = False
        self.saved_step: int | None = None
        self.validated_step: int | None = None
        self.is_due = False
        self.saved_at = time.monotonic()
        self.answer: Callable[[], int] = lambda: 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.saved_at = time.monotonic()
        if self.is_from_elsewhere:  # it must not hang on what another run may remove
            self._save(trainer, pl_module)
        self.saved_step = pl_module.position.step
        if self.validates_first:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        strategy: Any = trainer.strategy
        if not self.is_prepared and pl_module.position.step:  # the optimizer's states exist after its first step
            self.is_prepared = True
            if strategy.has_shards_at_hand:
                self.saver.prepare(self._shards(trainer))
        self.is_due = self.is_due or self._is_due(trainer, pl_module)

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if self.is_due:
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.validated_step = pl_module.position.step
        if self.is_due:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.answer()
        self._save(trainer, pl_module, is_last=True)
        self.saver.wait()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.saver.give_up()

    def _is_due(self, trainer: Any, module: Any) -> bool:
        rules, position = self.rules, module.position
        if rules.every_steps is not None and position.step % rules.every_steps == 0:
            return True
        if rules.every_epochs is not None and position.is_epoch_end and (position.epoch + 1) % rules.every_epochs == 0:
            return True
        return rules.every_seconds is not None and self._time_is_over(trainer, position.step)

    def _time_is_over(self, trainer: Any, step: int) -> bool:
        assert self.rules.every_seconds is not None
        is_over = time.monotonic() - self.saved_at >= self.rules.every_seconds
        if trainer.world_size == 1:
            return is_over
        if step % self.rules.check_every_steps:
            return False
        # What was asked at the last check has long been answered, so that no step waits for it.
        wish, self.answer = self.answer(), trainer.strategy.ask_all(int(is_over))
        return bool(wish)

    def _save(self, trainer: Any, module: Any, is_last: bool = False) -> None:
        self.is_due = False
        position, strategy = module.position, trainer.strategy
        if position.step in (0, self.saved_step):
            return
        if not is_last and self.rules.skips_when_busy and strategy.any_rank(self.saver.is_busy):
            log.warning("the checkpoint of step %d is left out: the former one is still written", position.step)
            return
        self.saved_step, self.saved_at = position.step, time.monotonic()
        self.answer, _ = (lambda: 0), self.answer()  # asked before this save, on all ranks
        strategy.before_checkpoint()
        rank_state = {
            "random": capture(strategy.device),
            "loss_sum": float(position.loss_sum),
            "optimizer_scalars": strategy.scalars(),
        }
        run_state = self._run_state(trainer, module)  # on every rank: it may take all of them
        self.saver.save(position.step, self._shards(trainer), rank_state, run_state if trainer.is_global_zero else None)
        strategy.after_checkpoint()

    def _shards(self, trainer: Any) -> list[Shard]:
        average = None if self.average is None else self.average.average
        found: list[Shard] = trainer.strategy.shards(average)
        return found

    def _run_state(self, trainer: Any, module: Any) -> dict[str, Any]:
        position, strategy = module.position, trainer.strategy
        return {
            "step": position.step,
            "epoch": position.epoch,
            "samples": position.samples,
            "samples_in_epoch": position.samples_in_epoch,
            "loss_targets": position.loss_targets,
            "validation_is_due": module.validation_is_due and self.validated_step != position.step,
            "learning_rates": [float(group["lr"]) for group in strategy.optimizers[0].param_groups],
            "loss_scaler": strategy.scaler_state(),
            "saved_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **self.facts,
            **self.describe(trainer, module),
        }
