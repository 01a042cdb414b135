"""Asks the rank server (`rank_server.py`) for runs, and reads what they left in their folders."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import LocalStorage

LAST_LINES = 40


@dataclass(frozen=True)
class Outcome:
    """A finished run: what its folder says."""

    folder: Path

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        (path,) = self.folder.glob("*/*/metrics.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def of_steps(self, key: str) -> list[Any]:
        """``key`` of each training step."""
        return [line[key] for line in self.lines if "train/loss" in line]

    @cached_property
    def evaluations(self) -> list[dict[str, float]]:
        """Metrics of each validation, and of the test."""
        kept = [line for line in self.lines if "train/loss" not in line]
        return [{name: value for name, value in line.items() if "/" in name} for line in kept]

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Of the last checkpoint."""
        return {name: tensor.numpy() for name, tensor in self.tensors()["weights"].items()}

    @property
    def checkpoints(self) -> list[Path]:
        """The oldest first."""
        return sorted(self.folder.glob("*/*/checkpoints/step-*"))

    def tensors(self, step: int | None = None) -> dict[str, dict[str, Tensor]]:
        """All tensors of a checkpoint, whole, by kind and name; of the last one, unless a ``step`` is given."""
        found = [path for path in self.checkpoints if step is None or int(path.name.removeprefix("step-")) == step]
        with CheckpointReader(LocalStorage(found[-1].parent), found[-1].name) as reader:
            assert reader.damages() == []
            return {kind: {name: reader.whole(kind, name) for name in reader.names(kind)} for kind in reader.kinds()}

    @cached_property
    def held_bytes(self) -> list[dict[str, int]]:
        """What each rank held after its last step: bytes of weights, gradients and optimizer."""
        paths = sorted(self.folder.glob("held-*.json"))
        return [json.loads(path.read_text()) for path in paths]


class Ranks:
    """A running rank server.

    Args:
        repository: root of the repository.
        scratch: folder for the folders of runs.
    """

    def __init__(self, repository: Path, scratch: Path) -> None:
        self.scratch = scratch
        search = [str(repository), str(repository / "tests" / "distributed")]
        environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
        environment |= {"PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.errors = (scratch / "server.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "parity.rank_server"],
            env=environment,
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,  # a group of its own, to end it with all its ranks
        )
        self._answer()

    def run(
        self, name: str, words: list[str], world_size: int, seconds: float = 100.0, is_again: bool = False
    ) -> Outcome:
        """Trains on ``world_size`` ranks; ``is_again``: in a folder that is there.

        Raises:
            AssertionError: a rank failed or did not end in time; the message holds the end of the ranks' logs.
        """
        folder = self.scratch / name
        folder.mkdir(exist_ok=is_again)
        job = {"folder": str(folder), "words": words, "world_size": world_size, "seconds": seconds}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        statuses = self._answer()
        if any(statuses):
            raise AssertionError(f"{name}: the ranks ended with {statuses}\n{_logs(folder)}")
        return Outcome(folder)

    def stop(self) -> None:
        """Ends the server and what it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.errors.close()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise AssertionError(f"the rank server ended:\n{self.errors.read()}")
        return json.loads(line)


def _logs(folder: Path) -> str:
    # Ranks but the first print into the log of the run's folder, once it is there.
    logs = [(path.stem, path.read_text().splitlines()[-LAST_LINES:]) for path in sorted(folder.rglob("rank-*.log"))]
    return "\n".join("\n".join([f"--- {name}", *lines]) for name, lines in logs)
