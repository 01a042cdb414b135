"""DeepSpeed's ZeRO checkpoints, stages 1 to 3: each rank's pickle holds its part of the 32-bit weights.

DeepSpeed's own `zero_to_fp32` puts the parts together; it loads with an unrestricted unpickler, unless torch is told by
its environment variable that no load in this process may be one.
"""

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from distmlp.errors import ConfigError
from distmlp.foreign.safe_load import safe_load, unsafe
from distmlp.foreign.source import PICKLE_WARNING, Source, number, stored
from distmlp.strategy.deepspeed_process import import_deepspeed

PARTS, LATEST = "*_optim_states.pt", "latest"
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def part_folder(folder: Path) -> Path | None:
    """The folder of the ranks' files: ``folder``, or the one that its file `latest` names; None where neither is."""
    if any(folder.glob(PARTS)):
        return folder
    latest = folder / LATEST
    if not latest.is_file():
        return None
    inside = folder / latest.read_text(errors="replace").strip()
    return inside if inside.is_dir() and any(inside.glob(PARTS)) else None


def open_deepspeed(folder: Path, trust_source: bool) -> Source:
    """The weights of a ZeRO checkpoint.

    Args:
        folder: that holds the ranks' files, or `latest`.
        trust_source: loads what only an unrestricted unpickler can, which runs whatever code the files name.

    Raises:
        ConfigError: it cannot be put together, or only with ``trust_source``.
    """
    parts = part_folder(folder)
    assert parts is not None
    try:
        import_deepspeed("cpu")
    except ImportError:
        raise ConfigError(f"{folder} takes DeepSpeed to read, which is not installed: pip install deepspeed") from None
    if any(parts.glob("*mp_rank_01_*")):
        raise ConfigError(f"{folder} was written by a model-parallel run: only data-parallel ones can be imported")
    with _unpickler(trust_source):
        tensors = _merged(parts, trust_source)
        position = _position(parts, trust_source)
    how = "loaded with whatever code they name" if trust_source else "loaded without running any"
    return Source(
        "DeepSpeed ZeRO checkpoint",
        str(folder),
        {name: stored(tensor) for name, tensor in tensors.items()},
        number(position, "global_steps"),
        samples=number(position, "global_samples"),
        warning=f"{folder}: {PICKLE_WARNING}; {how}",
    )


def _merged(parts: Path, trust_source: bool) -> dict[str, Any]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            merged: dict[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
                str(parts.parent), parts.name, lazy_mode=True
            )
    except pickle.UnpicklingError as error:
        assert not trust_source
        raise ConfigError(f"{unsafe(parts, error)}; where you trust who wrote it, give --trust-source") from None
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{parts} is no whole ZeRO checkpoint: {reason}") from None
    return merged


def _position(parts: Path, trust_source: bool) -> dict[str, Any]:
    file = sorted(parts.glob("*mp_rank_00_model_states.pt"))[0]
    values = torch.load(file, map_location="cpu", weights_only=False) if trust_source else safe_load(file)
    return values if isinstance(values, dict) else {}


@contextmanager
def _unpickler(trust_source: bool) -> Iterator[None]:
    """Inside, torch loads tensors, plain values and three plain classes of DeepSpeed's only, unless it is trusted."""
    if trust_source:
        yield
        return
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    former = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if former is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = former
