"""What the verbs that use a trained network share: finding the run folder that a word means, reading its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmlp.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def run_folder_of(place: Path) -> Path:
    """The run folder that ``place`` is, or lies in (a checkpoint is ``RUN/checkpoints/step-…``).

    Raises:
        ConfigError: it is neither.
    """
    for folder in (place, place.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"{place} is neither a run folder nor a checkpoint inside one: config.yaml was not found")


def read_checkpoint(place: Path, folder: Path) -> tuple[Path, dict[str, "Tensor"], dict[str, Any]]:
    """Path, weights and state of the checkpoint ``place``, or of the newest sound one where it is the run ``folder``.

    Raises:
        ConfigError: there is no sound checkpoint.
    """
    from distmlp.checkpoint.weights import read_newest, read_weights

    return read_newest(folder) if folder == place else (place, *read_weights(place))
