"""strategy=deepspeed_…: DeepSpeed's ZeRO, with its optimizer, weight shards and offloading.

DeepSpeed's engine stands directly under our interface, without Lightning's DeepSpeedStrategy: that one divides
accumulated losses twice, wants a fixed number of micro-batches, and refuses everything but CUDA.
"""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from distmlp.log import log
from distmlp.strategy.base import ParallelSpread
from distmlp.strategy.deepspeed_config import ZeroOptions, deepspeed_config


class DeepSpeed(ParallelSpread):
    """A DeepSpeed engine around the network and its optimizer.

    Args:
        zero: what is sharded, and where it lives.
        max_norm: largest norm of the gradient, which the engine must know when it is made; None: no clipping.
        options: of `ParallelSpread`.
    """

    def __init__(self, *, zero: ZeroOptions, max_norm: float | None, **options: Any) -> None:
        super().__init__(**options)
        self.zero = zero
        self.max_norm = max_norm
        self.engine: Any = None

    @property
    def sharded(self) -> Any:
        """DeepSpeed's optimizer, which holds the shards."""
        return self.engine.optimizer

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        assert self.network is not None
        deepspeed = _import_deepspeed(self.device.type)
        config = deepspeed_config(
            self.zero,
            precision=self.precision,
            max_norm=self.max_norm,
            device_type=self.device.type,
            num_elements=sum(parameter.numel() for parameter in self.network.parameters()),
        )
        self.engine, *_ = deepspeed.initialize(model=self.network, optimizer=optimizer, config=config)
        self.run = self.engine
        _keep_groups(self.sharded, optimizer)

    def autocast(self) -> AbstractContextManager[object]:
        """Nothing once there is an engine: it holds the weights in the format that it computes in."""
        return nullcontext() if self.engine is not None else super().autocast()

    def compute(self, inputs: Tensor) -> Tensor:
        if self.engine is not None and inputs.is_floating_point():
            inputs = inputs.to(self.precision.compute)
        outputs: Tensor = self.run(inputs)
        return outputs.float()

    def sync(self, is_last: bool) -> AbstractContextManager[object]:
        self.engine.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def add_gradients(self, loss: Tensor) -> None:
        self.engine.backward(loss * self.data_world_size, scale_wrt_gas=False)

    def apply_gradients(
        self, optimizer: torch.optim.Optimizer, max_norm: float | None, max_value: float | None
    ) -> Tensor | None:
        assert max_norm == self.max_norm and max_value is None
        self.engine.step()
        return None if max_norm is None else torch.as_tensor(self.engine.get_global_grad_norm())

    def zero_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: the engine did so after its step."""


def _import_deepspeed(device_type: str) -> Any:
    """DeepSpeed for this kind of device, compiling nothing and silent on the console."""
    if device_type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read once, at the import
    import deepspeed
    import deepspeed.ops

    # It would be compiled when process groups form, by each rank, and only its inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It calls torch by names that torch 2.13 deprecates, in every step.
    deprecated = r".*(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated"
    warnings.filterwarnings("ignore", message=deprecated, category=FutureWarning)
    logger = logging.getLogger("DeepSpeed")
    logger.handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    return deepspeed


def _keep_groups(sharded: Any, optimizer: torch.optim.Optimizer) -> None:
    """Keeps the optimizer of the run: DeepSpeed replaces an Adagrad by one with a single group of parameters."""
    if sharded.optimizer is not optimizer:
        optimizer.state = sharded.optimizer.state
        sharded.optimizer = optimizer
