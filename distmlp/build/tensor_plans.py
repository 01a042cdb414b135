"""How the layers of our networks are split over ranks: the one place that knows both networks and tensor parallelism.

A pair of layers is split by columns, then by rows (Shoeybi et al., "Megatron-LM", 2019), so that the pair costs one
all-reduce: in a Transformer attention by heads, and the feed-forward network; in a multi-layer perceptron, two
consecutive layers. Norms, positions and what is tied are whole on every rank.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from distmlp.errors import ConfigError
from distmlp.model.mlp import MLP
from distmlp.model.transformer import Block

HEADS = 1  # the dimension of heads in queries (N, heads, T, head_width)


def split_layers(network: nn.Module, mesh: DeviceMesh) -> None:
    """Splits the layers of ``network`` over the ranks of ``mesh``, in place, if `check_layers` passed them."""
    if isinstance(network, MLP):
        for layer, style in _mlp_plan(network):
            parallelize_module(layer, mesh, style)
        return
    for block in network.modules():
        if isinstance(block, Block):
            parallelize_module(block, mesh, _block_plan(block))
    _split_vocabulary(network, mesh)


def check_layers(network: nn.Module, tensor_size: int) -> None:
    """Ends with a `ConfigError` where a default width of ``network`` cannot be split into equal parts."""
    for block in network.modules():
        if isinstance(block, Block) and block.mlp.up.out_features % tensor_size:
            raise ConfigError(
                f"model.mlp_width is {block.mlp.up.out_features} by default, which strategy.tensor_size={tensor_size} "
                "does not divide: give a model.mlp_width that it divides, or use strategy=fsdp2"
            )


def _block_plan(block: Block) -> dict[str, ParallelStyle]:
    whole = Replicate()
    plan: dict[str, ParallelStyle] = {
        # Here rather than at each layer: one all-reduce of gradients for query, key and value together.
        "attention": PrepareModuleInput(
            input_layouts=(whole, None, None), desired_input_layouts=(whole, None, None), use_local_output=False
        ),
        "attention.query": ColwiseParallel(),
        "attention.key": ColwiseParallel(),
        "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(),
        "mlp": PrepareModuleInput(input_layouts=(whole,), desired_input_layouts=(whole,), use_local_output=False),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(),
    }
    if block.mlp.gate is not None:
        plan["mlp.gate"] = ColwiseParallel()
    if block.attention.query_norm is not None:
        for name in ("attention.query_norm", "attention.key_norm"):
            plan[name] = SequenceParallel(sequence_dim=HEADS, use_local_output=True)
    return plan


def _split_vocabulary(network: nn.Module, mesh: DeviceMesh) -> None:
    """Embedding and output layer of a gpt, where they are not one and the vocabulary can be divided."""
    embedding, output = getattr(network, "token_embedding", None), getattr(network, "output", None)
    if not (isinstance(embedding, nn.Embedding) and isinstance(output, nn.Linear)):
        return
    if embedding.num_embeddings % mesh.size() or output.out_features % mesh.size():
        return
    parallelize_module(embedding, mesh, RowwiseParallel(input_layouts=Replicate()))
    parallelize_module(output, mesh, ColwiseParallel(output_layouts=Replicate()))


def _mlp_plan(network: MLP) -> list[tuple[nn.Module, ParallelStyle]]:
    """Pairs of layers by columns and rows; a layer that has no partner by columns, its outputs gathered."""
    plan: list[tuple[nn.Module, ParallelStyle]] = []
    layers = [*(block[0] for block in network.blocks), network.output]  # type: ignore[index]
    position = 0
    while position < len(network.blocks):
        if _is_elementwise(network.blocks[position]):
            plan += [(layers[position], ColwiseParallel()), (layers[position + 1], RowwiseParallel())]
            position += 2
        else:
            plan.append((layers[position], ColwiseParallel(output_layouts=Replicate())))
            position += 1
    return plan


def _is_elementwise(block: nn.Module) -> bool:
    """Whether what follows the layer in its block can work on a part of its outputs: no norm, no addition of inputs."""
    if type(block) is not nn.Sequential:
        return False
    return not any(isinstance(module, (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d)) for module in block)
