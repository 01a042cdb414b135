"""strategy=ddp_powersgd: DDP that exchanges low-rank factors of gradients, with error feedback.

Vogels et al., "PowerSGD: Practical low-rank gradient compression for distributed optimization", NeurIPS 2019. The loss
curve differs from DDP's: what is left out of one step is added to the next.
"""

from typing import Any

from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from distmlp.strategy.ddp_stateful import StatefulDDP


class PowerSGD(StatefulDDP):
    """DDP with gradients compressed to matrices of ``approximation_rank`` from step ``start_step`` on (2 at least)."""

    def __init__(self, *, approximation_rank: int, start_step: int, **options: Any) -> None:
        super().__init__(**options)
        self.approximation_rank = approximation_rank
        self.start_step = start_step

    def register_hook(self, ddp: DistributedDataParallel) -> None:
        self.state = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=self.approximation_rank,
            start_powerSGD_iter=self.start_step,
        )
        self.register(ddp, self.state, powerSGD_hook)

    def resume_at(self, step: int) -> None:
        """What was left out of the gradients before is lost: the errors start at zero again."""
        self.state.iter = step
