"""A step is one global batch: neither micro-batches nor the number of steps a call takes change what is learnt."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmlp.data.order import permuted
from distmlp.scheduler import Schedule

Fit = Callable[..., Any]
SIZES = [64, 64, 64, 18]
NUM_TRAIN = sum(SIZES)
ONE_STEP, ALL_STEPS = 0.0, 60.0  # seconds for which a call of `training_step` takes steps


def by_hand(
    fitted: Any, *, num_epochs: int, lr: Callable[[int], float], momentum: float = 0.9, clip_norm: float | None = None
) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and losses of each step from a loop in plain torch, from the same first weights."""
    from distmlp.build import build_network

    network: Any = build_network(fitted.config, fitted.data)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=momentum)
    losses: list[float] = []
    for epoch in range(num_epochs):
        order = torch.from_numpy(permuted(torch.arange(NUM_TRAIN).numpy(), NUM_TRAIN, 0, epoch))
        for positions in order.split(64):
            inputs, targets = fitted.data.train.batch(positions)
            optimizer.param_groups[0]["lr"] = lr(len(losses))
            optimizer.zero_grad()
            loss = F.cross_entropy(network(inputs), targets)
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
    return dict(network.state_dict()), losses


def losses_of(fitted: Any) -> list[float]:
    return [line["train/loss"] for line in fitted.steps]


def assert_same_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def assert_close_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


def test_a_run_is_the_loop_that_one_would_write_by_hand(fit: Fit) -> None:
    fitted = fit("trainer.max_epochs=3")
    weights, losses = by_hand(fitted, num_epochs=3, lr=lambda step: 0.05)
    assert losses_of(fitted) == pytest.approx(losses, abs=1e-6)
    assert losses[-1] < losses[0]
    assert_close_weights(fitted.weights, weights)


@pytest.mark.parametrize("size", [1, 7, 18, 63, 64])
def test_micro_batches_change_nothing(size: int, fit: Fit) -> None:
    whole = fit("optimizer.lr=0.2")
    parts = fit("optimizer.lr=0.2", f"trainer.micro_batch_size={size}")
    assert losses_of(parts) == pytest.approx(losses_of(whole), abs=1e-6)
    assert [line["train/accuracy"] for line in parts.steps] == pytest.approx(
        [line["train/accuracy"] for line in whole.steps], abs=1e-6
    )
    assert_close_weights(parts.weights, whole.weights)


def test_a_micro_batch_is_all_that_the_network_ever_sees_at_once(fit: Fit) -> None:
    seen: list[int] = []

    def watch(fitted: Any) -> None:
        def note(module: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
            if module.training:
                seen.append(len(inputs[0]))

        fitted.module.network.register_forward_hook(note)

    fit("trainer.micro_batch_size=25", "trainer.max_epochs=1", prepare=watch)
    assert seen == [21, 21, 22] * 3 + [18]


@pytest.mark.parametrize("size", ["null", "7"])
def test_the_gradient_that_is_clipped_is_the_global_batch_s(size: str, fit: Fit) -> None:
    words = ["optimizer.lr=0.2", f"trainer.micro_batch_size={size}"]
    clipped = fit(*words, "trainer.gradient_clip_norm=0.1")
    weights, losses = by_hand(clipped, num_epochs=2, lr=lambda step: 0.2, clip_norm=0.1)
    assert losses_of(clipped) == pytest.approx(losses, abs=1e-6)
    assert_close_weights(clipped.weights, weights)
    free = fit(*words)
    assert max(float((free.weights[name] - weights[name]).abs().max()) for name in weights) > 1e-3


def test_a_norm_that_no_gradient_reaches_clips_nothing(fit: Fit) -> None:
    assert_same_weights(fit("trainer.gradient_clip_norm=1e6").weights, fit().weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
@pytest.mark.parametrize("words", [[], ["trainer.micro_batch_size=20"], ["model.dropout=0.5", "scheduler=cosine"]])
def test_many_steps_in_one_call_are_the_same_bits_as_one_step_a_call(
    precision: str, words: list[str], fit: Fit
) -> None:
    given = [f"precision={precision}", "trainer.max_epochs=5", *words]
    one, many = fit(*given, block_seconds=ONE_STEP), fit(*given, block_seconds=ALL_STEPS)
    assert losses_of(one) == losses_of(many)
    assert_same_weights(one.weights, many.weights)
    assert one.run.latest["val/loss"] == many.run.latest["val/loss"]
    assert len(losses_of(many)) == 20


def test_bf16_computes_in_bfloat16_and_keeps_weights_in_float32(fit: Fit) -> None:
    seen = set()

    def watch(fitted: Any) -> None:
        fitted.module.network.register_forward_hook(lambda module, inputs, outputs: seen.add(outputs.dtype))

    mixed = fit("precision=bf16_mixed", prepare=watch)
    assert seen == {torch.bfloat16}
    assert {tensor.dtype for tensor in mixed.weights.values()} == {torch.float32}
    whole = fit()
    assert losses_of(mixed) != losses_of(whole)
    assert losses_of(mixed) == pytest.approx(losses_of(whole), abs=0.02)


@pytest.mark.parametrize("block_seconds", [ONE_STEP, ALL_STEPS])
@pytest.mark.parametrize(
    ("words", "schedule"),
    [
        (["scheduler=cosine"], Schedule("cosine", total_steps=12)),
        (["scheduler=linear", "scheduler.warmup_steps=3"], Schedule("linear", warmup_steps=3, total_steps=12)),
        (["scheduler=one_cycle"], Schedule("one_cycle", total_steps=12, final_factor=1e-4)),
        (["scheduler=wsd", "scheduler.warmup_epochs=0.5"], Schedule("wsd", warmup_steps=2, total_steps=12)),
        (["scheduler=step", "scheduler.step_every_steps=5"], Schedule("step", step_every_steps=5)),
        (["scheduler.warmup_samples=130"], Schedule("constant", warmup_steps=3)),
        (["scheduler=cosine", "trainer.max_steps=6"], Schedule("cosine", total_steps=6)),
    ],
)
def test_the_schedule_is_applied_to_the_step_and_logged(
    words: list[str], schedule: Schedule, block_seconds: float, fit: Fit
) -> None:
    fitted = fit(*words, "trainer.max_epochs=3", block_seconds=block_seconds)
    rates = [line["lr"] for line in fitted.steps]
    assert rates == [0.05 * schedule.factor(step) for step in range(len(rates))]
    assert len(rates) in (6, 12)
    if len(rates) == 12:
        weights, losses = by_hand(fitted, num_epochs=3, lr=lambda step: 0.05 * schedule.factor(step))
        assert losses_of(fitted) == pytest.approx(losses, abs=1e-6)
        assert_close_weights(fitted.weights, weights)


def test_every_group_of_the_optimizer_follows_the_schedule(fit: Fit) -> None:
    words = ["optimizer=muon", "optimizer.adamw_lr=0.001", "scheduler=linear", "trainer.max_steps=4"]
    fitted = fit(*words)
    groups = fitted.run.trainer.optimizers[0].param_groups
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.001 / 4, 0.02 / 4])


@pytest.mark.parametrize("block_seconds", [ONE_STEP, ALL_STEPS])
def test_a_ragged_last_batch_weighs_as_many_samples_as_it_has(block_seconds: float, fit: Fit) -> None:
    words = ["trainer.loss_threshold=1e6", "trainer.max_epochs=1"]
    fitted = fit(*words, block_seconds=block_seconds)
    losses = losses_of(fitted)
    mean = sum(loss * size for loss, size in zip(losses, SIZES, strict=True)) / NUM_TRAIN
    assert abs(mean - sum(losses) / 4) > 1e-3  # or the test would say nothing
    assert float(fitted.run.stopping.reason.rpartition(" ")[2]) == pytest.approx(mean, abs=5e-4)


def test_the_loss_of_a_ragged_batch_is_the_mean_over_its_own_samples(fit: Fit) -> None:
    fitted = fit("trainer.max_epochs=1", "optimizer.lr=1e-12", "trainer.micro_batch_size=5")
    network = fitted.module.network.eval()
    order = torch.from_numpy(permuted(torch.arange(NUM_TRAIN).numpy(), NUM_TRAIN, 0, 0))
    for line, positions in zip(fitted.steps, order.split(64), strict=True):
        inputs, targets = fitted.data.train.batch(positions)
        with torch.no_grad():
            outputs = network(inputs)
        assert line["train/loss"] == pytest.approx(F.cross_entropy(outputs, targets).item(), abs=1e-6)
        assert line["train/accuracy"] == pytest.approx(float((outputs.argmax(1) == targets).float().mean()), abs=1e-6)


def test_an_evaluation_is_that_of_the_whole_split_without_dropout(fit: Fit) -> None:
    fitted = fit("model.dropout=0.5", "trainer.micro_batch_size=7")
    inputs, targets = fitted.data.validation.batch(torch.arange(len(fitted.data.validation)))
    with torch.no_grad():
        outputs = fitted.module.network.eval()(inputs)
    assert fitted.module.results["val/loss"] == pytest.approx(F.cross_entropy(outputs, targets).item(), abs=1e-6)
    assert fitted.module.results["val/accuracy"] == pytest.approx(
        float((outputs.argmax(1) == targets).float().mean()), abs=1e-6
    )


def test_the_same_seed_is_the_same_run_and_another_seed_is_another(fit: Fit) -> None:
    words = ["model.dropout=0.5"]
    first, again, other = fit(*words), fit(*words), fit(*words, "seed=1")
    assert losses_of(first) == losses_of(again)
    assert_same_weights(first.weights, again.weights)
    assert losses_of(first)[0] != losses_of(other)[0]


def test_validating_more_often_does_not_change_what_is_learnt(fit: Fit) -> None:
    often = fit("trainer.validate_every_steps=1", "model.dropout=0.5")
    assert_same_weights(often.weights, fit("model.dropout=0.5").weights)


def test_parameters_are_counted_with_those_that_train_only(fit: Fit) -> None:
    fitted = fit("trainer.max_steps=1", "model.hidden=[16,4]")
    assert fitted.module.num_parameters == 8 * 16 + 16 + 16 * 4 + 4 + 4 * 4 + 4
    fitted.module.network.blocks[0][0].weight.requires_grad_(False)
    assert fitted.module.num_parameters == 16 + 16 * 4 + 4 + 4 * 4 + 4
    assert math.isfinite(float(fitted.module.network(torch.zeros(1, 8)).detach().sum()))
