"""Ends training at whichever limit comes first, or at a signal, and remembers which it was."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning

FROM_PEOPLE = (signal.SIGINT, signal.SIGTERM)
FROM_SLURM = (signal.SIGUSR1, signal.SIGUSR2)
GO_ON, BY_TIME, BY_SIGNAL = 0, 1, 2
WISH = 1_000_000  # what ranks tell each other: a wish times this, plus the milliseconds of a step; the largest counts
MILLISECONDS_BETWEEN_CHECKS = 2000
SECONDS_OF_ONE_SIGNAL = 2.0  # in which whoever passes it on may send it again


class Stopping(lightning.Callback):
    """Limits on steps, samples, wall time and training loss; the Trainer itself counts epochs.

    SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGUSR2 only set a flag: training ends after the step in hand, so that weights
    are whole when they are saved. A second SIGINT or SIGTERM ends the process as it would without distmlp, unless it
    comes at once: SLURM and terminals send a signal to torchrun and to its ranks, to which torchrun sends it again. A
    second SIGUSR1 or SIGUSR2 does nothing.

    A run that is to stop for a signal does not validate first, since it may have little time.

    The loss that is compared with ``loss_threshold`` is the mean over the targets since the last validation (of an
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
        self.reached_loss: float | None = None
        self.signal_name = ""
        self.signalled = 0.0
        self.stopped_by_signal = False
        self.former_handlers: dict[int, Any] = {}
        self.answer: Callable[[], int] = lambda: GO_ON
        self.next_check = 0
        self.last_check = (0, 0.0)
        self.started = time.monotonic()
        self.reason = f"trainer.max_epochs={max_epochs} reached"

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        # Lightning's own handler of SIGTERM talks to the other ranks wherever they happen to be, and both then hang.
        # Without it a signal before the first step, or in the test, ends the process at once.
        trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
        # And it asks rank 0 about it before every step, which waits for the device.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.started = time.monotonic()
        self.last_check = (pl_module.position.step, self.started)
        self.former_handlers = {number: signal.signal(number, self._on_signal) for number in FROM_PEOPLE + FROM_SLURM}
        self._stop_at_limits(trainer, pl_module.position)  # a resumed run may have reached them
        if None not in (self.reached_loss, self.loss_threshold):
            self._stop_at_loss(trainer, self.reached_loss)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.answer()
        if not self.signal_name:  # else one may come again while the run is saved
            self.let_go()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.let_go()

    def _on_signal(self, number: int, _: Any) -> None:
        if not self.signal_name:
            self.signal_name = signal.Signals(number).name
            self.signalled = time.monotonic()
        elif number in FROM_PEOPLE and time.monotonic() - self.signalled > SECONDS_OF_ONE_SIGNAL:
            self.let_go()
            os.kill(os.getpid(), number)

    def let_go(self) -> None:
        """Signals are again answered as before training. Who trained calls it when the run has ended and is saved."""
        for number, handler in self.former_handlers.items():
            signal.signal(number, handler)
        self.former_handlers = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        position = pl_module.position
        self._stop_at_limits(trainer, position)
        if not trainer.should_stop and (self.max_time is not None or self.signal_name or trainer.world_size > 1):
            self._stop_if_wished(trainer, position.step)
        if self.stopped_by_signal:
            trainer.fit_loop.epoch_loop._skip_next_val = True

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self.loss_threshold is None or not pl_module.position.loss_targets:
            return  # the mean costs an exchange between ranks: only who set a threshold pays it
        self.reached_loss = pl_module.mean_training_loss()
        self._stop_at_loss(trainer, self.reached_loss)

    def _stop_at_limits(self, trainer: lightning.Trainer, position: Any) -> None:
        if self.max_steps is not None and position.step >= self.max_steps:
            self._stop(trainer, f"trainer.max_steps={self.max_steps} reached")
        elif self.max_samples is not None and position.samples >= self.max_samples:
            self._stop(trainer, f"trainer.max_samples={self.max_samples} reached")

    def _stop_at_loss(self, trainer: lightning.Trainer, loss: Any) -> None:
        if loss <= self.loss_threshold:
            self._stop(trainer, f"trainer.loss_threshold={self.loss_threshold} reached with a mean loss of {loss:.4g}")

    def _stop_if_wished(self, trainer: lightning.Trainer, step: int) -> None:
        """Stops for a signal or the clock. These differ between ranks, which therefore ask each other now and then."""
        time_is_over = self.max_time is not None and time.monotonic() - self.started >= self.max_time.total_seconds()
        wish = BY_SIGNAL if self.signal_name else BY_TIME if time_is_over else GO_ON
        if trainer.world_size > 1:
            if step < self.next_check:
                return
            # What was asked at the last check has long been answered, so that no step waits for it.
            mine, (wish, slowest) = wish, divmod(self.answer(), WISH)
            self.answer = trainer.strategy.ask_all(mine * WISH + self._milliseconds(step))  # type: ignore[attr-defined]
            self.next_check = step + steps_between_checks(slowest, self.check_every_steps)
        if wish == BY_SIGNAL:
            self.stopped_by_signal = True
            self._stop(trainer, f"stopped by {self.signal_name or 'a signal to another rank'}")
        elif wish == BY_TIME:
            self._stop(trainer, f"trainer.max_time={self.max_time} reached")

    def _milliseconds(self, step: int) -> int:
        """Of a step of this rank since the last check, at least 1; what it says of the first check, nobody uses."""
        (last, at), self.last_check = self.last_check, (step, time.monotonic())
        seconds = (self.last_check[1] - at) / max(1, step - last)
        return min(max(1, round(1000 * seconds)), WISH - 1)

    def _stop(self, trainer: lightning.Trainer, reason: str) -> None:
        if not trainer.should_stop:
            self.reason = reason
        trainer.should_stop = True


def steps_between_checks(milliseconds: int, most: int) -> int:
    """Steps until ranks ask each other again, ``most`` or fewer where a step of the slowest takes ``milliseconds``.

    An answer is read at the check after its own, so a signal is followed within two of these and a step.
    """
    return max(1, min(most, MILLISECONDS_BETWEEN_CHECKS // milliseconds)) if milliseconds else 1


def _nothing() -> None:
    pass
