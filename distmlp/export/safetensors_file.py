"""Weights as one safetensors file, written tensor by tensor: memory holds one of them."""

from collections.abc import Callable
from pathlib import Path

from distmlp.checkpoint.tensor_file import FileLayout
from distmlp.export.tensors import Out, as_bytes

# Some programs take only files that say what wrote them.
METADATA = {"format": "pt"}


def write_safetensors(path: Path, tensors: dict[str, Out], advance: Callable[[int], None]) -> None:
    """Writes ``tensors`` to ``path``; ``advance`` is told of the bytes of each."""
    layout = FileLayout({name: (out.dtype, out.shape) for name, out in tensors.items()})
    with path.open("wb") as file:
        file.write(layout.header(METADATA))
        for name in layout.entries:
            file.write(as_bytes(tensors[name].read()))
            advance(tensors[name].num_bytes)
