"""The LightningModule: any `nn.Module`, a task, an optimizer and a schedule; Lightning's Trainer runs it.

Optimization is manual, in Lightning's sense: a step is one *global* batch, of which a rank holds a share that may be
cut into micro-batches, and the loss is normalised over the global batch: a ragged last batch weighs what it should.

A step of a small network takes less time than Lightning's hooks around it. In one process `training_step` therefore
takes as many global batches from the loader as fit into `HOOK_INTERVAL_SECONDS`; callbacks run once for each such block
and read what happened from `position` and `logged`. A network whose step is longer gets one step for each call.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from distmlp.tasks import Task

HOOK_INTERVAL_SECONDS = 0.05


@dataclass(slots=True)
class Position:
    """How far the run is. ``loss_sum`` (scalar) and ``loss_targets``: training loss since the last validation."""

    step: int = 0
    epoch: int = 0
    samples: int = 0
    samples_in_epoch: int = 0
    is_epoch_end: bool = False
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    loss_targets: int = 0


@dataclass(slots=True)
class LoggedStep:
    """What is kept of a step that is to be logged. Tensors stay on the device, so that no step waits for them."""

    step: int
    epoch: int
    samples: int
    time: float
    lr: float
    values: dict[str, Tensor]
    sample_ids: Tensor | None


class TrainingModule(lightning.LightningModule):
    """Trains ``network`` on a task.

    Args:
        network: inputs (N, *input_shape) → outputs (N, num_outputs), or (N, T, vocabulary) for tokens.
        task: loss and metrics.
        optimizer: makes the optimizer from the network.
        schedule: multiplier of the base learning rate for optimizer step 0, 1, …
        micro_batch_size: samples in one forward pass; None: all of the rank's share.
        auto_micro_batch: finds that number instead, an `AutoMicroBatch`.
        gradient_clip_norm: largest norm of the gradient over all parameters; None: no clipping.
        gradient_clip_value: largest absolute value in the gradient; None: no clipping.
        log_every_steps: steps between two entries of `logged`.
        pause_at: True for a step after which callbacks must run before the next one.
        validate_every_steps: steps between two validations; None: one at the end of each epoch.
        one_step_per_call: as with several ranks, where blocks measured in time would differ between ranks.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        *,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        micro_batch_size: int | None = None,
        auto_micro_batch: Any = None,
        gradient_clip_norm: float | None = None,
        gradient_clip_value: float | None = None,
        log_every_steps: int = 1,
        pause_at: Callable[[int], bool] = lambda step: False,
        validate_every_steps: int | None = None,
        one_step_per_call: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.task = task
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.micro_batch_size = micro_batch_size
        self.auto_micro_batch = auto_micro_batch
        self.gradient_clip_norm = gradient_clip_norm
        self.gradient_clip_value = gradient_clip_value
        self.log_every_steps = log_every_steps
        self.pause_at = pause_at
        self.validate_every_steps = validate_every_steps
        self.block_seconds = 0.0 if one_step_per_call else HOOK_INTERVAL_SECONDS
        self.position = Position()
        self.logged: list[LoggedStep] = []
        self.results: dict[str, float] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this string some twenty times a step; nn.Module's look-up for parameters is slow for it.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def num_parameters(self) -> int:
        """Trainable values of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad)

    @property
    def validation_is_due(self) -> bool:
        """Whether validation belongs to the step that was taken last."""
        every, position = self.validate_every_steps, self.position
        return position.is_epoch_end if every is None else position.step % every == 0

    @property
    def strategy(self) -> Any:
        """The strategy of this run, one of `distmlp.strategy`."""
        return self.trainer.strategy

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make_optimizer(self.network)
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.rate_factor = 1.0
        return optimizer

    def on_train_start(self) -> None:
        self.position.loss_sum = self.position.loss_sum.to(self.strategy.device)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch != self.position.epoch:  # it is the same where a resumed run starts inside an epoch
            self.position.epoch, self.position.samples_in_epoch = self.current_epoch, 0

    def training_step(self, dataloader_iter: Any) -> None:
        """Takes optimizer steps until the block's time is over, the epoch ends, or callbacks are due."""
        optimizer = self.strategy._lightning_optimizers[0]
        end = time.monotonic() + self.block_seconds
        while True:
            share, _, _ = next(dataloader_iter)
            self._step(optimizer, share)
            if share.is_last:
                dataloader_iter.data_fetcher.done = True  # it counts batches, of which a resumed epoch has fewer
            if share.is_last or self.pause_at(self.position.step) or time.monotonic() >= end:
                return

    def _step(self, optimizer: LightningOptimizer, share: Any) -> None:
        position, strategy = self.position, self.strategy
        factor = self._set_learning_rate(optimizer.optimizer, position.step)
        is_logged = (position.step + 1) % self.log_every_steps == 0
        strategy.zero_gradients(optimizer.optimizer)
        loss, score = self._take(share, is_logged)
        optimizer._on_before_step()  # Lightning's own count of steps
        norm = strategy.apply_gradients(optimizer.optimizer, self.gradient_clip_norm, self.gradient_clip_value)
        optimizer._on_after_step()
        position.step += 1
        position.samples += share.global_num_samples
        position.samples_in_epoch += share.global_num_samples
        position.is_epoch_end = share.is_last
        position.loss_sum.add_(loss, alpha=share.global_num_targets)
        position.loss_targets += share.global_num_targets
        if is_logged:
            self._log_step(loss, score, norm, factor, share)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        factor = self.schedule(step)
        if factor != self.rate_factor:
            self.rate_factor = factor
            for group, base in zip(optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = base * factor
        return factor

    def _take(self, share: Any, is_logged: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the loss over the global batch; returns this rank's part of that loss, and scores."""
        if self.auto_micro_batch is None:
            return self._accumulate_gradients(share, self.micro_batch_size or share.largest, is_logged)

        def probe(num_samples: int) -> None:
            inputs, targets = (tensor.expand(num_samples, *tensor.shape[1:]) for tensor in share.tensors(slice(0, 1)))
            self._micro_batch((inputs, targets), 0.0, True, False)

        def take(size: int) -> tuple[Tensor, dict[str, Tensor]]:
            return self._accumulate_gradients(share, size, is_logged)

        return self.auto_micro_batch.run(self.strategy, share, probe, take)  # type: ignore[no-any-return]

    def _accumulate_gradients(self, share: Any, size: int, is_logged: bool) -> tuple[Tensor, dict[str, Tensor]]:
        parts = share.parts(size)
        if len(parts) == 1:
            return self._micro_batch(share.tensors(), share.weight(), True, is_logged)
        total, scores = torch.zeros((), device=self.strategy.device), dict[str, Tensor]()
        for index, (part, weight) in enumerate(parts, start=1):
            loss, score = self._micro_batch(share.tensors(part), weight, index == len(parts), is_logged)
            total += loss
            scores = {name: scores.get(name, 0.0) + value for name, value in score.items()}
        return total, scores

    def _micro_batch(
        self, batch: tuple[Tensor, Tensor], weight: float, is_last: bool, is_logged: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the gradients of one micro-batch, whose mean loss counts ``weight`` in the global batch's."""
        strategy = self.strategy
        inputs, targets = (tensor.to(self.strategy.device, non_blocking=True) for tensor in batch)
        with strategy.sync(is_last):
            with strategy.autocast():
                outputs = strategy.compute(inputs)
                loss = self.task.loss(outputs, targets)
            if weight != 1.0:
                loss = loss * weight
            strategy.add_gradients(loss)
        scores = {}
        if is_logged:
            scores[self.task.score_name] = self.task.score(outputs.detach(), targets) * weight
        return loss.detach(), scores

    def _log_step(
        self, loss: Tensor, scores: dict[str, Tensor], norm: Tensor | None, factor: float, share: Any
    ) -> None:
        values = {"train/loss": loss} | {f"train/{name}": score for name, score in scores.items()}
        if self.trainer.world_size > 1:
            summed = self.strategy.sum_over_data(torch.stack(list(values.values())))
            values = dict(zip(values, summed.unbind(), strict=True))
        if norm is not None:
            values["train/gradient_norm"] = norm
        position = self.position
        self.logged.append(
            LoggedStep(
                step=position.step,
                epoch=position.epoch,
                samples=position.samples,
                time=time.time(),
                lr=self.base_rates[0] * factor,
                values=values,
                sample_ids=share.sample_ids(),
            )
        )

    def mean_training_loss(self) -> float:
        """Mean loss over the targets since the last call, over all ranks. Waits for the device."""
        position = self.position
        total = self.strategy.sum_over_data(position.loss_sum.clone())
        mean = float(total) / max(1, position.loss_targets)
        position.loss_sum.zero_()
        position.loss_targets = 0
        return mean

    def on_validation_start(self) -> None:
        self.strategy.before_evaluation()

    def on_validation_end(self) -> None:
        self.strategy.after_evaluation()

    def on_test_start(self) -> None:
        self.strategy.before_evaluation()

    def validation_step(self, batch: tuple[Tensor, Tensor, int], batch_idx: int) -> None:
        inputs, targets, num_counted = batch
        whole = [slice(0, len(inputs))]
        for part in whole if self.auto_micro_batch is None else self.auto_micro_batch.parts(len(inputs)):
            counts = num_counted > 0 and part.stop > part.start
            part = part if part.stop > part.start else slice(0, 1)  # a pass that other ranks take too
            with self.strategy.autocast():
                outputs = self.strategy.compute(inputs[part])
                if counts:
                    self.task.update(outputs, targets[part])

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def test_step(self, batch: tuple[Tensor, Tensor, int], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def _finish_evaluation(self, prefix: str) -> None:
        results = self.task.compute(prefix)
        self.log_dict(results, logger=False)
        self.results = {name: float(value) for name, value in results.items()}
