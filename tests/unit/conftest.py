"""What unit tests of training share: a real run on a small set, assembled as `distmlp train` assembles it."""

import io
import json
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SMALL = """
seed: 0
allow_targets: []
run: {root: runs, name: null, id: null}
model: {name: mlp, hidden: [16]}
data: {name: synthetic, num_samples: 300, input_shape: [8], num_classes: 4, global_batch_size: 64}
optimizer: {name: momentum, lr: 0.05}
scheduler: {name: constant}
strategy: {name: auto}
precision: {name: fp32}
trainer: {accelerator: cpu, max_epochs: 2, log_every_steps: 1}
checkpoint: {every_steps: null}
tracking: {tensorboard: false, wandb: false}
"""


@dataclass
class Fitted:
    """A run after `fit`: 210 training samples in four steps an epoch, the last of them with 18 samples."""

    folder: Path
    config: Any
    data: Any
    module: Any
    run: Any
    console: io.StringIO

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of training steps."""
        return [line for line in self.lines if "train/loss" in line]

    def saved(self, kind: str = "weights") -> dict[str, Any]:
        """What the last checkpoint holds of a kind, whole, by name."""
        from distmlp.checkpoint.reader import CheckpointReader
        from distmlp.checkpoint.storage import LocalStorage

        storage = LocalStorage(self.folder / "checkpoints")
        with CheckpointReader(storage, storage.names()[-1]) as reader:
            return {name: reader.whole(kind, name) for name in reader.names(kind)}

    @property
    def weights(self) -> dict[str, Any]:
        return dict(self.module.network.state_dict())


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """The configuration of a small run, as a run folder holds it."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def fit(frozen: Path, tmp_path: Path) -> Callable[..., Fitted]:
    """Trains the small run, changed by words as on the command line.

    ``block_seconds``: how long one `training_step` takes steps. ``before`` sees the empty run folder, ``prepare`` the
    run before it starts.
    """
    count = 0

    def train(
        *words: str,
        block_seconds: float | None = None,
        before: Callable[[Path], object] = lambda folder: None,
        prepare: Callable[[Fitted], None] = lambda fitted: None,
        terminal: bool = False,
        width: int = 80,
    ) -> Fitted:
        from rich.console import Console

        from distmlp import build
        from distmlp.compose import compose
        from distmlp.runtime import World

        nonlocal count
        count += 1
        folder, world = tmp_path / f"run-{count}", World(0, 1, 0, 1)
        folder.mkdir()
        before(folder)
        composed = compose(list(words), frozen)
        config = composed.config
        data = build.build_data(config)
        module = build.build_module(config, data, build.build_network(config, data), world)
        if block_seconds is not None:
            module.block_seconds = block_seconds
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=terminal, width=width)
        chosen, _ = build.choose_strategy(config, module.network, world, "cpu")
        strategy = build.build_strategy(config, chosen, world, "cpu")
        run = build.build_run(
            config,
            data,
            strategy,
            world,
            strategy_name=chosen.name,
            run_folder=folder,
            attempt="test",
            reader=None,
            values=composed.values,
            console=console,
        )
        fitted = Fitted(folder, config, data, module, run, shown)
        prepare(fitted)
        run.trainer.fit(
            module, build.train_loader(config, data, world), build.evaluation_loader(config, data, world, "validation")
        )
        return fitted

    return train


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """``with largest_file(100):`` no file grows beyond 100 bytes: the kernel refuses, as it does on a full disk."""

    @contextmanager
    def limit(num_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def warnings_logged() -> Iterator[list[str]]:
    """Messages of warnings that distmlp logs, whatever `start_log` of an earlier test did to the logger."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    log, listener = logging.getLogger("distmlp"), Listener(logging.WARNING)
    log.addHandler(listener)
    yield messages
    log.removeHandler(listener)


class FakeSlurm:
    """`squeue` and `scancel` in a folder of PATH: they answer what they are told to, and write down their words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.answers("squeue", "")
        self.answers("scancel", "")

    def answers(self, program: str, text: str, *, error: str = "", status: int = 0, seconds: float = 0) -> None:
        (self.folder / f"{program}.out").write_text(text)
        (self.folder / f"{program}.err").write_text(error)
        place = f"{self.folder}/{program}"
        words = [
            "#!/bin/sh",
            f'echo "$@" >> {place}.calls; env >> {place}.env',
            f"[ -x {place}.then ] && {place}.then",
            f"cat {place}.out; cat {place}.err >&2",
            *([f"exec sleep {seconds}"] if seconds else []),
            f"exit {status}",
        ]
        self._write(program, "\n".join(words))

    def then(self, program: str, command: str) -> None:
        """What a call does besides answering."""
        self._write(f"{program}.then", f"#!/bin/sh\n{command}\n")

    def calls(self, program: str) -> list[str]:
        file = self.folder / f"{program}.calls"
        return file.read_text().splitlines() if file.exists() else []

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A SLURM of which everything is known; its folder comes first in PATH."""
    fake = FakeSlurm(tmp_path / "bin-of-slurm")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without SLURM's programs."""
    monkeypatch.setenv("PATH", str(tmp_path))


def write_run(folder: Path, lines: list[dict[str, Any]] | None = None, state: Any = None, **trainer: Any) -> Path:
    """A run folder as far as it is asked for: configuration, lines of metrics, state."""
    import yaml

    from distmlp.run_state import write_state

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer, "checkpoint": {"metric": "val/loss"}}))
    if lines is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if state is not None:
        write_state(folder, state)
    return folder


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """`write_run`."""
    return write_run
