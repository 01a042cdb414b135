"""The network of a configuration: one of ours by its name, or the user's by its dotted name."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import nn

from distmlp.config import Config, check_target, targets_of
from distmlp.data.dataset import DataSet
from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError
from distmlp.model import network_class
from distmlp.model.blocks import prepare_blocks
from distmlp.schema.model import CustomModel

OPTIONS = {"activation_checkpointing", "compile"}  # what `prepare_blocks` does, to any network


def build_network(config: Config, data: DataSet) -> nn.Module:
    """The network for ``data``, its weights drawn from ``config.seed``."""
    lightning.seed_everything(config.seed, verbose=False)
    network = _network(config, _facts(data.input_shape, data.num_outputs, data.vocabulary))
    prepare_blocks(network, **config.model.model_dump(include=OPTIONS))
    return network


def build_token_network(config: Config, *, sequence_length: int, vocabulary: Vocabulary) -> nn.Module:
    """The network for sequences of tokens where there is nothing to train on: for generation, eager."""
    return _network(config, _facts((sequence_length,), vocabulary.size, vocabulary))


def meta_network(config: Config, data: DataSet) -> nn.Module:
    """The network without memory for its weights, on the meta device: for counting."""
    with torch.device("meta"):
        network = _network(config, _facts(data.input_shape, data.num_outputs, data.vocabulary))
    prepare_blocks(network, activation_checkpointing=config.model.activation_checkpointing, compile=False)
    return network


def _facts(input_shape: tuple[int, ...], num_outputs: int, vocabulary: Vocabulary | None) -> dict[str, Any]:
    """What a network may ask to know of the data."""
    return {
        "input_shape": input_shape,
        "num_outputs": num_outputs,
        "num_tokens": vocabulary and vocabulary.size,
        "pad_id": vocabulary and vocabulary.pad_id,
        "separator_id": vocabulary and vocabulary.separator_id,
    }


def _network(config: Config, facts: dict[str, Any]) -> nn.Module:
    if isinstance(config.model, CustomModel):
        return _custom_network(config, facts)
    make = network_class(config.model.name)
    return make(**_accepted(make, facts), **config.model.model_dump(exclude={"name", *OPTIONS}))


def _accepted(make: Callable[..., Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Those of ``facts`` that ``make`` has a parameter for."""
    parameters = inspect.signature(make).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in facts.items() if takes_any or name in parameters}


def _custom_network(config: Config, facts: dict[str, Any]) -> nn.Module:
    from hydra.errors import InstantiationException
    from hydra.utils import get_class, instantiate

    values = config.model.model_dump(by_alias=True, exclude={"name", *OPTIONS})
    for target in targets_of(values):
        check_target(target, config.allow_targets)
    name = values["_target_"]
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's package lies where the command runs
    try:
        network = instantiate(values, **_accepted(get_class(name), facts))
    except (InstantiationException, ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"model._target_={name} cannot be built: {' '.join(str(error).split())}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model._target_={name} made a {type(network).__name__}, not a torch.nn.Module")
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in network.parameters()):
        raise ConfigError(f"model._target_={name} holds lazy layers: give their sizes, e.g. from input_shape")
    return network
