"""The network of another library: its configuration, and its tensors as they are made from ours."""

from dataclasses import dataclass
from typing import Any

import torch

from distmlp.export.tensors import Out


@dataclass(frozen=True)
class Layout:
    """``config`` is the contents of `config.json`; ``tensors`` go by the library's names."""

    config: dict[str, Any]
    tensors: dict[str, Out]


def renamed(
    tensors: dict[str, Out], names: dict[str, str], block_names: dict[str, str], blocks: str, num_layers: int
) -> dict[str, Out]:
    """Tensors under other names.

    Args:
        tensors: ours.
        names: of layers, ours to theirs; those that we lack are left out.
        block_names: the same within each block.
        blocks: what stands before the number of a block.
        num_layers: how many blocks.
    """
    for index in range(num_layers):
        names = names | {f"blocks.{index}.{own}": f"{blocks}.{index}.{theirs}" for own, theirs in block_names.items()}
    return {
        f"{theirs}.{part}": tensors[f"{own}.{part}"]
        for own, theirs in names.items()
        for part in ("weight", "bias")
        if f"{own}.{part}" in tensors
    }


def transposed(matrix: Out) -> Out:
    """(n, m) → (m, n)."""
    return Out(matrix.dtype, matrix.shape[::-1], lambda: matrix.read().T.contiguous())


def joined(parts: list[Out]) -> Out:
    """One after the other along the first dimension."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Out(parts[0].dtype, shape, lambda: torch.cat([part.read() for part in parts]))


def zeros(dtype: torch.dtype, shape: tuple[int, ...]) -> Out:
    """What a layer that has none behaves as if it had."""
    return Out(dtype, shape, lambda: torch.zeros(shape, dtype=dtype))
