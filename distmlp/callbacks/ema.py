"""trainer.ema_decay: a moving average of the weights, kept as each rank's shards, and evaluated in their place.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; exponential as in torch's
`AveragedModel`. A sharded strategy averages its shards; under replicas each rank averages its part of every weight, so
the average costs a rank as much memory as the strategy's promise says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor


class WeightAverage(lightning.Callback):
    """After each step: average = decay · average + (1 − decay) · weights, in 32 bits; it starts as the first weights.

    Validation and test see the average; training never does.

    Args:
        decay: in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: list[Tensor] = []
        self.aside: list[Tensor] = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        weights = [weight.float() for weight in pl_module.strategy.local_master_weights()]
        if self.average:
            torch._foreach_lerp_(self.average, weights, 1.0 - self.decay)
        else:
            self.average = [weight.clone() for weight in weights]

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._put_in(pl_module.strategy)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._put_back(pl_module.strategy)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._put_in(pl_module.strategy)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._put_back(pl_module.strategy)

    @contextmanager
    def in_place(self, strategy: Any) -> Iterator[None]:
        """The network has the average for weights inside the block."""
        self._put_in(strategy)
        try:
            yield
        finally:
            self._put_back(strategy)

    @torch.no_grad()
    def _put_in(self, strategy: Any) -> None:
        if self.average:
            weights = strategy.local_master_weights()
            self.aside = [weight.clone() for weight in weights]
            self._write(strategy, weights, self.average)

    @torch.no_grad()
    def _put_back(self, strategy: Any) -> None:
        if self.aside:
            self._write(strategy, strategy.local_master_weights(), self.aside)
            self.aside = []

    def _write(self, strategy: Any, weights: list[Tensor], values: list[Tensor]) -> None:
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
        strategy.publish_master_weights()
