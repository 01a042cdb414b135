"""Rotary positions: queries and keys are turned by angles that grow with position, so that attention sees distances.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. The pairs that are turned together are
value i and value i + width/2 of a head, as in Llama's published weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Turns vectors by position · theta^(-2i/head_width), one angle for each pair i of their values.

    Args:
        head_width: values of a head; even.
        max_positions: positions that can be told apart.
        theta: base of the wavelengths.

    The tables of cosines and sines, (max_positions, head_width / 2), are float32 whatever the network is cast to:
    rounded to bfloat16, neighbouring positions would become one. They follow from the arguments, so no checkpoint
    holds them.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, *, head_width: int, max_positions: int, theta: float) -> None:
        super().__init__()
        assert head_width % 2 == 0, head_width
        self.head_width = head_width
        self.max_positions = max_positions
        self.theta = theta
        self._fill_tables(torch.get_default_device())

    def _fill_tables(self, device: torch.device) -> None:
        exponents = torch.arange(0, self.head_width, 2, device=device, dtype=torch.float32) / self.head_width
        positions = torch.arange(self.max_positions, device=device, dtype=torch.float32)
        angles = torch.outer(positions, 1.0 / self.theta**exponents)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rotary":
        # Casts must not round the tables, and `to_empty` after building on the meta device must not leave them
        # unfilled: only the device of what `fn` makes counts.
        device = fn(torch.empty(0, device=self.cosines.device)).device
        if device != self.cosines.device:
            self._fill_tables(device)
        return self

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Vectors (N, heads, T, head_width) at positions ``start … start + T - 1``, turned; computed in float32."""
        stop = start + x.shape[2]
        cosines, sines = self.cosines[start:stop], self.sines[start:stop]
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
        return turned.type_as(x)
