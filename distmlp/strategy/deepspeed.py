"""strategy=deepspeed_…: DeepSpeed's ZeRO, with its optimizer, weight shards and offloading.

DeepSpeed's engine stands directly under our interface, without Lightning's DeepSpeedStrategy: that one divides
accumulated losses twice, wants a fixed number of micro-batches, and refuses everything but CUDA.
"""

import io
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distmlp.strategy.base import ParallelSpread, num_bytes, optimizer_tensors
from distmlp.strategy.deepspeed_config import ZeroOptions, deepspeed_config
from distmlp.strategy.deepspeed_disk import write_flat, write_partition
from distmlp.strategy.deepspeed_held import HeldByDeepSpeed
from distmlp.strategy.deepspeed_io import load_disk_access, own_folder
from distmlp.strategy.deepspeed_late import LateExchange
from distmlp.strategy.deepspeed_places import flat_masters
from distmlp.strategy.deepspeed_process import forget_run, import_deepspeed


class DeepSpeed(HeldByDeepSpeed, ParallelSpread):
    """A DeepSpeed engine around the network and its optimizer.

    Args:
        zero: what is sharded, and where it lives.
        max_norm: largest norm of the gradient, which the engine must know when it is made; None: no clipping.
        options: of `ParallelSpread`.
    """

    exchanges_late = True

    def __init__(self, *, zero: ZeroOptions, max_norm: float | None, **options: Any) -> None:
        super().__init__(**options)
        self.zero = zero
        self.max_norm = max_norm
        self.engine: Any = None
        self.sets_local_rank = False

    @property
    def sharded(self) -> Any:
        """DeepSpeed's optimizer, which holds the shards."""
        return self.engine.optimizer

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        assert self.network is not None
        deepspeed = import_deepspeed(self.device.type)
        if self.zero.uses_disk:
            load_disk_access(self.device.type)
            self.zero = replace(self.zero, nvme_path=own_folder(str(self.zero.nvme_path)))
        config = deepspeed_config(
            self.zero,
            precision=self.precision,
            max_norm=self.max_norm,
            device_type=self.device.type,
            num_elements=sum(parameter.numel() for parameter in self.network.parameters()),
        )
        if "LOCAL_RANK" not in os.environ:  # no launcher set it, and the engine reads it in its passes too
            os.environ["LOCAL_RANK"] = "0"
            self.sets_local_rank = True
        with redirect_stdout(io.StringIO()):  # it prints memory statistics, whatever its log level is
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
        assert max_norm == self.max_norm, "the engine clips to what it was made with"
        assert max_value is None
        self.staging = None
        self.engine.step()
        return None if max_norm is None else torch.as_tensor(self.engine.get_global_grad_norm())

    def hold_exchange(self, probe: Callable[[], object]) -> None:
        self.late = LateExchange(self.engine)

    def exchange(self, probe: Callable[[], object]) -> None:
        self.late.exchange()

    def abandon_pass(self) -> None:
        self.late.abandon()

    def zero_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: the engine did so after its step."""

    def after_evaluation(self) -> None:
        """Frees weights that an evaluation left gathered, since no backward pass followed."""
        if self.engine is not None and self.zero.stage == 3:
            self.sharded.empty_partition_cache()

    def full_weights(self) -> dict[str, Tensor]:
        if self.engine is None:
            return super().full_weights()
        assert self.network is not None
        weights = self.network.state_dict()
        if self.holds_whole_weights:
            return weights if self.is_global_zero else {}
        for name, parameter in self.network.named_parameters(remove_duplicate=False):
            whole = self._whole(parameter)  # one at a time: all of them may not fit
            weights[name] = whole.to("cpu") if self.is_global_zero else whole.new_empty(0)
        return weights if self.is_global_zero else {}

    @property
    def holds_whole_weights(self) -> bool:
        """Whether each rank has all weights in full precision."""
        return self.zero.stage < 3 and not self.precision.is_mixed

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        """The parameter that the optimizer steps: in 32 bits, from the shards of all ranks."""
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad:
            whole: Tensor = safe_get_full_fp32_param(parameter)
            return whole.view(getattr(parameter, "ds_shape", parameter.shape))  # under ZeRO-3 it holds no values
        with deepspeed.zero.GatheredParameters([parameter], enabled=self.zero.stage == 3):
            return parameter.detach().float().clone()

    def local_master_weights(self) -> list[Tensor]:
        """This rank's part of each group of weights, flat and padded: views, to be read and written."""
        return [flat.weights for flat in self.flats()]

    @torch.no_grad()
    def publish_master_weights(self) -> None:
        """Makes the network's weights those of `local_master_weights`, after these or `shards` were written."""
        if self.zero.stage < 3:
            self.sharded.update_lp_params()
            return
        self.after_evaluation()  # what is still gathered would be used as it is
        for group, flat in enumerate(self.flats()):
            write_flat(self.sharded, group, flat)
        if self.staging is not None:
            for parameter, values in self.staging.frozen.values():
                write_partition(parameter, values)
        self.staging = None
        if self.sharded.persistent_parameters:
            self.sharded.persistent_parameters[0].all_gather(self.sharded.persistent_parameters)
        self.sharded.invalidate_secondary_tensor()

    def held_bytes(self) -> dict[str, int]:
        if self.engine is None:
            return super().held_bytes()
        parameters, flats = list(self.engine.module.parameters()), flat_masters(self.sharded)
        weights = [
            tensor for p in parameters for tensor in (p.data, getattr(p, "ds_tensor", None)) if tensor is not None
        ]
        return {
            "weights": num_bytes(weights),
            "gradients": num_bytes(_gradients([*parameters, *flats], self.sharded)),
            "optimizer": num_bytes(flats + optimizer_tensors(self.sharded.optimizer)),
        }

    def close(self) -> None:
        if self.engine is None:
            return
        self.engine.destroy()
        for hook in (self.engine.module_forward_pre_hook, self.engine.module_forward_post_hook):
            hook.remove()
        self.engine = None
        self.run = nn.Identity()
        if self.sets_local_rank:
            del os.environ["LOCAL_RANK"]
        if self.zero.uses_disk:
            shutil.rmtree(str(self.zero.nvme_path), ignore_errors=True)
        forget_run()


def _keep_groups(sharded: Any, optimizer: torch.optim.Optimizer) -> None:
    """Keeps the optimizer of the run: DeepSpeed replaces an Adagrad by one with a single group of parameters."""
    if sharded.optimizer is not optimizer:
        optimizer.state = sharded.optimizer.state
        sharded.optimizer = optimizer


def _gradients(parameters: list[Tensor], sharded: Any) -> list[Tensor]:
    """What DeepSpeed holds of gradients between a backward pass and a step; where depends on the stage."""
    held = [parameter.grad for parameter in parameters]
    held += [tensor for group in getattr(sharded, "averaged_gradients", {}).values() for tensor in group or []]
    held += getattr(sharded, "accumulated_grads_in_cpu", {}).values()
    held += getattr(sharded, "fp32_groups_gradients_flat", [])
    held.append(getattr(sharded, "grad_partitions_flat_buffer", None))
    return [tensor for tensor in held if tensor is not None]
