"""How long training waits for a checkpoint, and how long writing it takes: distmlp, Lightning and torch, side by side.

    python benchmarks/checkpoint.py [--rounds 9] [--megabytes 1000] [--folder DIR]

One network with its AdamW states is saved by each program in turn, in one process, to one disk; every round begins
with another program. ``waits`` is how long the call keeps training, ``total`` is until the checkpoint is there. The
base of both is a plain copy of as many bytes to the same disk, synced, in the same round. Printed are medians,
after one that is not counted, with quartiles: machines differ and are shared, ratios in one round do not care.

distmlp and torch.distributed.checkpoint sync what they write to the disk, Lightning does not; distmlp hashes it, too.
"""

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from distmlp.checkpoint.saver import Saver
from distmlp.checkpoint.storage import LocalStorage
from distmlp.process_group import form_process_group, leave_process_group
from distmlp.runtime import World
from distmlp.shards import Place, Range, Shard

WIDTH = 1024
STATES = 3  # weights and two of AdamW
CHUNK_BYTES = 16 * 2**20
Times = tuple[float, float]  # seconds that training waits, and in all
Program = Callable[[Path], Times]


class Layers(lightning.LightningModule):
    """So many bytes of weights and optimizer states, and a step that costs next to nothing."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        number = max(1, num_bytes // (STATES * 4 * WIDTH * WIDTH))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(number))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return torch.stack([layer.weight.sum() for layer in self.layers]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def timed(action: Callable[[], Any]) -> float:
    """Seconds that ``action`` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def plain_copy(data: memoryview) -> Program:
    """What is to be written, from memory to one file, synced."""

    def run(folder: Path) -> Times:
        def copy() -> None:
            with (folder / "copy").open("wb", buffering=0) as file:
                for start in range(0, len(data), CHUNK_BYTES):
                    file.write(data[start : start + CHUNK_BYTES])
                os.fsync(file.fileno())

        seconds = timed(copy)
        return seconds, seconds

    return run


def with_distmlp(network: nn.Module, optimizer: torch.optim.Optimizer, asynchronous: bool) -> Program:
    """What our callback does at a step; the buffer is kept between saves, as in training."""
    step = 0
    storage: Any = LocalStorage(Path())
    saver = Saver(
        storage,
        rank=0,
        world_size=1,
        attempt="benchmark",
        asynchronous=asynchronous,
        pinned=False,
        on_saved=lambda step, state: None,
    )

    def shards() -> list[Shard]:
        found = []
        for name, weight in network.named_parameters():
            place = Place(name, tuple(weight.shape), Range(0, weight.numel()))
            tensors = {"weights": weight.detach()}
            tensors |= {f"optimizer/{key}": v for key, v in optimizer.state[weight].items() if v.ndim}
            found += [Shard(kind, place, tensor) for kind, tensor in tensors.items()]
        return found

    def run(folder: Path) -> Times:
        nonlocal step
        step += 1
        saver.storage = LocalStorage(folder / "checkpoints")
        started = time.perf_counter()
        waited = timed(lambda: saver.save(step, shards(), {}, {"step": step}))
        saver.wait()
        assert not saver.failures
        return waited, time.perf_counter() - started

    return run


def with_lightning(trainer: lightning.Trainer) -> Program:
    """What ModelCheckpoint does at a step."""

    def run(folder: Path) -> Times:
        keeper = ModelCheckpoint(dirpath=folder, save_top_k=-1)
        seconds = timed(lambda: keeper._save_checkpoint(trainer, str(folder / "lightning.ckpt")))
        return seconds, seconds

    return run


def with_lightning_async(trainer: lightning.Trainer) -> Program:
    """The same with Lightning's plugin that writes in a thread."""

    def run(folder: Path) -> Times:
        writer = AsyncCheckpointIO(TorchCheckpointIO())
        started = time.perf_counter()
        state = trainer._checkpoint_connector.dump_checkpoint(False)
        writer.save_checkpoint(state, str(folder / "lightning.ckpt"))
        waited = time.perf_counter() - started
        writer.teardown()
        return waited, time.perf_counter() - started

    return run


def with_dcp(network: nn.Module, optimizer: torch.optim.Optimizer) -> Program:
    """torch.distributed.checkpoint, synchronous."""

    def run(folder: Path) -> Times:
        def save() -> None:
            weights, states = get_state_dict(network, optimizer)
            dcp.save({"model": weights, "optimizer": states}, checkpoint_id=folder / "dcp")

        seconds = timed(save)
        return seconds, seconds

    return run


def with_dcp_async(network: nn.Module, optimizer: torch.optim.Optimizer) -> Program:
    """Its asynchronous form as it comes. It keeps the memory that it stages into only where there is a GPU."""

    def run(folder: Path) -> Times:
        started = time.perf_counter()
        weights, states = get_state_dict(network, optimizer)
        state = {"model": weights, "optimizer": states}
        future: Any = dcp.async_save(state, checkpoint_id=folder / "dcp")
        waited = time.perf_counter() - started
        future.result()
        return waited, time.perf_counter() - started

    return run


class Rounds(lightning.Callback):
    """After a training step, when there are optimizer states: all rounds, one after the other."""

    def __init__(self, rounds: int, folder: Path, console: Console) -> None:
        self.rounds = rounds
        self.folder = folder
        self.console = console
        self.times: dict[str, list[Times]] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        network, optimizer = pl_module, trainer.optimizers[0]
        num_bytes = STATES * sum(weight.nbytes for weight in network.parameters())
        programs = {
            "plain copy": plain_copy(torch.randint(256, (num_bytes,), dtype=torch.uint8).numpy().data),
            "distmlp": with_distmlp(network, optimizer, True),
            "distmlp, synchronous": with_distmlp(network, optimizer, False),
            "Lightning": with_lightning(trainer),
            "Lightning, AsyncCheckpointIO": with_lightning_async(trainer),
            "torch DCP": with_dcp(network, optimizer),
            "torch DCP, async_save": with_dcp_async(network, optimizer),
        }
        self.times = {name: [] for name in programs}
        names = list(programs)
        with Progress(console=self.console, transient=True) as bar:
            task = bar.add_task("saving", total=(self.rounds + 1) * len(names))
            for number in range(self.rounds + 1):
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    measured = self._measure(programs[name])
                    if number:
                        self.times[name].append(measured)
                    bar.advance(task)

    def _measure(self, program: Program) -> Times:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            os.sync()  # nothing of the one before is still on its way
            measured = program(Path(folder))
            shutil.rmtree(folder, ignore_errors=True)
            Path(folder).mkdir()
        return measured


def show(console: Console, times: dict[str, list[Times]]) -> None:
    """Prints the table."""
    base = [total for _, total in times["plain copy"]]
    table = Table(title="seconds, and ratios to the plain copy of the same round")
    for heading in ("program", "waits", "total", "waits / copy", "total / copy", "quartiles"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, measured in times.items():
        waits = [wait / copy for (wait, _), copy in zip(measured, base, strict=True)]
        totals = [total / copy for (_, total), copy in zip(measured, base, strict=True)]
        low, _, high = statistics.quantiles(totals, n=4) if len(totals) > 1 else (totals[0],) * 3
        table.add_row(
            name,
            f"{statistics.median(wait for wait, _ in measured):.2f}",
            f"{statistics.median(total for _, total in measured):.2f}",
            f"{statistics.median(waits):.2f}",
            f"{statistics.median(totals):.2f}",
            f"{low:.2f} … {high:.2f}",
        )
    console.print(f"torch {torch.__version__}, lightning {lightning.__version__}, {torch.get_num_threads()} threads")
    console.print(table)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; default: the temporary folder")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    console = Console()
    form_process_group(World(0, 1, 0, 1), "gloo")  # DCP's asynchronous form wants one
    rounds = Rounds(arguments.rounds, arguments.folder or Path(tempfile.gettempdir()), console)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rounds],
    )
    trainer.fit(Layers(arguments.megabytes * 10**6), torch.zeros(1, 1))
    leave_process_group()
    show(console, rounds.times)


if __name__ == "__main__":
    main()
