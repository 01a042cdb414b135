"""The moving average of the weights: torch's own numbers, measured by validation, kept in the checkpoint."""

import copy
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Fit = Callable[..., Any]
DECAY = 0.8


class Reference(lightning.Callback):
    """torch's average of the same weights, taken after each step."""

    def __init__(self) -> None:
        self.model: Any = None

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if self.model is None:
            self.model = AveragedModel(copy.deepcopy(pl_module.network), multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        self.model.update_parameters(pl_module.network)


def test_the_checkpoint_holds_torchs_average_beside_the_weights(fit: Fit) -> None:
    reference = Reference()
    averaged = fit(f"trainer.ema_decay={DECAY}", prepare=lambda fitted: fitted.run.trainer.callbacks.append(reference))
    plain = fit()
    average, weights = averaged.saved("average"), averaged.saved()
    expected = reference.model.module.state_dict()
    assert max(float((average[name] - expected[name]).abs().max()) for name in expected) <= 1e-7
    # Training itself does not see the average, and the weights are back after each validation.
    assert all(torch.equal(averaged.weights[name], weight) for name, weight in plain.weights.items())
    assert all(torch.equal(weights[name], weight) for name, weight in plain.weights.items())
    assert any(not torch.equal(average[name], weight) for name, weight in plain.weights.items())


def test_validation_measures_the_average(fit: Fit) -> None:
    averaged, plain = fit(f"trainer.ema_decay={DECAY}"), fit()
    average = averaged.saved("average")
    network, data = copy.deepcopy(averaged.module.network), averaged.data
    network.load_state_dict(average)
    inputs, targets = data.validation.batch(torch.arange(len(data.validation)))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network(inputs), targets)
    measured = [line["val/loss"] for line in averaged.lines if "val/loss" in line][-1]
    assert abs(measured - float(loss)) <= 1e-6
    assert abs(measured - [line["val/loss"] for line in plain.lines if "val/loss" in line][-1]) > 1e-3
