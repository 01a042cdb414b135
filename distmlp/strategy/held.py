"""What a rank holds of a run, as a checkpoint asks for it: parts of named tensors, and a few numbers.

Names are those of the network, the same under every strategy, so that one strategy reads what another wrote.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distmlp.shards import Place, Shard
from distmlp.strategy.optimizer_states import number_states, set_numbers, step_in_place, tensor_states
from distmlp.strategy.places import Copy, memory, place_of


class Held:
    """A mixin of strategies; as it stands for those that hold whole tensors or DTensors."""

    network: nn.Module | None
    scaler: torch.amp.GradScaler | None

    # What a strategy changes.

    def copy_of(self, tensor: Tensor) -> Copy:
        """Which copy of ``tensor``, or of a DTensor's part, this rank holds, and how many ranks hold one."""
        return 0, 1

    def parameters_held(self, *, trainable: bool) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters, as the optimizer has them."""
        assert self.network is not None
        return [(name, p) for name, p in self.network.named_parameters() if p.requires_grad == trainable]

    def part_of(self, name: str, tensor: Tensor) -> tuple[Place, Tensor]:
        """This rank's part of a parameter or buffer, or of a state of its shape."""
        return place_of(name, tensor, self.copy_of(tensor)), memory(tensor)

    def before_checkpoint(self) -> None:
        """Makes equal what several ranks hold a copy of. All ranks must call it."""

    @property
    def has_shards_at_hand(self) -> bool:
        """Whether `shards` costs next to nothing: none of them is read from a disk first."""
        return True

    def after_checkpoint(self) -> None:
        """Frees what `shards` had to bring into memory, once it was copied."""

    def average_places(self) -> list[Place]:
        """Where the tensors of `local_master_weights` lie."""
        return [self.part_of(name, parameter)[0] for name, parameter in self.parameters_held(trainable=True)]

    def trained_shards(self) -> Iterator[Shard]:
        """Of weights that are trained, and of the optimizer's states."""
        for name, parameter in self.parameters_held(trainable=True):
            yield Shard("weights", *self.part_of(name, parameter))
            for key, state in tensor_states(parameter, self._state(parameter)).items():
                yield Shard(f"optimizer/{key}", *self.part_of(name, state))

    def scalars(self) -> dict[str, dict[str, float]]:
        """The optimizer's numbers, such as ``step``, by name of the parameter, where this rank has a part of it."""
        return {
            name: numbers
            for name, parameter in self.parameters_held(trainable=True)
            if memory(parameter).numel() and (numbers := number_states(parameter, self._state(parameter)))
        }

    def load_scalars(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Sets what `scalars` gives; names that this rank has no part of are passed over."""
        for name, parameter in self.parameters_held(trainable=True):
            set_numbers(parameter, self._state(parameter), values.get(name, {}))

    def scaler_state(self) -> dict[str, float]:
        """``scale`` of the loss and ``growth_tracker``, steps since it last changed; empty where nothing is scaled."""
        if self.scaler is None:
            return {}
        state = self.scaler.state_dict()
        return {"scale": float(state["scale"]), "growth_tracker": float(state["_growth_tracker"])}

    def load_scaler_state(self, values: Mapping[str, float]) -> None:
        """Sets what `scaler_state` gave, under this or another strategy; nothing where it is empty."""
        if self.scaler is None or not values:
            return
        # torch lets the scale grow at this very count, so one that is beyond it would never grow again.
        tracker = min(int(values["growth_tracker"]), self.scaler.get_growth_interval() - 1)
        loaded = {"scale": values["scale"], "_growth_tracker": tracker}
        self.scaler.load_state_dict(self.scaler.state_dict() | loaded)

    def prepare_states(self, optimizer: torch.optim.Optimizer) -> None:
        """Makes a new optimizer's states exist, so that they can be loaded. All ranks must call it."""
        step_in_place(optimizer)

    def resume_at(self, step: int) -> None:
        """Tells a strategy that counts steps how many there were."""

    # What all share.

    def shards(self, average: list[Tensor] | None = None) -> list[Shard]:
        """All parts that this rank holds, as views: to write into them is to load.

        After that, `publish_master_weights` makes the network follow.

        Args:
            average: of the weights, one tensor for each of `local_master_weights`.
        """
        shards = [*self.trained_shards(), *self._other_shards()]
        if average is not None:
            pairs = zip(self.average_places(), average, strict=True)
            shards += [Shard("average", place, tensor) for place, tensor in pairs]
        held = [shard for shard in shards if shard.place.part.num_elements]
        for shard in held:
            assert shard.tensor.is_contiguous(), f"{shard.kind} of {shard.place.name} is not contiguous"
            assert shard.tensor.numel() == shard.place.part.num_elements, f"{shard.kind} of {shard.place}"
        return held

    def _other_shards(self) -> Iterator[Shard]:
        for name, parameter in self.parameters_held(trainable=False):
            yield Shard("weights", *self.part_of(name, parameter))
        assert self.network is not None
        for name, buffer in persistent_buffers(self.network):
            yield Shard("weights", *self.part_of(name, buffer))

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        optimizers: list[torch.optim.Optimizer] = self.optimizers  # type: ignore[attr-defined]
        return optimizers[0].state.get(parameter, {}) if optimizers else {}


def persistent_buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that belong to the network's state, such as the statistics of batch norms, each once."""
    seen: set[Tensor] = set()
    for prefix, module in network.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set and buffer not in seen:
                seen.add(buffer)
                yield name, buffer
