"""Options that every network has, whatever it is made of: they work on its repeated units, ``network.blocks``.

Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016) keeps a block's inputs and
recomputes what lies inside when the backward pass needs it. Compilation fuses a block's operations; block by block it
takes a fraction of the time that the whole network would, as equal blocks share one result. Both replace a block's
``forward`` and nothing else: no module is wrapped, so the names of the weights stay what they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from distmlp.errors import ConfigError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Of one block: training and evaluation, each with full batches and ragged ones, and a state to continue from.
COMPILATIONS_PER_BLOCK = 8


def prepare_blocks(network: nn.Module, *, activation_checkpointing: bool, compile: bool) -> None:
    """Switches the options on, in place, for every module of ``network.blocks``.

    A block that is to be recomputed must not change anything outside itself in training, as it runs twice for each
    batch; running statistics of batch norms are taken care of.

    Raises:
        ConfigError: an option is on and the network has no list of blocks.
    """
    if not (activation_checkpointing or compile):
        return
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        option = "activation_checkpointing" if activation_checkpointing else "compile"
        raise ConfigError(
            f"model.{option}=true works on the modules in `blocks`, and {type(network).__name__} has none: give it "
            f"`self.blocks = nn.ModuleList([...])` of its repeated units, or set model.{option}=false"
        )
    if compile:
        _allow_compilations(COMPILATIONS_PER_BLOCK * len(blocks))
    for block in blocks:
        if activation_checkpointing:
            _replace_forward(block, _checkpointed(block))
        # Around the checkpoint, not inside: the compiler then sees what is recomputed, and updates statistics once.
        # Not `block.compile()`: it compiles the call with its hooks, and where the block is an `nn.Sequential` of
        # torch's own modules it compiles nothing, without a word.
        if compile:
            _replace_forward(block, torch.compile(block.forward))


def _replace_forward(block: nn.Module, forward: Callable[..., Any]) -> None:
    block.forward = forward  # type: ignore[method-assign, assignment, unused-ignore]


def _checkpointed(block: nn.Module) -> Callable[..., Any]:
    forward = block.forward
    norms = [module for module in block.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        if norms and not torch.compiler.is_compiling():
            kwargs["context_fn"] = partial(_contexts, norms)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return checkpointed


def _contexts(norms: Sequence[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the forward pass and the recomputation run in."""
    return nullcontext(), _frozen_statistics(norms)


@contextmanager
def _frozen_statistics(norms: Sequence[Any]) -> Iterator[None]:
    """Batch norms see the batch again without counting it again. A momentum of 0 leaves the averages as they are."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches


def _allow_compilations(number: int) -> None:
    """Torch counts the compilations of all blocks together, and beyond its limit runs the rest uncompiled."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, number)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, number)
