"""trainer.micro_batch_size=auto: as large as fits into memory, found while the run goes on.

The first micro-batch is all of a rank's share. When any rank runs out of memory, all ranks agree that the step does not
count, halve the size, and take the very same step again. Since the loss is normalised over the global batch, the run's
numbers do not depend on the size.

A rank that ran out must not leave the others waiting in a collective. Either it takes part in what is left of the
step's communication; or, where an exchange that has begun cannot be taken back, gradients are exchanged late: after
all ranks took their micro-batches.

Ranks ask each other once a step, which a size that is given spares them.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from distmlp.data.loader import Share, share_bounds
from distmlp.errors import ConfigError
from distmlp.log import log
from distmlp.strategy.collectives import Pass, Passes
from distmlp.strategy.snapshot import snapshot, without_trace

T = TypeVar("T")
PASSES_UNTIL_STEADY = 3  # DistributedDataParallel settles its buckets in the second
CPU_MESSAGES = ("can't allocate memory", "not enough memory")  # of torch's allocator, which raises a RuntimeError


class AutoMicroBatch:
    """Takes steps with the largest micro-batch that fits, for a strategy that can take a step back."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.largest = 1  # samples of the largest share so far
        self.passes: Passes | None = None  # what they communicate; None: not known
        self.recorded: Callable[[], nn.Module | None] = lambda: None  # of what, held weakly: DDP must let go of it
        self.is_ready = False  # passes have settled

    def run(self, strategy: Any, share: Share, probe: Callable[[int], object], take: Callable[[int], T]) -> T:
        """The result of ``take(size)``, with a size that fits on every rank.

        Args:
            strategy: of `distmlp.strategy`.
            share: this rank's of the step.
            probe: one pass over so many samples, with weight 0.
            take: adds up the gradients of the step.

        Raises:
            ConfigError: not even one sample fits.
        """
        self.largest = max(self.largest, share.largest)
        while True:
            size = min(self.size or share.largest, share.largest)
            undo = snapshot(strategy)
            attempt = self._exchanging_late if strategy.exchanges_late else self._replaying
            result = attempt(strategy, share, size, probe, take)
            if result is not None:
                return result
            strategy.abandon_pass()
            undo()
            self._halve(size, strategy)

    def _replaying(
        self, strategy: Any, share: Share, size: int, probe: Callable[[int], object], take: Callable[[int], T]
    ) -> T | None:
        """``take(size)``; None where a rank ran out of memory, and took part in what the others communicate."""
        if not self.is_ready:
            with without_trace(strategy):
                self._make_ready(strategy, probe)
        assert self.passes is not None
        parts = share.parts(size) if strategy.syncs_each_micro_batch else share.parts(size)[-1:]
        progress = Pass([each for part, _ in parts for each in self.passes.over(part.stop - part.start)])
        result = _attempt(strategy, size, take)
        if result is None:
            progress.issue_rest()
        return None if strategy.any_rank(result is None) else result

    def _make_ready(self, strategy: Any, probe: Callable[[int], object]) -> None:
        """Lets passes settle, which also clears what one that broke off left behind, and records them where needed."""
        few = _few(strategy)
        for _ in range(PASSES_UNTIL_STEADY - 1):
            probe(few)
        if self.recorded() is not strategy.run:  # DDP makes it anew when it takes a step back
            self.passes, self.recorded = Passes(probe, few, strategy.exchanges_activations), weakref.ref(strategy.run)
        strategy.forget_gradients()
        self.is_ready = True

    def _exchanging_late(
        self, strategy: Any, share: Share, size: int, probe: Callable[[int], object], take: Callable[[int], T]
    ) -> T | None:
        """``take(size)`` and an exchange once it fitted on every rank; None where it did not, before any was begun."""
        with without_trace(strategy):
            strategy.hold_exchange(lambda: probe(_few(strategy)))
        result = _attempt(strategy, size, take)
        if strategy.any_rank(result is None):
            return None
        with without_trace(strategy):
            strategy.exchange(lambda: probe(_few(strategy)))
        return result

    def parts(self, num_samples: int) -> list[slice]:
        """What fits of an evaluation's batch, which has as many samples as a share: as many parts on every rank.

        Where a rank has fewer samples than parts, parts are empty.
        """
        number = 1 if self.size is None else -(-self.largest // self.size)
        return [slice(*share_bounds(num_samples, index, number)) for index in range(number)]

    def _halve(self, size: int, strategy: Any) -> None:
        if size == 1:
            raise ConfigError(
                "trainer.micro_batch_size=auto: one sample at a time does not fit into memory: use "
                "model.activation_checkpointing=true, or a strategy that shards more, as fsdp2"
            )
        self.size = size // 2
        self.is_ready = False
        _free(strategy.device)
        log.warning("out of memory with micro-batches of %d samples: going on with %d", size, self.size)


def _attempt(strategy: Any, size: int, take: Callable[[int], T]) -> T | None:
    """``take(size)``; None where it ran out of memory."""
    try:
        return take(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Out of the clause above, which held the traceback, and with it what the pass had allocated.
    _free(strategy.device)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device or the host has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in CPU_MESSAGES)


def _few(strategy: Any) -> int:
    """Samples of a pass that is taken for its communication: batch norms refuse a single one."""
    return 2 if strategy.statistics() else 1


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
