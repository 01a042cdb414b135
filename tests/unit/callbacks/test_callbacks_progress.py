"""The bar fits into the terminal, and a pipe gets whole lines without escape codes, seldom."""

import io
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
from rich.cells import cell_len
from rich.console import Console

from distmlp.callbacks.progress import ProgressReport

Fit = Callable[..., Any]
LATEST = {"train/loss": 0.08413, "val/accuracy": 0.9834, "train/accuracy": 0.5, "lr": 0.1}


def report(total: int | None = 900, latest: dict[str, float] | None = None) -> ProgressReport:
    return ProgressReport(total, LATEST if latest is None else latest, "accuracy", Console(file=io.StringIO()))


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_the_line_says_all_that_is_known() -> None:
    assert report().describe(230, 9, 14720, 1.2) == (
        "step 230/900  epoch 10  loss 0.0841  accuracy 0.983  12.3k samples/s  0:03 left"
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (report(latest={}), "step 230/900  epoch 10  12.3k samples/s  0:03 left"),
        (report(total=None), "step 230  epoch 10  loss 0.0841  accuracy 0.983  12.3k samples/s"),
        (
            report(latest={"train/loss": float("nan"), "train/accuracy": 0.25}),
            "step 230/900  epoch 10  loss nan  accuracy 0.250  12.3k samples/s  0:03 left",
        ),
    ],
)
def test_what_is_not_known_is_left_out(made: ProgressReport, expected: str) -> None:
    assert made.describe(230, 9, 14720, 1.2) == expected


@pytest.mark.parametrize(
    ("step", "samples", "seconds", "expected"),
    [
        (450, 10, 20.0, "0.5 samples/s  0:20 left"),
        (1, 999, 1.0, "999.0 samples/s  14:59 left"),
        (100, 100_000, 450.0, "222.2 samples/s  1:00:00 left"),
        (1, 10, 100.0, "0.1 samples/s  24:58:20 left"),
        (900, 1000, 1.0, "1.0k samples/s  0:00 left"),
        (0, 0, 0.0, "0.0 samples/s"),
    ],
)
def test_rate_and_time_left(step: int, samples: int, seconds: float, expected: str) -> None:
    assert report().describe(step, 0, samples, seconds).endswith(f"  {expected}")


def test_a_narrow_line_leaves_out_whole_parts_and_keeps_the_step() -> None:
    made = report()
    lines = [made.describe(230, 9, 14720, 1.2, width=width) for width in range(100)]
    assert all(len(line) <= width for width, line in enumerate(lines) if width >= len("step 230/900"))
    assert list(dict.fromkeys(reversed(lines))) == [
        "step 230/900  epoch 10  loss 0.0841  accuracy 0.983  12.3k samples/s  0:03 left",
        "step 230/900  epoch 10  loss 0.0841  accuracy 0.983  0:03 left",
        "step 230/900  loss 0.0841  accuracy 0.983  0:03 left",
        "step 230/900  loss 0.0841  0:03 left",
        "step 230/900  0:03 left",
        "step 230/900",
    ]


def frames(printed: str) -> list[str]:
    """What stood on the bar's line, one text for each redraw."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    return [frame for frame in re.split(r"[\r\n]", plain) if frame.strip()]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_bar_stays_on_one_line_of_the_terminal(width: int) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=width)
    made = ProgressReport(900, dict(LATEST), "accuracy", console)
    made.on_train_start(None, SimpleNamespace(position=SimpleNamespace(step=0, samples=0)))  # type: ignore[arg-type]
    for step in (10, 230, 899):
        made._show(SimpleNamespace(step=step, epoch=9, samples=64 * step))
    made.on_train_end(None, SimpleNamespace(position=SimpleNamespace(step=900, epoch=9, samples=57600)))  # type: ignore[arg-type]
    seen = frames(shown.getvalue())
    assert all(cell_len(frame) <= width for frame in seen)
    assert not any("…" in frame for frame in seen)
    assert shown.getvalue().count("\n") == 1  # the end of the bar
    assert re.search(r"━ step 900/900  .*0:00 left *$", seen[-1])
    assert ("samples/s" in seen[-1]) == (width == 120)


@pytest.mark.parametrize("width", [60, 80])
def test_a_run_in_a_terminal_draws_a_bar_and_gives_the_cursor_back(width: int, fit: Fit) -> None:
    fitted = fit(terminal=True, width=width)
    printed = fitted.console.getvalue()
    assert re.search(r"━ step 8/8  .*loss \d\.\d{4}  ", frames(printed)[-1])
    assert all(cell_len(frame) <= width for frame in frames(printed))
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")
    assert fitted.run.trainer.callbacks[-1].bar is None


def test_a_run_in_a_pipe_prints_one_whole_line_at_the_end(fit: Fit) -> None:
    fitted = fit(width=30)
    (line,) = fitted.console.getvalue().splitlines()
    latest = fitted.run.latest
    expected = rf"step 8/8  epoch 2  loss {latest['train/loss']:.4f}  accuracy {latest['val/accuracy']:.3f}  "
    assert re.fullmatch(re.escape(expected) + r"[\d.]+k? samples/s  0:00 left", line)


def test_a_bar_is_closed_when_training_fails(fit: Fit) -> None:
    seen = []

    def break_validation(fitted: Any) -> None:
        seen.append(fitted)
        fitted.run.trainer.callbacks.append(Fault())

    with pytest.raises(RuntimeError, match="the device was lost"):
        fit(terminal=True, prepare=break_validation)
    printed = seen[0].console.getvalue()
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")


class Fault(lightning.Callback):
    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        raise RuntimeError("the device was lost")


def test_nothing_is_shown_where_it_is_not_wanted(fit: Fit) -> None:
    assert fit("trainer.progress=false", terminal=True).console.getvalue() == ""
