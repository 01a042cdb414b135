"""What a pass changes beside gradients, random states and running statistics, so that it can be given back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def snapshot(strategy: Any) -> Callable[[], None]:
    """Gives random states and running statistics back as they are now, when it is called."""
    on_cuda = strategy.device.type == "cuda"
    host, device = torch.get_rng_state(), torch.cuda.get_rng_state(strategy.device) if on_cuda else None
    kept = [(buffer, buffer.clone()) for buffer in strategy.statistics()]

    def undo() -> None:
        torch.set_rng_state(host)
        if device is not None:
            torch.cuda.set_rng_state(device, strategy.device)
        for buffer, value in kept:
            buffer.copy_(value)

    return undo


@contextmanager
def without_trace(strategy: Any) -> Iterator[None]:
    """Random states and running statistics are afterwards what they were."""
    undo = snapshot(strategy)
    yield
    undo()
