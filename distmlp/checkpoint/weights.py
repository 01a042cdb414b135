"""Weights on disk: `step-00000042/` with safetensors, JSON, and a manifest of SHA-256 sums that is written last.

A folder appears under its name only when it is whole: files are written to a temporary folder, synced, and renamed.
No pickle is written or read.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distmlp.errors import ConfigError
from distmlp.log import log

FORMAT = "distmlp-weights-1"
WEIGHTS, AVERAGE, STATE, MANIFEST = "model.safetensors", "average.safetensors", "state.json", "manifest.json"


def write_weights(
    checkpoints: Path,
    step: int,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    average: dict[str, Tensor] | None = None,
) -> Path:
    """Writes ``checkpoints/step-…`` and returns it. ``state`` is JSON: step, epoch, samples, network facts.

    ``average`` is the moving average of the weights, where the run keeps one.

    Raises:
        OSError: it cannot be written; nothing of it stays.
    """
    target = checkpoints / f"step-{step:08d}"
    temporary, former = checkpoints / f".{target.name}.tmp", checkpoints / f".{target.name}.old"
    for leftover in (temporary, former):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        tensors = {WEIGHTS: weights} if average is None else {WEIGHTS: weights, AVERAGE: average}
        _write_files(temporary, tensors, state)
        if target.exists():
            os.replace(target, former)  # removing it here would leave a torn one where the process is killed meanwhile
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk every byte counts
        raise
    _sync(checkpoints)
    shutil.rmtree(former, ignore_errors=True)
    return target


def _write_files(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    try:
        for file, weights in tensors.items():
            save_file({name: _host_copy(tensor) for name, tensor in weights.items()}, folder / file)
    except SafetensorError as error:  # what it makes of an OSError
        raise OSError(errno.EIO, str(error)) from error
    (folder / STATE).write_text(json.dumps(state, indent=2))
    sums = {name: _sha256(folder / name) for name in (*tensors, STATE)}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": sums}, indent=2))
    for name in (*tensors, STATE, MANIFEST):
        _sync(folder / name)
    _sync(folder)


def read_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and state of ``checkpoint``, after every sum was verified.

    Where the run kept a moving average of the weights, it is returned: it is what validation measured.

    Raises:
        ConfigError: the folder is no checkpoint, or is damaged; the message names the file.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        sums = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{checkpoint} is not a sound checkpoint: its {MANIFEST} is missing or unreadable") from None
    if manifest.get("format") != FORMAT:
        raise ConfigError(f"{checkpoint} has format {manifest.get('format')!r}; this version reads {FORMAT!r}")
    used = AVERAGE if AVERAGE in sums else WEIGHTS
    for name in {*sums, WEIGHTS, STATE}:
        path = checkpoint / name
        if not path.is_file() or _sha256(path) != sums.get(name):
            raise ConfigError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}; use another checkpoint")
    try:
        return load_file(checkpoint / used), json.loads((checkpoint / STATE).read_text())
    except (SafetensorError, ValueError):
        raise ConfigError(f"{checkpoint} is not a sound checkpoint: its contents cannot be read") from None


def checkpoints_of(run_folder: Path) -> list[Path]:
    """The checkpoints in a run folder, newest first.

    Raises:
        ConfigError: there is none.
    """
    found = sorted((run_folder / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise ConfigError(f"{run_folder} holds no checkpoint: training writes one at its end")
    return found[::-1]


def read_newest(run_folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Path, weights and state of the newest sound checkpoint; a damaged one is named in a warning and passed over.

    Raises:
        ConfigError: there is none, or none is sound.
    """
    for checkpoint in checkpoints_of(run_folder):
        try:
            return checkpoint, *read_weights(checkpoint)
        except ConfigError as error:
            log.warning("%s; trying the one before", error)
    raise ConfigError(f"{run_folder} holds no sound checkpoint")


def load_into(network: torch.nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Copies ``weights`` into ``network``.

    Raises:
        ConfigError: a name or shape differs; the first difference is named.
    """
    own = network.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights or name not in own:
            raise ConfigError(f"{source}: {name} is only in the {'network' if name in own else 'checkpoint'}")
        if own[name].shape != weights[name].shape:
            shapes = tuple(weights[name].shape), tuple(own[name].shape)
            raise ConfigError(f"{source}: {name} has shape {shapes[0]}, the network's is {shapes[1]}")
    network.load_state_dict(weights)


def _host_copy(tensor: Tensor) -> Tensor:
    """A copy even on the host: safetensors refuses tensors that share memory, as tied weights do."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
