"""What a network learns to do: the loss, the score of a batch, and the metrics of a whole split."""

import math

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

IGNORED = -100  # a target of token data that no loss counts


class MeanLoss(torchmetrics.Metric):
    """Mean over targets. A NaN stays one: torchmetrics' own mean leaves it out, or (``disable``) forgets weights."""

    total: Tensor
    num_targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In 64 bits, so that the number of ranks and batches leaves no trace; Apple's GPUs have none.
        wide = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("total", torch.zeros((), dtype=wide), dist_reduce_fx="sum")
        self.add_state("num_targets", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_targets: int | Tensor) -> None:
        self.total += mean * num_targets
        self.num_targets += num_targets

    def compute(self) -> Tensor:
        return self.total / self.num_targets


class Task(nn.Module):
    """A loss, and metrics that count every sample once, on any number of ranks.

    ``score_name`` is the metric that people follow during training.
    """

    def __init__(self, score_name: str, metrics: dict[str, torchmetrics.Metric]) -> None:
        super().__init__()
        self.score_name = score_name
        self.loss_of_split = MeanLoss()
        self.metrics = nn.ModuleDict(metrics)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the targets, a scalar."""
        raise NotImplementedError("a task defines its loss")

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the targets of the figure called `score_name`, a scalar."""
        raise NotImplementedError("a task defines its score")

    def num_targets(self, targets: Tensor) -> int | Tensor:
        """How many of ``targets`` the loss counts."""
        return len(targets)

    def prediction(self, outputs: Tensor) -> Tensor:
        """What the metrics compare with the targets."""
        return outputs

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Counts a batch of a split: outputs (N, num_outputs), targets (N, …)."""
        self.loss_of_split.update(self.loss(outputs, targets), self.num_targets(targets))
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
        super().__init__("accuracy", {"accuracy": accuracy})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == targets).float().mean()

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
        super().__init__("mae", {"mae": torchmetrics.MeanAbsoluteError(), "r2": R2()})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()


class BitsPerByte(torchmetrics.Metric):
    """Bits that the predictions cost for a byte of text: the one figure that compares runs with other vocabularies."""

    nats: Tensor
    num_bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("num_bytes", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, nats: Tensor, num_bytes: Tensor) -> None:
        self.nats += nats
        self.num_bytes += num_bytes

    def compute(self) -> Tensor:
        return self.nats / (math.log(2) * self.num_bytes)


class TokenPrediction(Task):
    """Cross-entropy on logits (N, T, vocabulary) and tokens (N, T): nats a token, accuracy, perplexity, bits per byte.

    Args:
        token_bytes: UTF-8 bytes of each token's text, (vocabulary,) int64. None: unknown, or not all of the text is
            predicted; then there are no bits per byte.
    """

    token_bytes: Tensor | None

    def __init__(self, token_bytes: Tensor | None = None) -> None:
        metrics: dict[str, torchmetrics.Metric] = {"accuracy": MeanLoss()}
        if token_bytes is not None:
            metrics["bits_per_byte"] = BitsPerByte()
        super().__init__("accuracy", metrics)
        self.register_buffer("token_bytes", token_bytes, persistent=False)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        total = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / self.num_targets(targets).clamp(min=1)  # a micro-batch may hold nothing but padding

    def num_targets(self, targets: Tensor) -> Tensor:
        return (targets != IGNORED).sum()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == targets).sum() / self.num_targets(targets).clamp(min=1)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        loss, count = self.loss(outputs, targets), self.num_targets(targets)
        self.loss_of_split.update(loss, count)
        for metric in self._each_metric():
            if isinstance(metric, BitsPerByte):
                metric.update(loss * count, self._num_bytes(targets))
            else:
                metric.update(self.score(outputs, targets), count)

    def _num_bytes(self, targets: Tensor) -> Tensor:
        assert self.token_bytes is not None
        return self.token_bytes[targets.clamp(min=0)].masked_fill(targets == IGNORED, 0).sum()

    def compute(self, prefix: str) -> dict[str, Tensor]:
        results = super().compute(prefix)
        return results | {f"{prefix}/perplexity": results[f"{prefix}/loss"].exp()}


def make_task(name: str, num_outputs: int, token_bytes: Tensor | None = None) -> Task:
    """The task called ``name``, as a data set names it."""
    if name in ("next_token", "masked_token"):
        return TokenPrediction(token_bytes if name == "next_token" else None)
    return {"classification": Classification, "regression": Regression}[name](num_outputs)
