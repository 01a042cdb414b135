"""The weights of a checkpoint, for who only wants to use the trained network."""

from typing import Any

import torch
from torch import nn

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.fitting import check_shapes, named_tensors
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.select import checkpoint_names
from distmlp.checkpoint.storage import Storage
from distmlp.errors import ConfigError
from distmlp.log import log


@torch.no_grad()
def load_newest(network: nn.Module, storage: Storage) -> tuple[str, dict[str, Any]]:
    """`load_weights` of the newest sound checkpoint in ``storage``; a damaged one is named and passed over.

    Raises:
        ConfigError: there is none, or none is sound.
    """
    for name in checkpoint_names(storage):
        try:
            return name, load_weights(network, storage, name)
        except DamagedError as error:
            log.warning("%s; trying the one before", error)
    raise ConfigError(f"{storage.where()} holds no sound checkpoint")


@torch.no_grad()
def load_weights(network: nn.Module, storage: Storage, name: str) -> dict[str, Any]:
    """Puts a checkpoint's weights into ``network``, after every sum was verified; returns its state.

    Where the run kept a moving average of the weights, that is taken: it is what validation measured.

    Raises:
        DamagedError: it is not what was written.
        ConfigError: a name or shape differs; the first difference is named.
    """
    with CheckpointReader(storage, name) as reader:
        for damage in reader.damages():
            raise DamagedError(f"{damage}; use another checkpoint")
        check_shapes(reader, network)
        averaged = set(reader.names("average"))
        for key, tensor in named_tensors(network).items():
            tensor.copy_(reader.whole("average" if key in averaged else "weights", key))
        return reader.state
