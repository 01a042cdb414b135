"""What tests of checkpoints share: a save by several ranks at once, and a small checkpoint."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import LocalStorage, Storage
from distmlp.checkpoint.writer import StepWriter
from distmlp.shards import Place, Range, Shard

Save = Callable[..., str]


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "checkpoints")


@pytest.fixture
def save() -> Save:
    """Saves what each rank holds as the checkpoint of a step, all ranks at once; returns its name."""

    def save_step(storage: Storage, shards: list[list[Shard]], step: int = 10, attempt: str = "a") -> str:
        def write(rank: int) -> str:
            writer = StepWriter(
                storage, step, attempt=attempt, rank=rank, world_size=len(shards), stop_waiting=threading.Event()
            )
            snapshot = Snapshot(pinned=False)
            snapshot.take(shards[rank])
            writer.write_part(snapshot, {"rank": rank})
            if rank == 0:
                writer.commit({"step": step})
            return writer.name

        with ThreadPoolExecutor(len(shards)) as pool:
            return next(iter(list(pool.map(write, range(len(shards))))))

    return save_step


@pytest.fixture
def small() -> list[list[Shard]]:
    """Two ranks, each with a half of the tensor ``w``, 0 … 11, (3, 4)."""
    values = torch.arange(12.0)
    parts = [Range(0, 5), Range(5, 12)]
    return [[Shard("weights", Place("w", (3, 4), part), values[part.start : part.stop])] for part in parts]


@pytest.fixture
def killed() -> Callable[[str | Path, int, str], list[dict[str, Any]]]:
    """Runs `run_killed.py`; returns what each start of the run found."""

    def run(place: str | Path, kills: int, mode: str) -> list[dict[str, Any]]:
        script = Path(__file__).with_name("run_killed.py")
        command = [sys.executable, str(script), str(place), str(kills), mode]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
