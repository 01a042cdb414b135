"""A network that fails or hangs on one rank: what the tests of `ranks.py` need."""

import os
import time

from torch import Tensor, nn


class Faulty(nn.Module):
    """A linear layer that on rank 1 breaks in its first pass, or (``sleeps``) never ends it."""

    def __init__(self, *, input_shape: tuple[int, ...], num_outputs: int, sleeps: bool = False) -> None:
        super().__init__()
        self.output = nn.Linear(*input_shape, num_outputs)
        self.sleeps = sleeps

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) → (N, num_outputs)."""
        if os.environ["RANK"] == "1":
            if self.sleeps:
                time.sleep(1000.0)
            raise RuntimeError("broken on purpose")
        outputs: Tensor = self.output(x)
        return outputs
