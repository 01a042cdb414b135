"""What each layer of a network costs: parameters, FLOPs and the activations that the backward pass needs.

Measured on the meta device, where tensors have shapes and no memory: GPT-3 175B takes seconds on a laptop. Nothing here
knows a particular layer: operations are counted as they run, so a network of the user's own is measured like ours.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from distmlp.model.blocks import BATCH_NORMS

_FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class LayerCost:
    """One row of the table. Numbers are of one of ``repeats`` identical layers, parts included, and of one sample.

    Args:
        name: dotted name in the network, e.g. ``blocks.0``; of the first layer where there are ``repeats``. The last
            row, ``(own)``, is what the network does outside its layers, such as an output layer with tied weights.
        kind: name of the class.
        output_shape: shape of what it returns, without the batch; None where it is never called as a module.
        num_parameters: a tied weight counts where it is registered first.
        num_trainable: those of the parameters that are trained.
        flops: of one forward pass, a multiplication and an addition being two. Matrix products, convolutions and
            attention count; what is done element by element does not, as is usual. Causal attention counts as the
            whole square, as torch counts it.
        activation_bytes: kept for the backward pass, in the network's own dtype. A storage counts once, in the layer
            that saves it first; parameters and buffers do not count.
        depth: 0, or 1 for a part of the layer above.
        repeats: how many identical layers the row stands for, one after the other. Parts are of one of them.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    num_parameters: int
    num_trainable: int
    flops: int
    activation_bytes: int
    depth: int = 0
    repeats: int = 1

    @property
    def is_free(self) -> bool:
        """Whether it costs nothing, as dropout of 0 does."""
        return not (self.num_parameters or self.flops or self.activation_bytes)


def measure(network: nn.Module, inputs: Tensor) -> list[LayerCost]:
    """The costs of a network's layers in the order in which they run, each followed by its parts.

    Rows of depth 0, times their repeats, add up to the whole network. The network's mode is left as it is: in training
    mode dropout and batch statistics count.

    Activations are what torch keeps on a CPU, byte for byte, with two exceptions. Attention counts as the fused kernels
    do it, which keep no square of scores, though with dropout in attention the CPU has none. Recurrent layers count as
    plain operations, though oneDNN's LSTM keeps a workspace instead of the gates, and a layer that reads in both
    directions copies its input for each.

    Args:
        network: on the meta device: build it under ``torch.device("meta")``. Where activation checkpointing is on, a
            block shows what is left to keep: its input.
        inputs: (N, *input_shape) on the meta device.
    """
    assert inputs.is_meta, "networks are measured on the meta device"
    if len(inputs) == 1 and any(isinstance(module, BATCH_NORMS) for module in network.modules()):
        inputs = torch.cat((inputs, inputs))  # one vector has no batch statistics, and torch refuses it
    with torch.enable_grad(), FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter:
        run = _Run(network, counter, num_samples=len(inputs))
        with run.watched(), saved_tensors_hooks(run.save, lambda tensor: tensor), _FusedAttention():
            network(inputs)
    return _rows(network, run.costs())


class _FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels do it: on the meta device torch would keep the square of scores."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # told by the shapes
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)  # the kernels want numbers, and that is what is kept
    attended = _FUSED_ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    output: Tensor = attended[0]
    return output


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Queries by keys and scores by values, from shapes (N, heads, T, head_width)."""
    num_sequences, num_heads, length, width = query
    return 2 * num_sequences * num_heads * length * key[2] * (width + value[3])


_FLOPS = {_FUSED_ATTENTION: _attention_flops}


class _Run:
    """What is seen while the network runs. A layer's share is the difference between its end and its start."""

    def __init__(self, network: nn.Module, counter: FlopCounterMode, num_samples: int) -> None:
        self._modules = dict(network.named_modules())
        self._counter = counter
        self._num_samples = num_samples
        # Storages are held, so that none gets the address of an earlier one.
        self._known = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in _own_tensors(network)}
        self._saved_bytes = 0
        self._starts: list[tuple[int, int]] = []
        self._flops: dict[str, int] = defaultdict(int)  # filled at the start of a layer: in the order in which they run
        self._bytes: dict[str, int] = defaultdict(int)
        self._shapes: dict[str, tuple[int, ...]] = {}

    def save(self, tensor: Tensor) -> Tensor:
        """Autograd calls it with each tensor that it keeps."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage
            self._saved_bytes += storage.nbytes()
        return tensor

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it, each module reports when it starts and ends."""
        hooks = []
        for name, module in self._modules.items():
            hooks.append(module.register_forward_pre_hook(partial(self._start, name)))
            hooks.append(module.register_forward_hook(partial(self._end, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _start(self, name: str, module: nn.Module, inputs: Any) -> None:
        self._flops[name] += 0
        self._starts.append((self._counter.get_total_flops(), self._saved_bytes))

    def _end(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        flops, saved_bytes = self._starts.pop()
        self._flops[name] += self._counter.get_total_flops() - flops
        self._bytes[name] += self._saved_bytes - saved_bytes
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            has_batch = first.shape[:1] == (self._num_samples,)  # position embeddings have none
            self._shapes[name] = tuple(first.shape[1:] if has_batch else first.shape)

    def costs(self) -> dict[str, LayerCost]:
        """Costs of every module by its name, those that ran first and in their order."""
        parameters, trainable = _parameter_counts(self._modules[""])
        return {
            name: LayerCost(
                name,
                type(self._modules[name]).__name__,
                self._shapes.get(name),
                parameters[name],
                trainable[name],
                self._flops.get(name, 0) // self._num_samples,
                self._bytes.get(name, 0) // self._num_samples,
            )
            for name in dict.fromkeys([*self._flops, *self._modules])
        }


def _own_tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _parameter_counts(network: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters, and trainable ones, of every module and all its parts."""
    parameters: dict[str, int] = defaultdict(int)
    trainable: dict[str, int] = defaultdict(int)
    for name, parameter in network.named_parameters():
        while name:
            name = name.rpartition(".")[0]
            parameters[name] += parameter.numel()
            trainable[name] += parameter.numel() * parameter.requires_grad
    return parameters, trainable


def _rows(network: nn.Module, costs: dict[str, LayerCost]) -> list[LayerCost]:
    layers = [
        [costs[name], *(replace(costs[part], depth=1) for part in _children(module, name, costs))]
        for name, module in _children(network, "", costs).items()
    ]
    rows: list[LayerCost] = []
    for _, alike in groupby(layers, _likeness):
        (first, *parts), *others = alike
        rows.append(replace(first, repeats=1 + len(others)))
        rows.extend(part for part in parts if not part.is_free)
    own = _own_cost(costs[""], rows)
    return rows if own.is_free else [*rows, own]


def _children(module: nn.Module, prefix: str, costs: dict[str, LayerCost]) -> dict[str, nn.Module]:
    """Names and modules of the layers right below ``module``, in the order of ``costs``.

    Containers are passed through, but for a sequence in a list: that is a block.
    """
    found: dict[str, nn.Module] = {}
    for child_name, child in module.named_children():
        name = f"{prefix}.{child_name}".lstrip(".")
        is_block = isinstance(module, nn.ModuleList) and isinstance(child, nn.Sequential)
        if type(child) in _CONTAINERS and not is_block:
            found |= _children(child, name, costs)
        elif name in costs:  # else it is shared, and stands under another name
            found[name] = child
    order = {name: position for position, name in enumerate(costs)}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _likeness(layer: list[LayerCost]) -> tuple[Any, ...]:
    """Equal for layers that may share a row: members of one container with the same parts and costs."""
    name = layer[0].name
    container, _, member = name.rpartition(".")
    return container, member.isdecimal() or member, [replace(row, name=row.name.removeprefix(name)) for row in layer]


def _own_cost(network: LayerCost, rows: list[LayerCost]) -> LayerCost:
    """What is left of the network's costs beside those of ``rows``."""
    layers = [row for row in rows if row.depth == 0]
    return replace(
        network,
        name="(own)",
        num_parameters=network.num_parameters - sum(row.repeats * row.num_parameters for row in layers),
        num_trainable=network.num_trainable - sum(row.repeats * row.num_trainable for row in layers),
        flops=network.flops - sum(row.repeats * row.flops for row in layers),
        activation_bytes=network.activation_bytes - sum(row.repeats * row.activation_bytes for row in layers),
    )
