"""What a rank holds under DeepSpeed: its optimizer steps flat tensors, of which parameters are pieces."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from distmlp.errors import ConfigError
from distmlp.shards import Place, Shard
from distmlp.strategy.deepspeed_config import ZeroOptions
from distmlp.strategy.deepspeed_places import Piece, flat_masters, named, partition_memory, partition_place, pieces
from distmlp.strategy.held import Held
from distmlp.strategy.optimizer_states import number_states, set_numbers, step_in_place, tensor_states


class HeldByDeepSpeed(Held):
    """A mixin of the strategy. Until there is an engine, it holds what any replica holds."""

    engine: Any
    sharded: Any
    zero: ZeroOptions

    def part_of(self, name: str, tensor: Tensor) -> tuple[Place, Tensor]:
        if not hasattr(tensor, "ds_tensor"):  # frozen under ZeRO-1 and -2, or a buffer
            return super().part_of(name, tensor)
        place = partition_place(self.sharded, name, tensor)
        return place, partition_memory(place, tensor)

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
        flats = self._flats()
        for piece in self._pieces():
            flat = flats[piece.group]
            yield Shard("weights", piece.place, piece.of(flat))
            for key, state in tensor_states(flat, self._flat_state(flat)).items():
                yield Shard(f"optimizer/{key}", piece.place, piece.of(state))

    def scalars(self) -> dict[str, dict[str, float]]:
        if self.engine is None:
            return super().scalars()
        numbers = [number_states(flat, self._flat_state(flat)) for flat in self._flats()]
        held = [piece for piece in self._pieces() if piece.place.part.num_elements]
        return {piece.place.name: numbers[piece.group] for piece in held if numbers[piece.group]}

    def load_scalars(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Parameters that share a flat tensor share its numbers: the last one's stay."""
        if self.engine is None:
            super().load_scalars(values)
            return
        flats = self._flats()
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
        for group, flat in enumerate(self._flats()):
            members = optimizer.param_groups[self.sharded.sub_group_to_group_id[group]]
            members["params"] = [flat]  # ZeRO-3 leaves its optimizer without parameters between two steps
            step_in_place(optimizer)
            members["params"] = []

    def _flats(self) -> list[Tensor]:
        """The tensors that are stepped. Raises a `ConfigError` where they are not in memory."""
        if self.zero.uses_disk:
            raise ConfigError(
                "no checkpoint can be written or read under strategy=deepspeed_zero3_nvme, whose weights and optimizer "
                "states lie on the disk between two steps: use strategy=deepspeed_zero3_offload"
            )
        return flat_masters(self.sharded)

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
