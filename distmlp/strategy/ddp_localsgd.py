"""strategy=ddp_localsgd: post-local SGD: a group of ranks exchanges gradients, groups average weights now and then.

Lin et al., "Don't use large mini-batches, use local SGD", ICLR 2020. It saves exchanges between nodes; between two
averages the groups' weights differ, so the loss curve is not that of DDP, unless ``period`` is 1 and the optimizer SGD.
"""

from typing import Any

import torch.distributed
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.nn.parallel import DistributedDataParallel

from distmlp.strategy.base import optimizer_tensors
from distmlp.strategy.ddp_stateful import StatefulDDP


class LocalSGD(StatefulDDP):
    """Plain DDP for ``start_step`` steps; then gradients are averaged inside a group, weights every ``period`` steps.

    Weights are averaged before an evaluation and a checkpoint too, so that there is one network to measure and to keep.

    Args:
        period: steps between two averages.
        start_step: steps of plain DDP at the start.
        group_size: neighbouring ranks that exchange gradients in each step; None: the ranks of a node.
        options: of `DDP`.
    """

    def __init__(self, *, period: int, start_step: int, group_size: int, **options: Any) -> None:
        super().__init__(**options)
        self.period = period
        self.start_step = start_step
        self.group_size = group_size

    def register_hook(self, ddp: DistributedDataParallel) -> None:
        self.averager = PeriodicModelAverager(period=self.period, warmup_steps=self.start_step)
        group, _ = torch.distributed.new_subgroups(group_size=self.group_size)
        self.state = PostLocalSGDState(process_group=None, subgroup=group, start_localSGD_iter=self.start_step)
        self.register(ddp, self.state, post_localSGD_hook)

    def resume_at(self, step: int) -> None:
        self.averager.step = self.state.iter = step

    def apply_gradients(
        self, optimizer: torch.optim.Optimizer, max_norm: float | None, max_value: float | None
    ) -> Tensor | None:
        norm = super().apply_gradients(optimizer, max_norm, max_value)
        self.averager.average_parameters(self._parameters())
        return norm

    def before_evaluation(self) -> None:
        super().before_evaluation()
        self._average()

    def before_checkpoint(self) -> None:
        """Averages the optimizer's states too, each of which a group has of its own."""
        super().before_checkpoint()
        for state in optimizer_tensors(self.optimizers[0]):
            if state.ndim:  # not counts of steps, which are equal
                self.sum_over_data(state.div_(self.world_size))

    def full_weights(self) -> dict[str, Tensor]:
        self._average()
        return super().full_weights()

    def _average(self) -> None:
        everyone = torch.distributed.group.WORLD
        assert everyone is not None
        average_parameters(iter(self._parameters()), everyone)

    def _parameters(self) -> list[nn.Parameter]:
        assert self.network is not None
        return list(self.network.parameters())
