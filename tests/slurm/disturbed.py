"""A run of `slurm/train.sbatch` that something happens to, held against the same run undisturbed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import REPOSITORY, Cluster, wait_until

from distmlp.run_state import RunState, read_state

NUM_STEPS = 80
WORDS = (
    "trainer.accelerator=cpu",
    f"trainer.max_steps={NUM_STEPS}",
    "trainer.log_every_steps=1",
    "trainer.log_sample_ids=true",
    "tracking=none",
    "run.root=runs",
    "run.name=test",
    "run.id=1",
    "allow_targets=[slow_network]",
)
BATCH = str(REPOSITORY / "slurm" / "train.sbatch")


def network(seconds: float) -> tuple[str, ...]:
    """The words for a network whose step takes so long."""
    return ("model._target_=slow_network.Slow", f"model.seconds={seconds}")


@dataclass
class Disturbed:
    """A job of a run.

    Args:
        cluster: where it runs.
        folder: where it was submitted.
        id: of the job.
    """

    cluster: Cluster
    folder: Path
    id: str

    @classmethod
    def submit(cls, cluster: Cluster, folder: Path, *words: str, options: tuple[str, ...] = ()) -> "Disturbed":
        """A run on two nodes with a rank each."""
        (folder / "slow_network.py").write_text(Path(__file__).with_name("slow_network.py").read_text())
        more = ("--nodes=2", "--ntasks-per-node=1", *options)
        return cls(cluster, folder, cluster.submit(*more, BATCH, *WORDS, *words, folder=folder))

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs" / "test" / "1"

    @property
    def state(self) -> RunState:
        """What the run says of itself."""
        state = read_state(self.run)
        assert state is not None, self.log()
        return state

    def log(self) -> str:
        """What the job has printed."""
        file = self.folder / f"slurm-{self.id}.out"
        return file.read_text() if file.exists() else "the job has printed nothing"

    def lines(self) -> list[dict[str, Any]]:
        """The steps that the run has logged."""
        return steps_of(self.run)

    def wait_for_step(self, step: int) -> None:
        """Returns when the run has taken ``step``."""
        wait_until(lambda: any(line["step"] >= step for line in self.lines()), 120, self.log)

    def wait(self, *states: str, restarts: int = 0, seconds: float = 180) -> dict[str, str]:
        """The job, once it is in one of ``states`` after so many ``restarts``."""
        try:
            return self.cluster.wait(self.id, *states, restarts=restarts, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}\n{self.cluster.logs()}") from None


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The lines of whole steps in the metrics of a run."""
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if "train/loss" in line]


def undisturbed(folder: Path) -> list[dict[str, Any]]:
    """The steps of the same run on two ranks of this machine: nothing happens to it, and it does not take its time."""
    (folder / "slow_network.py").write_text(Path(__file__).with_name("slow_network.py").read_text())
    command = [sys.executable, "-m", "distmlp", "train", "trainer.devices=2", *WORDS, *network(0.0)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=180)
    return steps_of(folder / "runs" / "test" / "1")


def assert_same_run(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same steps, none twice, on the same samples, with the same losses bit for bit."""
    assert [line["step"] for line in found] == list(range(1, NUM_STEPS + 1))
    assert [line["sample_ids"] for line in found] == [line["sample_ids"] for line in expected]
    assert [line["train/loss"] for line in found] == [line["train/loss"] for line in expected]
