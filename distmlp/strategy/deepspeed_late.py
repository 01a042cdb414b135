"""ZeRO-1 and 2 with gradients that add up on each rank alone, and are reduced once it is known that all fitted."""

from contextlib import AbstractContextManager
from typing import Any


class LateExchange:
    """One step of an ``engine``, from its first micro-batch to `exchange` or `abandon`.

    Forward passes of these stages need no other rank. ZeRO-2 holds a whole gradient in the meantime.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.sharded = engine.optimizer
        # Mixed precision under ZeRO-1 has an optimizer of its own, which adds up in 32 bits by itself.
        self.is_bf16 = not hasattr(self.sharded, "_coalesce_grad_reduction")
        if not self.is_bf16:  # ZeRO-2 would add up in 16 bits what it does not reduce at once
            self.sharded.use_grad_accum_attribute = self.sharded.use_separate_grad_accum
        self.block: AbstractContextManager[None] = (
            engine.no_sync() if self.is_bf16 else engine.coalesce_grad_reduction()
        )
        self.block.__enter__()

    def exchange(self) -> None:
        """Reduces what has added up."""
        self.block.__exit__(None, None, None)
        if self.is_bf16:
            self.engine.set_gradient_accumulation_boundary(True)
            self.engine.allreduce_gradients()

    def abandon(self) -> None:
        """Forgets it."""
        if self.is_bf16:
            self.sharded.clear_hp_grads()
            self.sharded.clear_lp_grads(set_to_none=True)
        else:
            self.sharded.zero_grad()
        self.sharded._backward_active_depth = 0  # a backward pass that broke off left it where it was
        self.block.__exit__(None, None, None)  # nothing is left to reduce
