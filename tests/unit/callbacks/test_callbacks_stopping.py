"""Training ends at whichever limit comes first, at exactly the step it says, and says which it was."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import pytest

from distmlp.callbacks.stopping import steps_between_checks

Fit = Callable[..., Any]
BLOCKS = [0.0, 5.0]  # one step for each call of `training_step`, or as many as there are in an epoch


@pytest.fixture(autouse=True)
def signals_of_slurm() -> Iterator[None]:
    """A run that was stopped ignores them from then on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("block_seconds", BLOCKS)
def test_epochs(block_seconds: float, fit: Fit) -> None:
    fitted = fit("trainer.max_epochs=3", block_seconds=block_seconds)
    assert fitted.run.stopping.reason == "trainer.max_epochs=3 reached"
    assert (fitted.module.position.step, fitted.module.position.samples) == (12, 630)


@pytest.mark.parametrize("block_seconds", BLOCKS)
@pytest.mark.parametrize(("steps", "samples"), [(1, 64), (3, 192), (4, 210), (6, 338)])
def test_steps_to_the_step(steps: int, samples: int, block_seconds: float, fit: Fit) -> None:
    fitted = fit(f"trainer.max_steps={steps}", "trainer.max_epochs=null", block_seconds=block_seconds)
    assert fitted.run.stopping.reason == f"trainer.max_steps={steps} reached"
    assert (fitted.module.position.step, fitted.module.position.samples) == (steps, samples)
    assert [line["step"] for line in fitted.steps] == list(range(1, steps + 1))
    assert fitted.lines[-1]["step"] == steps
    assert "val/loss" in fitted.lines[-1]


@pytest.mark.parametrize("block_seconds", BLOCKS)
@pytest.mark.parametrize(
    ("limit", "steps", "samples"), [(1, 1, 64), (64, 1, 64), (65, 2, 128), (193, 4, 210), (210, 4, 210), (211, 5, 274)]
)
def test_samples_with_the_step_that_reaches_them(
    limit: int, steps: int, samples: int, block_seconds: float, fit: Fit
) -> None:
    fitted = fit(f"trainer.max_samples={limit}", "trainer.max_epochs=null", block_seconds=block_seconds)
    assert fitted.run.stopping.reason == f"trainer.max_samples={limit} reached"
    assert (fitted.module.position.step, fitted.module.position.samples) == (steps, samples)


def test_time(fit: Fit) -> None:
    started = time.monotonic()
    fitted = fit("trainer.max_time=0.3", "trainer.max_epochs=null", "trainer.log_every_steps=100")
    took = time.monotonic() - started
    assert fitted.run.stopping.reason == "trainer.max_time=0:00:00.300000 reached"
    assert 0.3 <= took < 10
    assert fitted.lines[-1]["seconds"] >= 0.3


def test_the_clock_starts_with_training(fit: Fit) -> None:
    fitted = fit("trainer.max_time=0.4", "trainer.max_epochs=2", prepare=lambda fitted: time.sleep(0.5))
    assert fitted.run.stopping.reason == "trainer.max_epochs=2 reached"


@pytest.mark.parametrize("block_seconds", BLOCKS)
def test_a_threshold_on_the_mean_training_loss_of_an_epoch(block_seconds: float, fit: Fit) -> None:
    fitted = fit("trainer.loss_threshold=1.0", "trainer.max_epochs=null", block_seconds=block_seconds)
    steps = fitted.steps
    means = []
    for epoch in range(steps[-1]["epoch"] + 1):
        before, lines = 210 * epoch, [line for line in steps if line["epoch"] == epoch]
        sizes = [after - start for start, after in zip([before, *samples(lines)], samples(lines), strict=False)]
        losses = [line["train/loss"] for line in lines]
        means.append(sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 210)
    assert means[-1] <= 1.0 < min(means[:-1])
    found = re.fullmatch(
        r"trainer\.loss_threshold=1\.0 reached with a mean loss of ([\d.]+)", fitted.run.stopping.reason
    )
    assert found
    assert float(found[1]) == pytest.approx(means[-1], rel=1e-3)


def samples(lines: list[dict[str, Any]]) -> list[int]:
    return [line["samples"] for line in lines]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["max_steps=5", "max_samples=1000", "max_epochs=9"], "trainer.max_steps=5 reached"),
        (["max_steps=50", "max_samples=300", "max_epochs=9"], "trainer.max_samples=300 reached"),
        (["max_steps=50", "max_samples=3000", "max_epochs=2"], "trainer.max_epochs=2 reached"),
        (["max_steps=8", "loss_threshold=1000"], "trainer.loss_threshold=1000.0 reached with a mean loss of 1."),
        (["max_steps=3", "loss_threshold=1000"], "trainer.max_steps=3 reached"),
    ],
)
def test_the_limit_that_comes_first_is_the_reason(words: list[str], reason: str, fit: Fit) -> None:
    assert fit(*(f"trainer.{word}" for word in words)).run.stopping.reason.startswith(reason)


@pytest.mark.parametrize("block_seconds", BLOCKS)
def test_a_checkpoint_every_few_steps_holds_exactly_those(block_seconds: float, fit: Fit) -> None:
    fitted = fit("checkpoint.every_steps=3", "trainer.max_steps=7", block_seconds=block_seconds)
    written = sorted(path.name for path in (fitted.folder / "checkpoints").iterdir())
    assert written == ["step-00000003", "step-00000006", "step-00000007"]


def test_only_training_handles_signals(fit: Fit) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[Any] = []

    def watch(fitted: Any) -> None:
        watcher = lightning.Callback()
        watcher.on_fit_start = lambda *_: seen.append(signal.getsignal(signal.SIGTERM))  # type: ignore[method-assign]
        watcher.on_train_batch_end = lambda *_: seen.append(signal.getsignal(signal.SIGTERM))  # type: ignore[method-assign]
        fitted.run.trainer.callbacks.append(watcher)

    fitted = fit("trainer.max_steps=1", prepare=watch)
    assert seen == [before[1], fitted.run.stopping._on_signal]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_of_slurm_ends_training_after_its_step_however_often_it_comes(number: int, fit: Fit) -> None:
    def send_twice(fitted: Any) -> None:
        sender = lightning.Callback()

        def send(*_: Any) -> None:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

        sender.on_train_batch_end = send  # type: ignore[method-assign]
        sender.on_train_end = lambda *_: os.kill(os.getpid(), number)  # type: ignore[method-assign]
        fitted.run.trainer.callbacks.append(sender)

    stopping = fit("trainer.max_steps=9", prepare=send_twice).run.stopping
    assert stopping.stopped_by_signal
    assert stopping.reason == f"stopped by {signal.Signals(number).name}"


@pytest.mark.parametrize(
    ("milliseconds", "most", "steps"),
    [
        (0, 10, 1),
        (1, 10, 10),
        (200, 10, 10),
        (400, 10, 5),
        (1999, 10, 1),
        (60_000, 10, 1),
        (999_999, 1, 1),
        (1, 50, 50),
    ],
)
def test_ranks_ask_each_other_within_two_seconds_however_long_a_step_takes(
    milliseconds: int, most: int, steps: int
) -> None:
    assert steps_between_checks(milliseconds, most) == steps
