"""Folders of `torch.distributed.checkpoint`, which FSDP and Lightning write: their `.metadata` is a pickle."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from distmlp.errors import ConfigError
from distmlp.foreign.source import PICKLE_WARNING, Source, Stored

METADATA = ".metadata"


def open_dcp(folder: Path, trust_source: bool) -> Source:
    """The tensors in a folder of torch's distributed checkpoints.

    Args:
        folder: that holds `.metadata`.
        trust_source: it is loaded only so, since what it consists of is known to a pickle alone.

    Raises:
        ConfigError: it is not trusted, or cannot be read.
    """
    if not trust_source:
        raise ConfigError(
            f"{folder}: its {METADATA} is a pickle, which can run code when it is loaded: where you trust who wrote "
            "it, give --trust-source"
        )
    try:
        metadata: Metadata = FileSystemReader(folder).read_metadata()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder / METADATA} cannot be read: {' '.join(str(error).split())}") from None
    tensors = {
        name: _stored(folder, name, entry)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    warning = f"{folder}: {PICKLE_WARNING}; loaded with whatever code they name"
    return Source("torch distributed checkpoint", str(folder), tensors, warning=warning)


def _stored(folder: Path, name: str, entry: TensorStorageMetadata) -> Stored:
    shape, dtype = tuple(entry.size), entry.properties.dtype

    def read() -> Tensor:
        values = {name: torch.empty(shape, dtype=dtype)}
        try:
            with warnings.catch_warnings(action="ignore"):  # that it is one process, as it should be
                load(values, storage_reader=FileSystemReader(folder), no_dist=True)
        except (CheckpointException, OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{folder}: {name} cannot be read: {' '.join(str(error).split())}") from None
        return values[name]

    return Stored(shape, dtype, read)
