"""What a network learns to do: the loss, the score of a batch, and the metrics of a whole split."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn


class MeanLoss(torchmetrics.Metric):
    """Mean over samples. A NaN stays one: torchmetrics' own mean leaves it out, or (``disable``) forgets weights."""

    total: Tensor
    num_samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_samples: int) -> None:
        self.total += mean * num_samples
        self.num_samples += num_samples

    def compute(self) -> Tensor:
        return self.total / self.num_samples


class Task(nn.Module):
    """A loss, and metrics that count every sample once, on any number of ranks."""

    def __init__(self, metrics: dict[str, torchmetrics.Metric]) -> None:
        super().__init__()
        self.loss_of_split = MeanLoss()
        self.metrics = nn.ModuleDict(metrics)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the samples, a scalar."""
        raise NotImplementedError("a task defines its loss")

    def score(self, outputs: Tensor, targets: Tensor) -> tuple[str, Tensor]:
        """Name and mean of a figure that people follow during training."""
        raise NotImplementedError("a task defines its score")

    def prediction(self, outputs: Tensor) -> Tensor:
        """What the metrics compare with the targets."""
        return outputs

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Counts a batch of a split: outputs (N, num_outputs), targets (N, …)."""
        self.loss_of_split.update(self.loss(outputs, targets), len(targets))
        for metric in self._each_metric():
            metric.update(self.prediction(outputs), targets)

    def compute(self, prefix: str) -> dict[str, Tensor]:
        """Metrics over all that was counted on all ranks, ``prefix/name``; starts anew."""
        results = {f"{prefix}/loss": self.loss_of_split.compute()}
        for name, metric in zip(self.metrics, self._each_metric(), strict=True):
            results[f"{prefix}/{name}"] = metric.compute()
        self.reset()
        return results

    def reset(self) -> None:
        """Forgets what was counted."""
        self.loss_of_split.reset()
        for metric in self._each_metric():
            metric.reset()

    def _each_metric(self) -> list[torchmetrics.Metric]:
        return [metric for metric in self.metrics.values() if isinstance(metric, torchmetrics.Metric)]


class Classification(Task):
    """Cross-entropy on logits (N, classes) and labels (N,); accuracy."""

    def __init__(self, num_outputs: int) -> None:
        accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=num_outputs, average="micro")
        super().__init__({"accuracy": accuracy})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> tuple[str, Tensor]:
        return "accuracy", (outputs.argmax(-1) == targets).float().mean()

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)


class R2(torchmetrics.R2Score):
    """R², summed in float64: in float32 the difference of two large sums leaves nothing of it. NaN for one sample."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        wide = torch.float32 if target.device.type == "mps" else torch.float64  # MPS has no float64
        super().update(preds.to(wide), target.to(wide))

    def compute(self) -> Tensor:
        return super().compute() if int(self.total) > 1 else torch.full((), math.nan)


class Regression(Task):
    """Mean squared error on outputs and targets (N, columns); mean absolute error and R²."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__({"mae": torchmetrics.MeanAbsoluteError(), "r2": R2()})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> tuple[str, Tensor]:
        return "mae", (outputs - targets).abs().mean()


TASKS: dict[str, Callable[[int], Task]] = {"classification": Classification, "regression": Regression}
