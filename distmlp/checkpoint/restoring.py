"""Puts a checkpoint into a run that has just been set up, whatever strategy and world size wrote it."""

from collections.abc import Callable
from typing import Any

import lightning
import torch

from distmlp.checkpoint.random_state import restore
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.shards import Shard

SEED_STRIDE = 1_000_003


class Restoring(lightning.Callback):
    """Restores tensors, position, loops and random states when training starts. It must come before other callbacks.

    Args:
        reader: of the checkpoint; closed afterwards.
        first_epoch: where training goes on.
        average: the callback that keeps a moving average of the weights, or None.
        with_optimizer: False: optimizer states start anew.
        resumed: called at the end with the state of the checkpoint.
    """

    def __init__(
        self,
        reader: CheckpointReader,
        *,
        first_epoch: int,
        average: Any,
        with_optimizer: bool,
        resumed: Callable[[dict[str, Any]], None],
    ) -> None:
        self.reader = reader
        self.first_epoch = first_epoch
        self.average = average
        self.with_optimizer = with_optimizer
        self.resumed = resumed

    @torch.no_grad()
    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        strategy: Any = trainer.strategy
        state = self.reader.state
        with self.reader:
            self._restore_tensors(strategy, pl_module)
        if self.with_optimizer:
            strategy.load_scalars(_merged(state))
        strategy.load_scaler_state(state["loss_scaler"])
        _restore_position(trainer, pl_module, state, self.first_epoch)
        strategy.resume_at(state["step"])
        _restore_random(strategy, state)
        self.resumed(state)

    def _restore_tensors(self, strategy: Any, module: Any) -> None:
        if self.with_optimizer:
            strategy.prepare_states(strategy.optimizers[0])
        average = None
        if self.average is not None:
            average = self.average.average = [weight.float().clone() for weight in strategy.local_master_weights()]
        for shard in strategy.shards(average):
            if shard.kind in self.reader.kinds():
                self._fill(shard)
        strategy.publish_master_weights()
        if average is not None and "average" not in self.reader.kinds():
            self.average.average = []  # it starts with the weights as they are after the next step

    def _fill(self, shard: Shard) -> None:
        shard.tensor.copy_(self.reader.read(shard.kind, shard.place).view(shard.tensor.shape))


def _merged(state: dict[str, Any]) -> dict[str, dict[str, float]]:
    merged: dict[str, dict[str, float]] = {}
    for rank in state["ranks"]:
        for name, values in rank["optimizer_scalars"].items():
            merged.setdefault(name, {}).update(values)
    return merged


def _restore_position(trainer: Any, module: Any, state: dict[str, Any], first_epoch: int) -> None:
    position, strategy = module.position, trainer.strategy
    position.step, position.epoch, position.samples = state["step"], state["epoch"], state["samples"]
    position.samples_in_epoch = state["samples_in_epoch"]
    position.loss_targets = state["loss_targets"]
    position.loss_sum = torch.tensor(_own_loss_sum(strategy, state), device=strategy.device)
    loop = trainer.fit_loop
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, first_epoch)
    loops = loop.epoch_loop
    for total in (loops.batch_progress.total, loops.manual_optimization.optim_step_progress.total):
        for name in ("ready", "started", "processed", "completed"):
            if hasattr(total, name):
                setattr(total, name, position.step)


def _own_loss_sum(strategy: Any, state: dict[str, Any]) -> float:
    sums = [rank["loss_sum"] for rank in state["ranks"]]
    if _same_ranks(strategy, state):
        return float(sums[strategy.global_rank])
    # Ranks that split a layer hold the same part of the loss.
    per_data_rank = sums[:: len(sums) // state["data_world_size"]]
    return float(sum(per_data_rank)) if strategy.data_rank == 0 else 0.0


def _restore_random(strategy: Any, state: dict[str, Any]) -> None:
    """Its own states where the ranks are the same; otherwise new streams that follow from seed and step alone."""
    if _same_ranks(strategy, state) and state["ranks"][strategy.global_rank]["random"]:  # an import has none
        restore(state["ranks"][strategy.global_rank]["random"], strategy.device)
    else:
        torch.manual_seed(torch.initial_seed() + SEED_STRIDE * (strategy.data_rank + 1) + state["step"])


def _same_ranks(strategy: Any, state: dict[str, Any]) -> bool:
    return bool(strategy.world_size == state["world_size"] and strategy.data_world_size == state["data_world_size"])
