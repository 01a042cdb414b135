"""Networks for runs that something happens to: one that takes its time, and one that breaks."""

import math
import os
import time

from torch import Tensor, nn


class Slow(nn.Sequential):
    """A perceptron with dropout whose every pass takes ``seconds`` more."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, seconds: float) -> None:
        layers = nn.Linear(math.prod(input_shape), 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, num_outputs)
        super().__init__(nn.Flatten(), *layers)
        self.seconds = seconds

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.seconds if self.training else 0.0)
        outputs: Tensor = super().forward(inputs)
        return outputs


class Broken(Slow):
    """Ends with an error in the ``passes``-th pass of a ``rank``."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, passes: int, rank: int) -> None:
        super().__init__(input_shape, num_outputs, 0.0)
        self.passes = passes
        self.is_sound = int(os.environ["RANK"]) != rank

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes -= self.training
        if self.passes <= 0 and not self.is_sound:
            raise RuntimeError("this network is broken")
        return super().forward(inputs)
