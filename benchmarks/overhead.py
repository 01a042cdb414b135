"""What a training step costs beside the arithmetic: four programs, one network, the same batches, interleaved.

    python benchmarks/overhead.py [--rounds 7] [--samples 20000] [--batch 64]

The programs: a hand-tuned torch loop (index batches, no host syncs, fused SGD), distmlp as it ships (metrics.jsonl,
TensorBoard, wandb offline, progress), stock Lightning with a DataLoader, and the document's loop (DataLoader,
`loss.item()` for each step). Every round runs each program once, in turn; what is printed is the median over rounds
of a program's time divided by the hand-tuned loop's time in the same round, with the quartiles: machines differ and
are shared, ratios in one round do not care.
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning
import numpy as np
import torch
import torch.nn.functional as F
import wandb
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from distmlp.build import build_data, build_module, build_network, build_run, build_strategy, train_loader
from distmlp.compose import Composed, compose
from distmlp.data.dataset import DataSet, TensorSplit
from distmlp.data.order import permuted
from distmlp.runtime import World
from distmlp.schema.strategy import SingleStrategy

EPOCHS = 3  # the first is warm-up and is not counted


def network() -> nn.Sequential:
    """The document's 784-128-10 perceptron."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


class SameOrder(Sampler[int]):
    """distmlp's order of samples for a DataLoader, epoch after epoch: every program takes the same batches."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        order = permuted(np.arange(self.num_samples), self.num_samples, 0, self.epoch)
        self.epoch += 1
        return iter(order.tolist())


class Clock:
    """Seconds of the epochs after the first."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        self.marks.append(time.perf_counter())

    def seconds(self) -> float:
        return self.marks[-1] - self.marks[1]


def hand_tuned(inputs: torch.Tensor, targets: torch.Tensor, batch: int) -> float:
    """Index batches, no syncs, fused SGD: as fast as plain torch goes."""
    net, clock = network(), Clock()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, fused=True)
    for epoch in range(EPOCHS):
        clock.mark()
        order = torch.from_numpy(permuted(torch.arange(len(inputs)).numpy(), len(inputs), 0, epoch))
        for index in order.split(batch):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(inputs.index_select(0, index)), targets.index_select(0, index)).backward()
            optimizer.step()
    clock.mark()
    return clock.seconds()


def document_loop(inputs: torch.Tensor, targets: torch.Tensor, batch: int) -> float:
    """The document's loop: DataLoader sample by sample, running loss on the host."""
    net, clock = network(), Clock()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    dataset = TensorDataset(inputs, targets)
    loader: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(dataset, batch, sampler=SameOrder(len(targets)))
    for _ in range(EPOCHS):
        clock.mark()
        running = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images.view(images.size(0), -1)), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
    clock.mark()
    return clock.seconds()


class StockModule(lightning.LightningModule):
    """What Lightning's own introduction writes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class EpochMarks(lightning.Callback):
    """Marks the clock at each epoch's start and at the end of training."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.clock.mark()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.clock.mark()


def stock_lightning(inputs: torch.Tensor, targets: torch.Tensor, batch: int) -> float:
    """Lightning with its defaults: DataLoader, CSV logger, progress bar."""
    marks = EpochMarks()
    dataset: Dataset[tuple[torch.Tensor, ...]] = TensorDataset(inputs, targets)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            callbacks=[marks],
            default_root_dir=folder,
            logger=lightning.pytorch.loggers.CSVLogger(folder),
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(StockModule(), DataLoader(dataset, batch, sampler=SameOrder(len(targets))))
    return marks.clock.seconds()


def shipped_distmlp(composed: Composed, data: DataSet) -> float:
    """distmlp as it ships: every logger, progress on, wandb offline. Validation is left out, as in the others."""
    config, world, marks = composed.config, World(0, 1, 0, 1), EpochMarks()
    module = build_module(config, data, build_network(config, data), world)
    with tempfile.TemporaryDirectory() as folder:
        strategy = build_strategy(config, SingleStrategy(name="single"), world, "cpu")
        run = build_run(
            config,
            data,
            strategy,
            world,
            strategy_name="single",
            run_folder=Path(folder, "overhead"),
            attempt="benchmark",
            reader=None,
            values=composed.values,
            console=Console(file=io.StringIO()),
        )
        run.trainer.callbacks.append(marks)  # type: ignore[attr-defined]
        run.trainer.fit(module, train_loader(config, data, world))
        wandb.finish()
    return marks.clock.seconds()


def shipped_configuration(folder: Path, num_samples: int, batch: int) -> Composed:
    """distmlp's defaults on ``num_samples`` random images of ten classes, with the document's optimizer."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((num_samples + 20, 1, 28, 28), dtype=np.float32)
    np.savez(folder / "images.npz", inputs=images, targets=np.arange(num_samples + 20) % 10)
    few = 10 / (num_samples + 20)
    return compose(
        [
            "data=arrays",
            f"data.inputs={folder / 'images.npz'}",
            f"data.validation_fraction={few}",
            f"data.test_fraction={few}",
            f"data.global_batch_size={batch}",
            "optimizer=sgd",
            f"trainer.max_epochs={EPOCHS}",
            "trainer.accelerator=cpu",
        ]
    )


def measure(rounds: int, num_samples: int, batch: int) -> dict[str, list[float]]:
    """Seconds of each program in each round."""
    with tempfile.TemporaryDirectory() as folder:
        composed = shipped_configuration(Path(folder), num_samples, batch)
        data = build_data(composed.config)
    assert isinstance(data.train, TensorSplit)
    inputs, targets = data.train.inputs.flatten(1), data.train.targets
    programs: dict[str, Callable[[], float]] = {
        "hand-tuned torch": lambda: hand_tuned(inputs, targets, batch),
        "distmlp": lambda: shipped_distmlp(composed, data),
        "the document's loop": lambda: document_loop(inputs, targets, batch),
        "stock Lightning": lambda: stock_lightning(inputs, targets, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
        for name, program in programs.items():
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                seconds[name].append(program())
    return seconds


def show(seconds: dict[str, list[float]], num_samples: int) -> None:
    """Prints each program's time as a multiple of the hand-tuned loop's."""
    table = Table("program", "ratio (median)", "quartiles", "samples/s (median)")
    base = seconds["hand-tuned torch"]
    for name, values in seconds.items():
        ratios = [value / hand for value, hand in zip(values, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        rate = (EPOCHS - 1) * num_samples / statistics.median(values)
        table.add_row(name, f"{middle:.2f}", f"{low:.2f} … {high:.2f}", f"{rate:,.0f}")
    Console().print(table)


def main() -> None:
    """Reads the options, measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    os.environ.setdefault("WANDB_MODE", "offline")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seconds = measure(options.rounds, options.samples, options.batch)
    print(f"torch {torch.__version__}, lightning {lightning.__version__}, {torch.get_num_threads()} threads")
    show(seconds, options.samples)


if __name__ == "__main__":
    main()
