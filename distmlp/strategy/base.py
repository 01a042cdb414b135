"""What every strategy has: how it fits into Lightning's Trainer, and what a training step asks of it.

Lightning runs the loop and asks a `Strategy` to set up and to reduce. The step itself (`module.py`) is ours: it asks a
strategy to compute a micro-batch, to add up its gradients, and to apply them. So nothing depends on how Lightning
scales losses or counts accumulation, and the networks under every strategy see the same numbers.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distmlp.strategy.clipping import clip_gradients
from distmlp.strategy.held import Held, persistent_buffers
from distmlp.strategy.places import Copy
from distmlp.strategy.precision import Precision

SEED_STRIDE = 1_000_003  # between the random streams of two ranks: far more than seeds that people give lie apart


class Spread(Held):
    """A mixin for Lightning's strategies: one network, one optimizer, some ranks.

    Attributes:
        precision: formats of weights and computation.
        device: this rank's.
        data_rank: this rank among those that hold different samples of a global batch.
        data_world_size: how many those are.
        network: the network, sharded in place by strategies that shard.
        run: what is called with a micro-batch: the network, or what wraps it.
        syncs_each_micro_batch: ranks communicate in each micro-batch, not in a step's last one only.
        exchanges_activations: what ranks communicate in a pass grows with its samples.
        exchanges_late: it cannot take back an exchange that it has begun, but can hold it back to the end of a step.
    """

    precision: Precision
    device: torch.device
    data_rank: int = 0
    data_world_size: int = 1
    network: nn.Module | None = None
    run: nn.Module
    scaler: torch.amp.GradScaler | None = None
    syncs_each_micro_batch: bool = True
    exchanges_activations: bool = False
    exchanges_late: bool = False

    # What a strategy changes.

    def place(self, network: nn.Module) -> nn.Module:
        """Moves, shards or wraps ``network``; returns what is to be called with a micro-batch."""
        return network.to(self.device)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Called once, when the optimizer was made of the placed network."""
        if self.precision.scales_loss:
            self.scaler = torch.amp.GradScaler(self.device.type)

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss."""
        return self.precision.autocast(self.device.type)

    def sync(self, is_last: bool) -> AbstractContextManager[object]:
        """The context of a micro-batch's forward and backward pass; gradients are exchanged after the last at least."""
        return nullcontext()

    def add_gradients(self, loss: Tensor) -> None:
        """Adds the gradients of ``loss``, this rank's part of the loss over the global batch.

        Ranks average their gradients, while the loss is normalised over the global batch already: hence the factor.
        """
        if self.data_world_size > 1:
            loss = loss * self.data_world_size
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()

    def apply_gradients(
        self, optimizer: torch.optim.Optimizer, max_norm: float | None, max_value: float | None
    ) -> Tensor | None:
        """Clips to a global norm and to a value and steps; returns the norm before clipping where it was computed."""
        norm = None
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if max_norm is not None or max_value is not None:
            norm = self._clip(max_norm, max_value)
        if self.scaler is not None:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()
        return norm

    def _clip(self, max_norm: float | None, max_value: float | None) -> Tensor | None:
        assert self.network is not None
        norm = None if max_norm is None else clip_gradients(self.network.parameters(), max_norm)
        if max_value is not None:
            nn.utils.clip_grad_value_(self.network.parameters(), max_value)
        return norm

    def zero_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)

    def sum_over_data(self, tensor: Tensor) -> Tensor:
        """The sum over ranks that hold different samples."""
        return tensor

    def before_evaluation(self) -> None:
        """Makes ready what ranks keep each for themselves in training."""

    def after_evaluation(self) -> None:
        """Goes back to training."""

    def full_weights(self) -> dict[str, Tensor]:
        """The whole network's weights by name, on rank 0; empty on the others. All ranks must call it."""
        assert self.network is not None
        return self.network.state_dict() if self.is_global_zero else {}  # type: ignore[attr-defined]

    def local_master_weights(self) -> list[Tensor]:
        """Views of the trainable weights that this rank alone keeps up to date, to be read and written."""
        assert self.network is not None
        return [parameter.data for parameter in self.network.parameters() if parameter.requires_grad]

    def publish_master_weights(self) -> None:
        """Makes the network follow after `local_master_weights` were written. All ranks must call it."""

    # Where `exchanges_late`: each step is between `hold_exchange` and either `exchange` or `abandon_pass`.

    def hold_exchange(self, probe: Callable[[], object]) -> None:
        """From here on gradients add up on each rank alone. ``probe`` is a pass with weight 0."""

    def exchange(self, probe: Callable[[], object]) -> None:
        """Exchanges what has added up. All ranks must call it."""

    def abandon_pass(self) -> None:
        """Forgets the gradients of a step that broke off on some rank."""
        self.forget_gradients()

    def held_bytes(self) -> dict[str, int]:
        """Bytes of this rank's ``weights``, ``gradients`` and ``optimizer`` states as they are now, to be measured."""
        assert self.network is not None
        weights = list(self.network.parameters())
        gradients = [parameter.grad for parameter in weights if parameter.grad is not None]
        states = optimizer_tensors(self.optimizers[0]) if self.optimizers else []  # type: ignore[attr-defined]
        return {"weights": num_bytes(weights), "gradients": num_bytes(gradients), "optimizer": num_bytes(states)}

    def close(self) -> None:
        """Lets go of what outlives a run in its process, such as hooks and process groups. The network is unusable."""

    # What all share.

    def compute(self, inputs: Tensor) -> Tensor:
        """Outputs of the network for this rank's ``inputs``, as 32-bit floats, which losses and metrics expect."""
        if inputs.is_floating_point() and inputs.dtype != self.precision.weights:
            inputs = inputs.to(self.precision.weights)
        outputs: Tensor = self.run(inputs)
        return outputs.float()

    def forget_gradients(self) -> None:
        assert self.network is not None
        for parameter in self.network.parameters():
            parameter.grad = None

    def any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank. Waits for the device."""
        return flag

    def ask_all(self, value: int) -> Callable[[], int]:
        """Starts to find the largest ``value`` over all ranks; what is returned waits for it. All ranks must ask."""
        return lambda: value

    def statistics(self) -> list[Tensor]:
        """Buffers that training changes: those that checkpoints hold."""
        assert self.network is not None
        return [buffer for _, buffer in persistent_buffers(self.network)]

    # Lightning's side.

    def setup(self: Any, trainer: Any) -> None:
        """Lightning calls it before training, and again before testing what is placed already."""
        self.accelerator.setup(trainer)
        module = self.lightning_module
        if self.network is None:
            self.network = module.network
            self.precision.prepare(module.network)
            self.run = self.place(module.network)
            module.task.to(self.device)
        if trainer.state.fn == TrainerFn.FITTING:
            if self.data_rank:  # all drew the same weights; each draws dropout masks of its own from here on
                torch.manual_seed(torch.initial_seed() + SEED_STRIDE * self.data_rank)
            self.setup_optimizers(trainer)
            self.attach(self.optimizers[0])

    def teardown(self: Any) -> None:
        """Leaves the network where it is: it may be tested next."""
        self.accelerator.teardown()


class ParallelSpread(Spread, ParallelStrategy):
    """A strategy of several ranks, in the process group that `process_group.py` forms."""

    def __init__(self, *, device: torch.device, precision: Precision, rank: int, world_size: int) -> None:
        super().__init__()
        self.device = device
        self.precision = precision
        self.data_rank = rank
        self.data_world_size = world_size
        self.num_nodes = 1  # Lightning sets it

    @property
    def root_device(self) -> torch.device:
        return self.device

    def model_to_device(self) -> None:
        """`place` has done it."""

    @property
    def data_group(self) -> torch.distributed.ProcessGroup | None:
        """The ranks that hold different samples; None: all."""
        return None

    def sum_over_data(self, tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor, group=self.data_group)
        return tensor

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """``tensor`` over all ranks, on each of them. Lightning's interface."""
        assert isinstance(tensor, Tensor)
        kinds = torch.distributed.ReduceOp
        kind = {"max": kinds.MAX}.get(str(reduce_op).lower(), kinds.SUM)
        torch.distributed.all_reduce(tensor, op=kind, group=group)
        return tensor / self.world_size if reduce_op in ("mean", "avg", None) else tensor

    def barrier(self, name: str | None = None) -> None:
        if self.device.type == "cuda":
            torch.distributed.barrier(device_ids=[self.device.index])
        else:
            torch.distributed.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        values = [obj]
        torch.distributed.broadcast_object_list(values, src=src)
        return values[0]

    def before_evaluation(self) -> None:
        """Statistics of batch norms follow the share that a rank held; all evaluate with rank 0's."""
        for buffer in self.statistics():
            torch.distributed.broadcast(buffer, src=0)

    def copy_of(self, tensor: Tensor) -> Copy:
        return (0, 1) if isinstance(tensor, DTensor) else (self.global_rank, self.world_size)

    def before_checkpoint(self) -> None:
        self.before_evaluation()

    def any_rank(self, flag: bool) -> bool:
        tensor = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return bool(tensor)

    def ask_all(self, value: int) -> Callable[[], int]:
        tensor, kind = torch.tensor(value, device=self.device), torch.distributed.ReduceOp.MAX
        if self.device.type != "cuda":
            work = torch.distributed.all_reduce(tensor, op=kind, async_op=True)
            return lambda: int(tensor) if work.wait() else value
        # On a stream of its own, so that who reads the answer later does not wait for the steps in between.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.distributed.all_reduce(tensor, op=kind)
            answer = torch.empty((), dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            arrived = side.record_event()

        def read() -> int:
            arrived.synchronize()
            return int(answer)

        return read


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimizer remembers of its parameters."""
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of this rank's memory behind ``tensors``, counted once where several are views of the same."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    storages = [tensor.untyped_storage() for tensor in local]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
