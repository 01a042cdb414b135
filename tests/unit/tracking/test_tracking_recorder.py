"""What training logged reaches `metrics.jsonl`: every step, sample id and evaluation; dashboards are views of it."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Fit = Callable[..., Any]
NUM_TRAIN, SIZES = 210, [64, 64, 64, 18]


def test_every_logged_step_has_a_line_with_its_place(fit: Fit) -> None:
    fitted = fit("trainer.max_epochs=3")
    steps = fitted.steps
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["epoch"] for line in steps] == [0] * 4 + [1] * 4 + [2] * 4
    assert [line["samples"] for line in steps] == [sum((SIZES * 3)[: n + 1]) for n in range(12)]
    seconds = [line["seconds"] for line in fitted.lines]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < 60
    assert all(list(line)[:4] == ["step", "epoch", "samples", "seconds"] for line in fitted.lines)
    assert all({"train/loss", "train/accuracy", "lr"} <= line.keys() for line in steps)
    assert "sample_ids" not in steps[0]


@pytest.mark.parametrize("block_seconds", [0.0, 5.0])
def test_steps_are_logged_as_often_as_asked_for(block_seconds: float, fit: Fit) -> None:
    often, seldom = (fit(f"trainer.log_every_steps={n}", block_seconds=block_seconds).steps for n in (1, 3))
    assert [line["step"] for line in seldom] == [3, 6]

    def without_time(line: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in line.items() if name != "seconds"}

    assert [without_time(line) for line in seldom] == [without_time(often[2]), without_time(often[5])]


def test_the_ledger_names_each_sample_once_an_epoch_in_another_order(fit: Fit) -> None:
    steps = fit("trainer.log_sample_ids=true").steps
    assert all(line["sample_ids"] == sorted(line["sample_ids"]) for line in steps)
    assert [len(line["sample_ids"]) for line in steps] == SIZES * 2
    epochs = [[line["sample_ids"] for line in steps if line["epoch"] == epoch] for epoch in (0, 1)]
    for epoch in epochs:
        assert sorted(row for ids in epoch for row in ids) == list(range(NUM_TRAIN))
    assert epochs[0] != epochs[1]


def test_an_evaluation_has_a_line_and_the_best_is_kept(fit: Fit) -> None:
    fitted = fit("trainer.max_epochs=6", "optimizer.lr=0.5")
    evaluations = [line for line in fitted.lines if "val/loss" in line]
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(4 * n, n - 1) for n in range(1, 7)]
    assert fitted.run.best == {
        "val/loss": min(line["val/loss"] for line in evaluations),
        "val/accuracy": max(line["val/accuracy"] for line in evaluations),
    }
    assert fitted.run.latest.items() >= {"val/loss": evaluations[-1]["val/loss"]}.items()
    assert fitted.run.latest["train/loss"] == fitted.steps[-1]["train/loss"]


def test_validation_can_come_between_the_ends_of_epochs(fit: Fit) -> None:
    evaluations = [line for line in fit("trainer.validate_every_steps=3").lines if "val/loss" in line]
    assert [line["step"] for line in evaluations] == [3, 4, 6, 8]


def test_a_run_that_diverged_has_valid_lines_and_keeps_its_best(fit: Fit) -> None:
    fitted = fit("optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3", "trainer.validate_every_steps=1")
    losses = [line["train/loss"] for line in fitted.steps]
    assert losses[0] is not None
    assert losses[-1] is None
    assert math.isnan(fitted.run.latest["train/loss"])
    assert all(math.isfinite(value) for value in fitted.run.best.values())


def test_lines_of_steps_before_a_fault_are_written(fit: Fit) -> None:
    seen = []

    def break_validation(fitted: Any) -> None:
        seen.append(fitted)
        fitted.run.trainer.callbacks.append(Fault())

    with pytest.raises(RuntimeError, match="the device was lost"):
        fit(prepare=break_validation)
    assert [line["step"] for line in seen[0].steps] == [1, 2, 3, 4]


class Fault(lightning.Callback):
    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        raise RuntimeError("the device was lost")


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_shows_what_the_lines_say(fit: Fit) -> None:
    fitted = fit("tracking=tensorboard")
    shown = events(fitted.folder)
    evaluations = {line["step"]: line["val/loss"] for line in fitted.lines if "val/loss" in line}
    assert {event.step: event.value for event in shown.Scalars("val/loss")} == pytest.approx(evaluations)
    lines = {line["step"]: line["train/loss"] for line in fitted.steps}
    drawn = {event.step: event.value for event in shown.Scalars("train/loss")}
    assert len(drawn) >= 2
    assert drawn == pytest.approx({step: lines[step] for step in drawn})


def test_a_dashboard_that_cannot_start_is_left_out(fit: Fit, warnings_logged: list[str]) -> None:
    def with_a_file_in_the_way(folder: Path) -> None:
        (folder / "tensorboard").write_text("")

    fitted = fit("tracking=tensorboard", before=with_a_file_in_the_way)
    assert len(fitted.steps) == 8
    assert fitted.run.trainer.loggers == []
    assert warnings_logged[0].startswith("TensorBoard did not start (")


# TensorBoard writes in a thread, which dies on the full disk.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("num_bytes", [300, 3000])
def test_a_full_disk_ends_neither_the_run_nor_its_other_files(
    num_bytes: int, fit: Fit, largest_file: Callable[[int], AbstractContextManager[None]], warnings_logged: list[str]
) -> None:
    with largest_file(num_bytes):
        fitted = fit("tracking=tensorboard", "trainer.max_epochs=20")
    assert fitted.module.position.step == 80
    assert fitted.run.latest["train/loss"] < 0.5
    assert all(line["step"] <= 80 for line in fitted.lines)  # each of them can be read
    assert any(message.startswith("metrics.jsonl cannot be written") for message in warnings_logged)
    (dashboard,) = [message for message in warnings_logged if message.startswith("TensorBoard")]  # said once
    assert "File too large" in dashboard
    assert any(message.startswith("the checkpoint of step 80") for message in warnings_logged)
