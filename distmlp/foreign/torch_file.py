"""Single files: checkpoints of Lightning, any `torch.save` of a state_dict, safetensors. None of them can run code."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from distmlp.checkpoint.tensor_file import TensorFile
from distmlp.errors import ConfigError
from distmlp.foreign.safe_load import UnsafeError, safe_load
from distmlp.foreign.source import Source, Stored, number, stored

# Where programs put the weights beside other things.
SECTIONS = ("state_dict", "model_state_dict", "model", "module")


def open_torch_file(path: Path) -> Source:
    """The weights in a `.ckpt`, `.pt`, `.pth` or `.bin` file.

    Raises:
        ConfigError: it holds no weights, or more than tensors and plain values, which is never loaded.
    """
    try:
        values = safe_load(path)
    except UnsafeError as error:
        raise ConfigError(
            f"{error}; such a file is not loaded: where you trust it, write its weights to another one with "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], OTHER)"
        ) from None
    tensors = _weights(values)
    if not tensors:
        raise ConfigError(f"{path} holds no weights: looked for tensors by name, at the top and in {_sections()}")
    is_lightning = "pytorch-lightning_version" in values
    kind = "Lightning checkpoint" if is_lightning else "torch file"
    return Source(kind, str(path), tensors, number(values, "global_step"), number(values, "epoch"))


def _weights(values: Any) -> dict[str, Stored]:
    if not isinstance(values, Mapping):
        return {}
    for section in (*(values.get(name) for name in SECTIONS), values):
        if isinstance(section, Mapping):
            found = {str(name): stored(value) for name, value in section.items() if isinstance(value, Tensor)}
            if found:
                return found
    return {}


def _sections() -> str:
    return ", ".join(SECTIONS[:-1]) + f" and {SECTIONS[-1]}"


def open_safetensors(path: Path) -> Source:
    """The tensors in a `.safetensors` file.

    Raises:
        ConfigError: it is none, or is damaged.
    """

    def read(name: str) -> Tensor:
        with path.open("rb") as file:
            return TensorFile(file, path.stat().st_size, str(path)).read(name)

    try:
        with path.open("rb") as file:
            entries = TensorFile(file, path.stat().st_size, str(path)).entries
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    tensors = {name: Stored(entry.shape, entry.dtype, partial(read, name)) for name, entry in entries.items()}
    return Source("safetensors file", str(path), tensors)
