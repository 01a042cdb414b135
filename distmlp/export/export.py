"""From a checkpoint to a file or folder in one of the formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distmlp.checkpoint.reader import CheckpointReader
from distmlp.errors import ConfigError
from distmlp.export.appearing import appearing
from distmlp.export.huggingface import Facts, counterpart, write_folder
from distmlp.export.safetensors_file import write_safetensors
from distmlp.export.tensors import exported
from distmlp.export.torch_file import write_torch

SUFFIXES = {"safetensors": (".safetensors",), "torch": (".pt", ".pth", ".bin")}
FORMATS = (*SUFFIXES, "huggingface")


def target_of(to: Path, form: str) -> Path:
    """What will appear: ``to``, or for a format of one file, `model.…` in the folder ``to``.

    Raises:
        ConfigError: the name is that of another format's file, or is taken.
    """
    for other, suffixes in SUFFIXES.items():
        if to.suffix in suffixes and other != form:
            raise ConfigError(f"{to} is the name of a file of --format {other}, not {form}")
    own = SUFFIXES.get(form)
    target = to if own is None or to.suffix in own else to / f"model{own[0]}"
    if target.exists():
        raise ConfigError(f"{target} exists and stays as it is: choose another place with --to")
    return target


def export(
    reader: CheckpointReader,
    target: Path,
    form: str,
    *,
    average: bool,
    network: tuple[Any, Facts] | None,
    expect: Callable[[int], None],
    advance: Callable[[int], None],
) -> None:
    """Writes the weights of the checkpoint to ``target``.

    Args:
        reader: of a checkpoint that is known to be sound.
        target: what appears.
        form: one of `FORMATS`.
        average: the moving average in the weights' place.
        network: its section of the configuration, and what it knows of its data; for huggingface alone.
        expect: told how many bytes will be written.
        advance: told of the bytes of each tensor that was.

    Raises:
        ConfigError: there is no average, no counterpart, or ``target`` cannot be written.
    """
    tensors = exported(reader, average)
    if form == "huggingface":
        assert network is not None
        layout = counterpart(network[0], tensors, network[1])
        expect(sum(out.num_bytes for out in layout.tensors.values()))
        with appearing(target) as working:
            write_folder(working, layout, advance)
        return
    expect(sum(out.num_bytes for out in tensors.values()))
    write = write_safetensors if form == "safetensors" else write_torch
    with appearing(target) as working:
        write(working, tensors, advance)
