"""Progress for people: a bar in a terminal; plain lines, seldom, in a pipe or a log. Fed by time, never by step."""

import time
from typing import Any

import lightning
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

BAR_SECONDS = 0.25
LINE_SECONDS = 10.0
BAR_WIDTH = 12
LEAST_NEEDED_FIRST = ("rate", "epoch", "score", "loss", "left")


class _TextFromFields(ProgressColumn):
    """Shows the task's ``shown`` field."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("shown", "")), no_wrap=True, overflow="ellipsis")


class ProgressReport(lightning.Callback):
    """Shows step, loss, accuracy, samples a second and time left.

    Args:
        total_steps: optimizer steps until the end, where known.
        latest: newest metrics on the host, kept by whoever writes them.
        score: the metric shown beside the loss, e.g. ``accuracy``.
        console: where to; a terminal gets a bar.
    """

    def __init__(self, total_steps: int | None, latest: dict[str, float], score: str, console: Console) -> None:
        self.total_steps = total_steps
        self.latest = latest
        self.score = score
        self.console = console
        self.interval = BAR_SECONDS if console.is_terminal else LINE_SECONDS
        self.bar: Progress | None = None
        self.first_step = self.first_samples = 0  # where a resumed run went on
        self.shown = self.started = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.shown = self.started = time.monotonic()
        self.first_step, self.first_samples = pl_module.position.step, pl_module.position.samples
        if self.console.is_terminal:
            self.bar = Progress(
                BarColumn(bar_width=BAR_WIDTH),
                _TextFromFields(),
                console=self.console,
                auto_refresh=False,
            )
            self.bar.start()
            self.bar.add_task("training", total=self.total_steps)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        now = time.monotonic()
        if now - self.shown >= self.interval:
            self.shown = now
            self._show(pl_module.position)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._show(pl_module.position)
        self._close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _show(self, position: Any) -> None:
        place = position.step, position.epoch, position.samples, time.monotonic() - self.started
        if self.bar is None:
            self.console.print(self.describe(*place), highlight=False, soft_wrap=True)
        else:
            text = self.describe(*place, width=self.console.width - BAR_WIDTH - 1)
            self.bar.update(self.bar.task_ids[0], completed=position.step, shown=text, refresh=True)

    def describe(self, step: int, epoch: int, samples: int, seconds: float, width: int | None = None) -> str:
        """One line: ``step 230/900  epoch 10  loss 0.0841  accuracy 0.983  12.3k samples/s  0:03 left``.

        Where ``width`` columns do not hold it all, whole parts are left out, the least needed first.
        """
        parts = {
            "step": f"step {step}" + (f"/{self.total_steps}" if self.total_steps else ""),
            "epoch": f"epoch {epoch + 1}",
        }
        if "train/loss" in self.latest:
            parts["loss"] = f"loss {self.latest['train/loss']:.4f}"
        score = self.latest.get(f"val/{self.score}", self.latest.get(f"train/{self.score}"))
        if score is not None:
            parts["score"] = f"{self.score} {score:.3f}"
        rate = (samples - self.first_samples) / max(seconds, 1e-9)
        parts["rate"] = f"{rate / 1000:.1f}k samples/s" if rate >= 1000 else f"{rate:.1f} samples/s"
        if self.total_steps and step > self.first_step:
            parts["left"] = f"{_clock(seconds / (step - self.first_step) * (self.total_steps - step))} left"
        for name in LEAST_NEEDED_FIRST:
            if width is None or len("  ".join(parts.values())) <= width:
                break
            parts.pop(name, None)
        return "  ".join(parts.values())


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
