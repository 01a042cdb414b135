"""strategy=single: one process on one device."""

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from distmlp.strategy.base import Spread
from distmlp.strategy.precision import Precision


class Single(Spread, SingleDeviceStrategy):
    """One process on ``device``."""

    def __init__(self, *, device: torch.device, precision: Precision) -> None:
        super().__init__(device=device)
        self.device = device
        self.precision = precision
