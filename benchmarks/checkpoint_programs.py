"""The programs that `checkpoint.py` compares: each saves the same network and its AdamW states to an empty folder."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.utils.data import DataLoader, TensorDataset

from distmlp.checkpoint.saver import Saver
from distmlp.checkpoint.storage import LocalStorage
from distmlp.strategy.precision import PRECISIONS
from distmlp.strategy.single import Single

COPY = "plain copy"
CHUNK_BYTES = 16 * 2**20
STATES = 3  # the weights and the two moments of AdamW


@dataclass
class Times:
    """Of one save, in seconds. ``synced`` is the total with what was written on the disk for certain."""

    stall: float
    total: float
    synced: float
    steps_kept: float | None = None


class Beside:
    """What the training thread does while a save is written: it waits, or it trains."""

    def wait(self, done: threading.Event) -> None:
        done.wait()

    def prepare(self) -> None:
        """Called before a save."""

    def steps_kept(self) -> float | None:
        return None


class Training(Beside):
    """Steps of a small network, counted before a save and beside it."""

    SECONDS_BEFORE = 1.0

    def __init__(self) -> None:
        self.net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01)
        self.inputs = torch.randn(128, 512)
        self.before, self.kept = 0.0, None

    def prepare(self) -> None:
        end = time.perf_counter() + self.SECONDS_BEFORE
        self.before, self.kept = self._rate(lambda: time.perf_counter() >= end), None

    def wait(self, done: threading.Event) -> None:
        if not done.is_set():
            self.kept = self._rate(done.is_set) / self.before

    def steps_kept(self) -> float | None:
        return self.kept

    def _rate(self, is_over: Callable[[], bool]) -> float:
        started, steps = time.perf_counter(), 0
        while not is_over():
            self.optimizer.zero_grad(set_to_none=True)
            self.net(self.inputs).square().mean().backward()
            self.optimizer.step()
            steps += 1
        return steps / (time.perf_counter() - started)


class Module(lightning.LightningModule):
    """A network of about ``megabytes`` with its AdamW states, and what Lightning needs to train it."""

    def __init__(self, megabytes: float) -> None:
        super().__init__()
        width = 1024 if megabytes >= 100 else 64
        layer_bytes = STATES * 4 * (width * width + width)
        self.net = nn.Sequential(
            *(nn.Linear(width, width) for _ in range(max(1, round(megabytes * 1e6 / layer_bytes))))
        )
        self.width = width
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-6)
        self.net(torch.randn(2, width)).square().mean().backward()
        self.optimizer.step()

    @property
    def num_bytes(self) -> int:
        """Of weights and states."""
        return STATES * sum(parameter.nbytes for parameter in self.net.parameters())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer


Program = Callable[[Path, Beside], Times]


class Distmlp:
    """A `Saver` as a run has it: one for all saves, its buffer is used again."""

    def __init__(self, module: Module, asynchronous: bool) -> None:
        self.strategy = Single(device=torch.device("cpu"), precision=PRECISIONS["fp32"])
        self.strategy.network, self.strategy.optimizers = module.net, [module.optimizer]
        self.step, self.done, self.finished = 0, threading.Event(), 0.0
        self.saver = Saver(
            LocalStorage(Path()),
            rank=0,
            world_size=1,
            attempt="bench",
            asynchronous=asynchronous,
            pinned=False,
            on_saved=self._saved,
        )
        self.saver.prepare(self.strategy.shards())

    def __call__(self, folder: Path, beside: Beside) -> Times:
        self.saver.storage = LocalStorage(folder)
        self.done.clear()
        self.step += 1
        started = time.perf_counter()
        self.saver.save(self.step, self.strategy.shards(), {}, {"step": self.step})
        stall = time.perf_counter() - started
        beside.wait(self.done)
        self.saver.wait()
        assert not self.saver.failures
        total = self.finished - started
        return Times(stall, total, total)

    def _saved(self, step: int, state: dict[str, Any]) -> None:
        self.finished = time.perf_counter()
        self.done.set()


class TimedIO(TorchCheckpointIO):
    """Lightning's own, and when it was done."""

    def __init__(self) -> None:
        self.done, self.finished, self.path = threading.Event(), 0.0, ""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self.finished, self.path = time.perf_counter(), str(path)
        self.done.set()


class TimedCheckpoint(ModelCheckpoint):
    """Lightning's own after every step; notes what the step waits for it."""

    def __init__(self, folder: Path, file_io: TimedIO, beside: Beside) -> None:
        super().__init__(folder, every_n_train_steps=1)
        self.file_io, self.beside = file_io, beside
        self.started = self.stall = 0.0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.started = time.perf_counter()
        super().on_train_batch_end(*arguments)
        self.stall = time.perf_counter() - self.started
        self.beside.wait(self.file_io.done)


def save_lightning(module: Module, asynchronous: bool, folder: Path, beside: Beside) -> Times:
    """A Trainer trains for a step, and its ModelCheckpoint saves."""
    file_io = TimedIO()
    checkpoint = TimedCheckpoint(folder, file_io, beside)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        callbacks=[checkpoint],
        plugins=[AsyncCheckpointIO(file_io) if asynchronous else file_io],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(2, module.width)), batch_size=2))
    total = file_io.finished - checkpoint.started
    started = time.perf_counter()
    with open(file_io.path, "rb") as file:
        os.fsync(file.fileno())
    return Times(checkpoint.stall, total, total + time.perf_counter() - started)


class Dcp:
    """torch.distributed.checkpoint with its defaults, of the state dict that it makes itself.

    Args:
        asynchronous: `async_save` in a thread, not `save`.
        stager: kept from save to save, with its buffers; None: `async_save` makes one for each save.
    """

    def __init__(self, module: Module, *, asynchronous: bool, stager: DefaultStager | None = None) -> None:
        self.module, self.asynchronous, self.stager = module, asynchronous, stager

    def __call__(self, folder: Path, beside: Beside) -> Times:
        started = time.perf_counter()
        model, optimizer = get_state_dict(self.module.net, self.module.optimizer)
        state = {"model": model, "optimizer": optimizer}
        if not self.asynchronous:
            dcp.save(state, checkpoint_id=folder)
            total = time.perf_counter() - started
            return Times(total, total, total)
        done, finished = threading.Event(), []
        future = dcp.async_save(state, checkpoint_id=folder, async_stager=self.stager)
        stall = time.perf_counter() - started
        assert isinstance(future, Future)

        def note(_: Future[Any]) -> None:
            finished.append(time.perf_counter())
            done.set()

        future.add_done_callback(note)
        beside.wait(done)
        future.result()
        total = finished[0] - started
        return Times(stall, total, total)


class PlainCopy:
    """As many bytes from memory to a file, and a sync of it.

    Args:
        drops: tells the system on the way that the file need not stay in memory, as distmlp does.
    """

    def __init__(self, data: memoryview, *, drops: bool) -> None:
        self.data, self.drops = data, drops

    def __call__(self, folder: Path, beside: Beside) -> Times:
        started = time.perf_counter()
        with (folder / "copy").open("wb", buffering=0) as file:
            for start in range(0, len(self.data), CHUNK_BYTES):
                chunk = self.data[start : start + CHUNK_BYTES]
                while chunk:
                    chunk = chunk[file.write(chunk) :]
                if self.drops:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            written = time.perf_counter() - started
            os.fsync(file.fileno())
        total = time.perf_counter() - started
        return Times(total, written, total)


def programs(module: Module) -> dict[str, Program]:
    """All that are compared."""
    stager = DefaultStager(StagingOptions(False, False, False, False))  # pinned memory and the like need an accelerator
    data = memoryview(torch.ones(module.num_bytes, dtype=torch.uint8).numpy())
    uncached = {"copy, uncached": PlainCopy(data, drops=True)} if hasattr(os, "posix_fadvise") else {}
    return {
        COPY: PlainCopy(data, drops=False),
        **uncached,
        "distmlp": Distmlp(module, asynchronous=True),
        "distmlp sync": Distmlp(module, asynchronous=False),
        "Lightning": lambda folder, beside: save_lightning(module, False, folder, beside),
        "Lightning async": lambda folder, beside: save_lightning(module, True, folder, beside),
        "DCP": Dcp(module, asynchronous=False),
        "DCP async": Dcp(module, asynchronous=True),
        "DCP async, cached": Dcp(module, asynchronous=True, stager=stager),
    }
