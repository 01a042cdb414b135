"""Losses, scores and metrics equal those of an independent library, over batches of any sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, r2_score
from torch import Tensor

from distmlp.tasks import IGNORED, Classification, Regression, Task, TokenPrediction, make_task

NUM_SAMPLES = 103
CUTS = [[103], [1] * 103, [50, 50, 3], [1, 100, 2], [64, 39]]


def labelled(num_classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(NUM_SAMPLES, num_classes, generator=generator)
    return outputs, torch.randint(num_classes, (NUM_SAMPLES,), generator=generator)


def measured(columns: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(NUM_SAMPLES, columns, generator=generator) * torch.arange(1, columns + 1) + 2
    return targets + 0.7 * torch.randn(NUM_SAMPLES, columns, generator=generator), targets


def counted(task: Task, outputs: Tensor, targets: Tensor, cuts: list[int]) -> dict[str, float]:
    for part, wanted in zip(outputs.split(cuts), targets.split(cuts), strict=True):
        task.update(part, wanted)
    return {name: float(value) for name, value in task.compute("val").items()}


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_classification_over_uneven_batches_is_that_of_the_whole_split(cuts: list[int], num_classes: int) -> None:
    outputs, targets = labelled(num_classes)
    expected = {
        "val/loss": log_loss(targets, outputs.double().softmax(1), labels=range(num_classes)),
        "val/accuracy": accuracy_score(targets, outputs.argmax(1)),
    }
    assert counted(Classification(num_classes), outputs, targets, cuts) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("columns", [1, 3])
def test_regression_over_uneven_batches_is_that_of_the_whole_split(cuts: list[int], columns: int) -> None:
    outputs, targets = measured(columns)
    expected = {
        "val/loss": mean_squared_error(targets, outputs),
        "val/mae": mean_absolute_error(targets, outputs),
        "val/r2": r2_score(targets, outputs),
    }
    assert counted(Regression(columns), outputs, targets, cuts) == pytest.approx(expected, rel=1e-4)


def test_a_second_split_starts_anew() -> None:
    outputs, targets = labelled()
    task = Classification(5)
    counted(task, outputs, targets, [NUM_SAMPLES])
    again = counted(task, outputs[:10], targets[:10], [4, 6])
    assert again == pytest.approx(counted(Classification(5), outputs[:10], targets[:10], [10]), rel=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e5])
def test_r2_holds_for_targets_far_from_zero(mean: float) -> None:
    outputs, targets = (values + mean for values in measured(1))
    assert counted(Regression(1), outputs, targets, [50, 53])["val/r2"] == pytest.approx(
        r2_score(targets.double(), outputs.double()), rel=1e-4
    )


def test_a_loss_that_is_no_number_is_not_left_out_of_the_mean() -> None:
    outputs, targets = labelled()
    outputs[3] = float("nan")
    assert math.isnan(counted(Classification(5), outputs, targets, [50, 53])["val/loss"])


def test_r2_of_a_single_sample_is_no_number_and_no_error() -> None:
    results = counted(Regression(1), torch.tensor([[1.0]]), torch.tensor([[3.0]]), [1])
    assert (results["val/loss"], results["val/mae"]) == (4.0, 2.0)
    assert math.isnan(results["val/r2"])


def test_the_loss_is_the_mean_over_the_samples() -> None:
    outputs, targets = labelled()
    by_hand = -outputs.log_softmax(1)[torch.arange(NUM_SAMPLES), targets].sum() / NUM_SAMPLES
    torch.testing.assert_close(Classification(5).loss(outputs, targets), by_hand)
    values, wanted = measured()
    torch.testing.assert_close(Regression(3).loss(values, wanted), ((values - wanted) ** 2).mean(1).sum() / NUM_SAMPLES)


def test_the_score_of_a_step_is_the_one_that_is_shown() -> None:
    outputs = F.one_hot(torch.tensor([0, 1, 2, 3])).float()
    task: Task = Classification(4)
    assert (task.score_name, float(task.score(outputs, torch.tensor([0, 1, 2, 0])))) == ("accuracy", 0.75)
    task = Regression(1)
    score = task.score(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [5.0]]))
    assert (task.score_name, float(score)) == ("mae", 2.0)


def predicted(num_tokens: int = 7, length: int = 5) -> tuple[Tensor, Tensor]:
    """Logits and tokens of sequences of which each has another number of targets; one has none."""
    generator = torch.Generator().manual_seed(2)
    outputs = 3 * torch.randn(NUM_SAMPLES, length, num_tokens, generator=generator)
    targets = torch.randint(num_tokens, (NUM_SAMPLES, length), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.4] = IGNORED
    targets[3] = IGNORED
    return outputs, targets


@pytest.mark.parametrize("cuts", CUTS)
def test_token_prediction_counts_every_target_once_and_none_that_is_ignored(cuts: list[int]) -> None:
    outputs, targets = predicted()
    token_bytes = torch.tensor([1, 2, 3, 1, 1, 4, 0])
    wanted = targets[targets != IGNORED]
    probabilities = outputs[targets != IGNORED].double().softmax(1)
    nats = log_loss(wanted, probabilities, labels=range(7))
    expected = {
        "val/loss": nats,
        "val/accuracy": accuracy_score(wanted, probabilities.argmax(1)),
        "val/perplexity": math.exp(nats),
        "val/bits_per_byte": nats * len(wanted) / math.log(2) / int(token_bytes[wanted].sum()),
    }
    assert counted(TokenPrediction(token_bytes), outputs, targets, cuts) == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_nothing_but_padding_has_no_loss_and_no_gradient() -> None:
    outputs, targets = torch.randn(2, 3, 5, requires_grad=True), torch.full((2, 3), IGNORED)
    loss = TokenPrediction().loss(outputs, targets)
    loss.backward()
    assert loss.item() == 0.0
    assert outputs.grad is not None
    assert not outputs.grad.any()
    assert TokenPrediction().score(outputs, targets).item() == 0.0


def test_there_is_a_task_for_every_task_of_the_data() -> None:
    from typing import get_args

    from distmlp.data import dataset

    assert dataset.IGNORED == IGNORED
    made = {name: type(make_task(name, 3)) for name in get_args(dataset.Task)}
    assert made == {
        "classification": Classification,
        "regression": Regression,
        "next_token": TokenPrediction,
        "masked_token": TokenPrediction,
    }
    assert make_task("classification", 3).prediction(torch.eye(3)).tolist() == [0, 1, 2]
    assert "bits_per_byte" in make_task("next_token", 3, torch.ones(3, dtype=torch.int64)).metrics
    assert "bits_per_byte" not in make_task("masked_token", 3, torch.ones(3, dtype=torch.int64)).metrics
