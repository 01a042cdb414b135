"""DDP whose exchange keeps a state from step to step: the base of `ddp_powersgd` and `ddp_localsgd`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from distmlp.strategy.ddp import DDP


class StatefulDDP(DDP):
    """DDP with a hook of torch's, whose ``state`` counts its exchanges, so that none can be taken back.

    Where a step may have to be taken again, its micro-batches exchange nothing; a pass with weight 0 then exchanges
    what they have added up, once.
    """

    exchanges_late = True
    is_held = False
    state: Any

    def register(self, ddp: DistributedDataParallel, state: Any, hook: Callable[..., Any]) -> None:
        self.state = state
        ddp.register_comm_hook(state, hook)

    @contextmanager
    def sync(self, is_last: bool) -> Iterator[None]:
        counts, before = self.is_recorded or is_last, self.state.iter
        with super().sync(is_last and not self.is_held):
            yield
        if not counts:  # a static graph's first pass exchanges wherever in the step it is
            self.state.iter = before

    def hold_exchange(self, probe: Callable[[], object]) -> None:
        if not self.is_recorded:
            before = self.state.iter
            probe()
            self.forget_gradients()
            self.state.iter = before
        self.is_held = True

    def exchange(self, probe: Callable[[], object]) -> None:
        self.is_held = False
        probe()

    def abandon_pass(self) -> None:
        self.is_held = False
        self.forget_gradients()
