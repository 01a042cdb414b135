"""How the end-to-end tests start distmlp: as a user does, in a process of its own, from a folder of the user's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# `make launch` has it: ssh, DeepSpeed's launcher and torchrun take minutes.
collect_ignore = [] if os.environ.get("DISTMLP_LAUNCH") == "all" else ["test_launch_scripts.py"]


@pytest.fixture(scope="session")
def process_environment(repository: Path) -> dict[str, str]:
    """Environment of a started process: finds distmlp, keeps to one thread, prints for 100 columns."""
    own = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")} | own


@pytest.fixture
def distmlp(tmp_path: Path, process_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`distmlp("train", "key=value", …)` in ``tmp_path``; ``ranks`` starts so many with torchrun."""

    def call(*words: str, ranks: int = 0, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks else []
        command = [sys.executable, "-m", *torchrun, "distmlp", *words]
        environment = {key: value for key, value in process_environment.items() if key not in without}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)

    return call


@pytest.fixture
def run_folder() -> Callable[[Path], Path]:
    """The one run folder below a folder."""

    def find(root: Path) -> Path:
        (folder,) = [path.parent for path in root.glob("**/config.yaml")]
        return folder

    return find


@pytest.fixture
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run folder's metrics.jsonl."""
    return lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
