"""Data: real sets with one interface (`dataset.py`), an order that is a pure function (`order.py`), index batches."""

from importlib import import_module
from pathlib import Path
from typing import Any

from distmlp.data.dataset import DataSet
from distmlp.errors import ConfigError

# name → (module, function): a module is imported when its data set is chosen
LOADERS = {
    "digits": ("digits", "load_digits"),
    "mnist": ("mnist", "load_mnist"),
    "fashion_mnist": ("mnist", "load_mnist"),
    "arrays": ("arrays", "load_arrays"),
    "table": ("table", "load_table"),
    "synthetic": ("synthetic", "load_synthetic"),
    "text": ("text", "load_text"),
    "tokens": ("tokens", "load_tokens"),
    "synthetic_tokens": ("synthetic_tokens", "load_synthetic_tokens"),
}


def load(name: str, arguments: dict[str, Any]) -> DataSet:
    """The data set called ``name``. ``arguments`` are its configuration's keys.

    Raises:
        ConfigError: the data are missing or bad; the message names file and fault.
    """
    module, function = LOADERS[name]
    arguments = dict(arguments)
    if function == "load_mnist":
        arguments["variant"] = name
    else:
        _resolve_paths(name, arguments, arguments.pop("dir"))
    loaded: DataSet = getattr(import_module(f"distmlp.data.{module}"), function)(**arguments)
    return loaded


def _resolve_paths(name: str, arguments: dict[str, Any], folder: str | None) -> None:
    """Makes the paths among ``arguments`` relative to data.dir."""
    if folder is None:
        return
    paths = [key for key in ("inputs", "targets", "path", "validation_path") if arguments.get(key) is not None]
    if not paths:
        raise ConfigError(f"data={name} reads no files: leave data.dir unset")
    if str(arguments.get("tokenizer")).endswith(".json"):
        paths.append("tokenizer")
    for key in paths:
        arguments[key] = str(Path(folder, arguments[key]))
