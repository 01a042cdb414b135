"""What the verbs that use a trained network share: finding the run folder that a word means, reading its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmlp.errors import ConfigError
from distmlp.run_folder import checkpoints

if TYPE_CHECKING:
    from torch import nn


def run_folder_of(place: Path) -> Path:
    """The run folder that ``place`` is, or lies in (a checkpoint is ``RUN/checkpoints/step-…``).

    Raises:
        ConfigError: it is neither.
    """
    for folder in (place, place.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"{place} is neither a run folder nor a checkpoint inside one: config.yaml was not found")


def load_checkpoint(
    network: "nn.Module", place: Path, folder: Path, elsewhere: str | None
) -> tuple[str, dict[str, Any]]:
    """Puts the weights of the checkpoint ``place`` into ``network``, or of the newest sound one of the run ``folder``.

    ``elsewhere`` is the run's `checkpoint.dir`.

    Returns:
        where the checkpoint is, and its state.

    Raises:
        ConfigError: there is no sound checkpoint, or it is of another network.
    """
    from distmlp.checkpoint.object_store import open_storage
    from distmlp.checkpoint.weights import load_newest, load_weights

    if place != folder:
        return str(place), load_weights(network, open_storage(place.parent), place.name)
    storage = open_storage(checkpoints(folder, elsewhere))
    name, state = load_newest(network, storage)
    return storage.where(name), state
