"""Loads a torch file so that nothing in it can run: it may hold tensors and plain values, and nothing else."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from distmlp.errors import ConfigError

_GLOBAL = re.compile(r"GLOBAL (\S+)")


class UnsafeError(ConfigError):
    """The file names things that only an unrestricted unpickler, which can run any code, would load."""


def safe_load(path: Path) -> Any:
    """What ``path`` holds, on the host, mapped from the disk where its format allows it.

    Raises:
        UnsafeError: it holds more than tensors and plain values.
        ConfigError: it is no file of torch, or is damaged.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of what it may fail at; if it does, that is said
            return torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise unsafe(path, error) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, UnicodeDecodeError):
        raise ConfigError(f"{path} is no file of torch that can be read, or is damaged") from None


def unsafe(path: Path, error: Exception) -> UnsafeError:
    """The error for ``path``, with the name that stopped the restricted unpickler."""
    found = _GLOBAL.search(str(error))
    what = f"it names {found[1]}" if found else "it is no plain pickle"
    return UnsafeError(f"{path} holds more than tensors and plain values: {what}")
