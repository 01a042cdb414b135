"""Whether a checkpoint can be continued by the run that asks for it; what differs is said, both sides of it."""

from importlib import metadata
from typing import Any

from torch import nn

from distmlp.checkpoint.reader import CheckpointReader
from distmlp.errors import ConfigError
from distmlp.log import log

MEANINGS = {
    "data": "the data's fingerprint",
    "optimizer": "optimizer",
    "seed": "seed",
    "batch": "data.global_batch_size",
}
CONSEQUENCES = {
    "data": "the samples that are left would be others",
    "optimizer": "its states start anew with resume.allow=[optimizer]",
    "seed": "the order of samples would be another, and some would be lost or repeated in this epoch",
    "batch": "the learning curve would be another",
}


def check_fits(reader: CheckpointReader, facts: dict[str, Any], network: nn.Module, allowed: set[str]) -> None:
    """Ends with a `ConfigError` that names the first difference which ``allowed`` does not hold.

    Args:
        reader: of the checkpoint.
        facts: what the run has for the keys of `MEANINGS`.
        network: of the run; its names and shapes must be the checkpoint's.
        allowed: keys of `MEANINGS`.
    """
    check_shapes(reader, network)
    state = reader.state
    there = saved_facts(state)
    for key, here in facts.items():
        if there[key] != here and key not in allowed:
            raise ConfigError(
                f"{reader.where} cannot be continued: {MEANINGS[key]} is {there[key]} in it and {here} here: "
                f"{CONSEQUENCES[key]}; set it back, or accept it with resume.allow=[{key}]"
            )
    _mention_versions(state["versions"])


def saved_facts(state: dict[str, Any]) -> dict[str, Any]:
    """What `state.json` has for the keys of `MEANINGS`."""
    configuration = state["configuration"]
    return {
        "data": state["data_fingerprint"],
        "optimizer": configuration["optimizer"]["name"],
        "seed": configuration["seed"],
        "batch": configuration["data"]["global_batch_size"],
    }


def check_shapes(reader: CheckpointReader, network: nn.Module) -> None:
    """Ends with a `ConfigError` that names the first parameter or buffer which differs in name or shape."""
    own = {name: tuple(tensor.shape) for name, tensor in named_tensors(network).items()}
    saved = {name: reader.manifest.tensors[f"weights/{name}"].shape for name in reader.names("weights")}
    for name in sorted(own.keys() | saved.keys()):
        if name not in saved or name not in own:
            raise ConfigError(f"{reader.where}: {name} is only in the {'network' if name in own else 'checkpoint'}")
        if own[name] != saved[name]:
            raise ConfigError(f"{reader.where}: {name} has shape {saved[name]}, the network's is {own[name]}")


def named_tensors(network: nn.Module) -> dict[str, Any]:
    """What a checkpoint holds of a network: parameters, each once, and the buffers that are kept."""
    kept = network.state_dict()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in kept}
    return dict(network.named_parameters()) | buffers


def _mention_versions(versions: dict[str, str]) -> None:
    for package, there in versions.items():
        try:
            here = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if here != there:
            log.info("the checkpoint was written with %s %s, this is %s", package, there, here)
