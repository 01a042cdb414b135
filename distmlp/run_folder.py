"""The run folder `runs/<name>/<run id>/`: where every file of a run lies, and how whole files are written.

config.yaml         the frozen configuration
environment.json    versions, devices, git commit, fingerprint of the data
metrics.jsonl       one JSON object for each logged step: the truth, dashboards are views of it
status.json         running, finished, stopped or failed; every start (see `run_state.py`)
summary.json        final and best metrics, why training ended
vocabulary.json     text ↔ token ids, of a run on tokens
checkpoints/        step-00000042/ …
logs/               rank-00000.log …
"""

import json
import math
import os
import secrets
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from distmlp import __version__
from distmlp.errors import ConfigError

VOCABULARY = "vocabulary.json"
PACKAGES = ("torch", "lightning", "deepspeed", "hydra-core", "wandb", "numpy", "scikit-learn")


def new_run_id() -> str:
    """Sorts by time; the random end keeps two runs of one second apart."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def place(root: str, name: str, run_id: str) -> Path:
    """Where the folder of a run is, or will be."""
    return Path(root) / name / run_id


def checkpoints(folder: Path, elsewhere: str | None) -> str:
    """Where the checkpoints of a run lie: in its ``folder``, or below another path or address."""
    if elsewhere is None:
        return str(folder / "checkpoints")
    return f"{elsewhere.rstrip('/')}/{folder.parent.name}/{folder.name}/checkpoints"


def log_file(folder: Path, rank: int) -> Path:
    """The log of a rank."""
    return folder / "logs" / f"rank-{rank:05d}.log"


def open_or_create(root: str, name: str, run_id: str) -> Path:
    """Returns the run folder, which is made where there is none.

    Raises:
        ConfigError: the folder cannot be made.
    """
    folder = place(root, name, run_id)
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}: {error.strerror}; choose another run.root") from None
    return folder


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or none of it: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: dict[str, Any]) -> None:
    """`write_text` of ``values`` as indented JSON, where numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def describe_environment(devices: list[str], world_size: int, fingerprint: str) -> dict[str, Any]:
    """Contents of `environment.json`. Holds no environment variables and no command line: those may carry secrets."""
    return {
        "distmlp": __version__,
        "git_commit": git_commit(),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "host": os.uname().nodename,
        "cpu_count": os.cpu_count(),
        "devices": devices,
        "world_size": world_size,
        "versions": package_versions(),
        "data_fingerprint": fingerprint,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages whose change could change a run."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of the folder that the run is started in, where that is a git repository."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
