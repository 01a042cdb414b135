"""What a rank holds under DeepSpeed: its optimizer steps flat tensors, of which parameters are pieces."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from distmlp.shards import Place, Shard
from distmlp.strategy.deepspeed_config import ZeroOptions
from distmlp.strategy.deepspeed_disk import Flat, Staging, in_memory, partition_is_on_disk, read_flats, read_partition
from distmlp.strategy.deepspeed_places import Piece, flat_masters, named, partition_memory, partition_place, pieces
from distmlp.strategy.held import Held
from distmlp.strategy.optimizer_states import number_states, set_numbers, step_in_place


class HeldByDeepSpeed(Held):
    """A mixin of the strategy. Until there is an engine, it holds what any replica holds.

    What lies on a disk between two steps is copied into host memory when `shards` or `local_master_weights` first ask
    for it: all that this rank has of the weights and their states. It stays there until `publish_master_weights` writes
    it back, or `after_checkpoint` or the next step drops it.
    """

    engine: Any
    sharded: Any
    zero: ZeroOptions
    staging: Staging | None = None

    def part_of(self, name: str, tensor: Tensor) -> tuple[Place, Tensor]:
        if not hasattr(tensor, "ds_tensor"):  # frozen under ZeRO-1 and -2, or a buffer
            return super().part_of(name, tensor)
        place = partition_place(self.sharded, name, tensor)
        if partition_is_on_disk(tensor):
            return place, self._frozen_partition(name, tensor)[: place.part.num_elements]
        return place, partition_memory(place, tensor)

    @property
    def has_shards_at_hand(self) -> bool:
        return not self.zero.uses_disk

    def after_checkpoint(self) -> None:
        self.staging = None

    def average_places(self) -> list[Place]:
        if self.engine is None:
            return super().average_places()
        return [piece.place for piece in self._pieces()]

    def shards(self, average: list[Tensor] | None = None) -> list[Shard]:
        if self.engine is not None and average is not None:
            average = [piece.of(average[piece.group]) for piece in self._pieces()]
        return super().shards(average)

    def trained_shards(self) -> Iterator[Shard]:
        if self.engine is None:
            yield from super().trained_shards()
            return
        flats = self.flats()
        for piece in self._pieces():
            flat = flats[piece.group]
            yield Shard("weights", piece.place, piece.of(flat.weights))
            for key, state in flat.states.items():
                yield Shard(f"optimizer/{key}", piece.place, piece.of(state))

    def scalars(self) -> dict[str, dict[str, float]]:
        if self.engine is None:
            return super().scalars()
        numbers = [number_states(flat, self._flat_state(flat)) for flat in flat_masters(self.sharded)]
        held = [piece for piece in self._pieces() if piece.place.part.num_elements]
        return {piece.place.name: numbers[piece.group] for piece in held if numbers[piece.group]}

    def load_scalars(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Parameters that share a flat tensor share its numbers: the last one's stay."""
        if self.engine is None:
            super().load_scalars(values)
            return
        flats = flat_masters(self.sharded)
        for piece in self._pieces():
            flat = flats[piece.group]
            set_numbers(flat, self._flat_state(flat), values.get(piece.place.name, {}))

    def scaler_state(self) -> dict[str, float]:
        """As everywhere, and ``hysteresis``, the overflows until the scale falls, which only DeepSpeed has."""
        scaler = self._loss_scaler
        if scaler is None:
            return {}
        tracker = (scaler.cur_iter - scaler.last_overflow_iter - 1) % scaler.scale_window
        state = {"scale": scaler.cur_scale, "growth_tracker": tracker, "hysteresis": scaler.cur_hysteresis}
        return {key: float(value) for key, value in state.items()}

    def load_scaler_state(self, values: Mapping[str, float]) -> None:
        scaler = self._loss_scaler
        if scaler is not None and values:
            scaler.cur_scale = values["scale"]
            scaler.last_overflow_iter, scaler.cur_iter = -1, int(values["growth_tracker"])
            scaler.cur_hysteresis = int(values.get("hysteresis", scaler.delayed_shift))

    def prepare_states(self, optimizer: Any) -> None:
        if self.engine is None or self.zero.stage < 3:
            step_in_place(optimizer)
            return
        self.staging = None
        for group, flat in enumerate(flat_masters(self.sharded)):
            members = optimizer.param_groups[self.sharded.sub_group_to_group_id[group]]
            members["params"] = [flat]  # ZeRO-3 leaves its optimizer without parameters between two steps
            with in_memory(self.sharded, group, writes=True):
                step_in_place(optimizer)
            members["params"] = []

    def flats(self) -> list[Flat]:
        """What is stepped, with its states: views of it, or the copies of what lies on a disk."""
        return self._staged().flats if self.zero.uses_disk else read_flats(self.sharded)

    def _staged(self) -> Staging:
        if self.staging is None:
            self.staging = Staging(read_flats(self.sharded))
        return self.staging

    def _frozen_partition(self, name: str, parameter: Any) -> Tensor:
        frozen = self._staged().frozen
        if name not in frozen:
            frozen[name] = (parameter, read_partition(parameter))
        return frozen[name][1]

    def _pieces(self) -> list[Piece]:
        assert self.network is not None
        return pieces(self.sharded, named(self.network))

    def _flat_state(self, flat: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.sharded.optimizer.state.get(flat, {})
        return state

    @property
    def _loss_scaler(self) -> Any:
        """DeepSpeed's, where it adapts its scale."""
        scaler = None if self.engine is None else getattr(self.sharded, "loss_scaler", None)
        return scaler if scaler is not None and scaler.dynamic else None
