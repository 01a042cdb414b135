"""When a run saves, what of, and what a save that fails does to it: nothing."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from distmlp.checkpoint.storage import LocalStorage

Fit = Callable[..., Any]
ALL = "checkpoint.keep_last=null"


def steps(fitted: Any) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((fitted.folder / "checkpoints").glob("step-*"))]


def state(fitted: Any, step: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((fitted.folder / f"checkpoints/step-{step:08d}/state.json").read_text())
    return values


@pytest.mark.parametrize(
    ("words", "saved"),
    [
        ((), [8]),
        (("checkpoint.every_steps=3",), [3, 6, 8]),
        (("checkpoint.every_epochs=1",), [4, 8]),
        (("checkpoint.every_epochs=2", "trainer.max_epochs=5"), [8, 16, 20]),
        (("checkpoint.every_minutes=1e-9",), [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
@pytest.mark.parametrize("block_seconds", [0.0, None])
def test_it_saves_when_it_is_told_to_and_at_the_end(
    words: tuple[str, ...], saved: list[int], block_seconds: float | None, fit: Fit
) -> None:
    found = steps(fit(*words, ALL, block_seconds=block_seconds))
    if "checkpoint.every_minutes=1e-9" in words and block_seconds is None:
        assert {4, 8} <= set(found)  # asked between two blocks of steps
    else:
        assert found == saved


def test_a_saved_step_has_its_validation(fit: Fit) -> None:
    fitted = fit("checkpoint.every_steps=2", ALL)
    assert "val/loss" not in state(fitted, 2)["metrics"]
    measured = [line["val/loss"] for line in fitted.lines if "val/loss" in line]
    assert [state(fitted, step)["metrics"]["val/loss"] for step in (4, 6, 8)] == [measured[0], measured[0], measured[1]]
    assert not any(state(fitted, step)["validation_is_due"] for step in (2, 4, 6, 8))


def test_the_state_says_where_the_run_is(fit: Fit) -> None:
    fitted = fit("checkpoint.every_steps=3", ALL)
    found = state(fitted, 6)
    place = {name: found[name] for name in ("step", "epoch", "samples", "samples_in_epoch", "num_train_samples")}
    assert place == {"step": 6, "epoch": 1, "samples": 338, "samples_in_epoch": 128, "num_train_samples": 210}
    assert found["configuration"]["optimizer"]["name"] == "momentum"
    assert found["data_fingerprint"] == fitted.data.fingerprint
    assert found["learning_rates"] == [0.05]
    assert {"torch", "python", "numpy"} <= set(found["ranks"][0]["random"])


def test_every_line_of_a_saved_step_is_in_the_metrics_file_by_then(fit: Fit) -> None:
    folders: list[Path] = []
    seen: dict[str, int] = {}

    class Reader(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            for path in (folders[0] / "checkpoints").glob("step-*"):
                seen.setdefault(path.name, len((folders[0] / "metrics.jsonl").read_text().splitlines()))

    def prepare(fitted: Any) -> None:
        folders.append(fitted.folder)
        fitted.run.trainer.callbacks.append(Reader())

    fit("checkpoint.every_steps=2", "checkpoint.asynchronous=false", ALL, prepare=prepare)
    assert seen["step-00000002"] >= 2
    assert seen["step-00000006"] >= 6


def test_only_the_newest_are_kept(fit: Fit) -> None:
    assert steps(fit("checkpoint.every_steps=1", "checkpoint.keep_last=2")) == [7, 8]
    kept = steps(fit("checkpoint.every_steps=1", "checkpoint.keep_last=1", "checkpoint.keep_every_steps=3"))
    assert kept == [3, 6, 8]


def test_the_best_are_kept_beside_the_newest(fit: Fit) -> None:
    words = ["checkpoint.every_epochs=1", "checkpoint.keep_last=1", "checkpoint.keep_best=1"]
    fitted = fit(*words, "trainer.max_epochs=8", "optimizer.lr=0.9")
    losses = {line["step"]: line["val/loss"] for line in fitted.lines if "val/loss" in line}
    best = min(losses, key=lambda step: losses[step])
    assert best < 32, "the case must be one where the last is not the best"
    assert steps(fitted) == [best, 32]


def test_a_save_that_fails_is_said_and_ends_nothing(
    fit: Fit, largest_file: Callable[[int], AbstractContextManager[None]], warnings_logged: list[str]
) -> None:
    with largest_file(300):
        fitted = fit("checkpoint.every_steps=4")
    assert fitted.module.position.step == 8
    assert [path.name for path in (fitted.folder / "checkpoints").iterdir()] == []
    assert sum("was not written" in message for message in warnings_logged) == 2


class SlowStorage(LocalStorage):
    """A disk that takes its time, until it is told to hurry."""

    hurry = threading.Event()

    def write(self, name: str, chunks: Any) -> None:
        self.hurry.wait(20)
        super().write(name, chunks)


@pytest.mark.parametrize(("when_busy", "saved"), [("wait", [2, 4, 6, 8]), ("skip", [2, 8])])
def test_training_goes_on_while_a_save_is_written(
    when_busy: str, saved: list[int], fit: Fit, warnings_logged: list[str]
) -> None:
    reached: list[int] = []
    SlowStorage.hurry = threading.Event()

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            reached.append(module.position.step)
            if when_busy == "wait" and module.position.step == 4:
                SlowStorage.hurry.set()

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            if module.position.step == 8:  # after the callback that saves has left this step out
                SlowStorage.hurry.set()

    def prepare(fitted: Any) -> None:
        fitted.run.saving.saver.storage = SlowStorage(fitted.folder / "checkpoints")
        fitted.run.trainer.callbacks.append(Clock())

    words = ["checkpoint.every_steps=2", ALL, f"checkpoint.when_busy={when_busy}"]
    started = time.monotonic()
    fitted = fit(*words, prepare=prepare, block_seconds=0.0)
    assert time.monotonic() - started < 15, "training waited for the disk"
    assert reached == list(range(1, 9))
    assert steps(fitted) == saved
    assert sum("is left out" in message for message in warnings_logged) == (3 if when_busy == "skip" else 0)


def test_the_strategy_is_told_when_what_it_gave_was_copied(fit: Fit) -> None:
    calls: list[str] = []

    def prepare(fitted: Any) -> None:
        strategy = fitted.run.trainer.strategy
        shards, after = strategy.shards, strategy.after_checkpoint
        strategy.shards = lambda average: (calls.append("shards"), shards(average))[1]
        strategy.after_checkpoint = lambda: (calls.append("after"), after())[1]

    fit("checkpoint.every_steps=4", prepare=prepare)
    assert calls == ["shards", *2 * ["shards", "after"]]  # the first ones say how large the buffer must be


def test_memory_is_there_before_the_first_save(fit: Fit) -> None:
    buffers: list[torch.Tensor] = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            saver = fitted_run[0].saving.saver
            saver.wait()
            buffers.append(saver.snapshot.buffer)

    fitted_run: list[Any] = []

    def prepare(fitted: Any) -> None:
        fitted_run.append(fitted.run)
        fitted.run.trainer.callbacks.append(Watch())

    fit("checkpoint.every_steps=6", prepare=prepare, block_seconds=0.0)
    assert buffers[0].numel()
    assert {buffer.data_ptr() for buffer in buffers} == {buffers[0].data_ptr()}
