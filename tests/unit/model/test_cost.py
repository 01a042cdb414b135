"""Costs on the meta device are those that hand calculation and a real forward pass give."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from distmlp.model.bert import BERT
from distmlp.model.blocks import prepare_blocks
from distmlp.model.cnn import CNN
from distmlp.model.cost import LayerCost, measure
from distmlp.model.gpt import GPT
from distmlp.model.mlp import MLP
from distmlp.model.resnet import ResNet
from distmlp.model.rnn import RNN
from distmlp.model.vit import ViT

LENGTH, VOCABULARY, WIDTH, LAYERS = 12, 50, 32, 3
TOKENS: dict[str, Any] = {"input_shape": (LENGTH,), "num_outputs": VOCABULARY}
SIZES: dict[str, Any] = {"num_layers": LAYERS, "num_heads": 4, "width": WIDTH}
IMAGES: dict[str, Any] = {"input_shape": (3, 8, 8), "num_outputs": 10}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(**IMAGES, hidden=[16, 16, 8], norm="layer", dropout=0.1, residual=True),
    "mlp with batch norm": lambda: MLP(**IMAGES, hidden=[16, 8], norm="batch", activation="gelu"),
    "cnn": lambda: CNN(**IMAGES, widths=[4, 8], dropout=0.1),
    "cnn with batch norm": lambda: CNN(**IMAGES, widths=[4, 8], norm="batch", pooling="max"),
    "resnet": lambda: ResNet(**IMAGES, depth=8),
    "gru": lambda: RNN(**TOKENS, num_tokens=VOCABULARY, cell="gru", width=16, num_layers=2),
    "elman": lambda: RNN(**IMAGES, cell="elman", width=16, num_layers=2, pooling="max"),
    "lstm": lambda: RNN(**TOKENS, num_tokens=VOCABULARY, cell="lstm", width=16, num_layers=2, dropout=0.1),
    "gpt": lambda: GPT(**TOKENS, **SIZES, dropout=0.1),
    "gpt with grouped queries": lambda: GPT(**TOKENS, **SIZES, num_kv_heads=2, tie_embeddings=False, qk_norm=True),
    "gpt with documents": lambda: GPT(**TOKENS, **SIZES, attend_across_documents=False, separator_id=3),
    "bert": lambda: BERT(**TOKENS, **SIZES, dropout=0.1),
    "vit": lambda: ViT(**IMAGES, **SIZES),
}


def measured(make: Callable[[], nn.Module], inputs: Tensor) -> list[LayerCost]:
    with torch.device("meta"):
        network = make().to(inputs.dtype) if inputs.is_floating_point() else make()
    return measure(network, inputs.to("meta"))


def total(rows: list[LayerCost], cost: str) -> int:
    return sum(row.repeats * int(getattr(row, cost)) for row in rows if row.depth == 0)


def kept_bytes(network: nn.Module, inputs: Tensor) -> int:
    """Bytes of the storages that autograd really keeps."""
    own = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Any] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        network(inputs)
    return sum(storage.nbytes() for storage in kept.values())


def tokens(num_samples: int = 1) -> Tensor:
    return torch.zeros(num_samples, LENGTH, dtype=torch.int64)


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_those_that_a_real_forward_pass_keeps(name: str) -> None:
    make = NETWORKS[name]
    inputs = tokens(2) if name.startswith(("gru", "lstm", "gpt", "bert")) else torch.rand(2, 3, 8, 8)
    # In float32 an LSTM on the CPU is oneDNN's, with a workspace of its own.
    dtype = torch.float64 if name == "lstm" else torch.float32
    network = make().to(dtype)
    with torch.device("meta"):
        rows = measure(make().to(dtype), inputs.to("meta"))
    assert total(rows, "activation_bytes") == kept_bytes(network, inputs) // 2
    assert total(rows, "num_parameters") == sum(parameter.numel() for parameter in network.parameters())


def test_a_perceptron_costs_what_its_matrices_cost() -> None:
    rows = measured(lambda: MLP(input_shape=(20,), num_outputs=5, hidden=[30, 10]), torch.rand(1, 20))
    first, linear, *_ = rows
    assert (linear.name, linear.kind, linear.output_shape, linear.depth) == ("blocks.0.0", "Linear", (30,), 1)
    assert (linear.flops, linear.num_parameters, linear.activation_bytes) == (2 * 20 * 30, 20 * 30 + 30, 20 * 4)
    assert first.activation_bytes == 20 * 4 + 30 * 4
    assert total(rows, "flops") == 2 * (20 * 30 + 30 * 10 + 10 * 5)
    assert total(rows, "activation_bytes") == 4 * (20 + 30 + 10)


def test_costs_are_of_one_sample_whatever_the_batch() -> None:
    one, three = (measured(NETWORKS["gpt"], tokens(number)) for number in (1, 3))
    assert total(one, "flops") == total(three, "flops")
    assert [row.output_shape for row in one] == [row.output_shape for row in three]


def test_one_sample_is_enough_for_batch_norm() -> None:
    one, two = (measured(NETWORKS["mlp with batch norm"], torch.rand(number, 3, 8, 8)) for number in (1, 2))
    assert one == two


def test_a_convolution_costs_its_kernel_at_every_pixel() -> None:
    [row] = measured(lambda: nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2)), torch.rand(1, 3, 16, 16))
    assert row.output_shape == (8, 8, 8)
    assert row.flops == 2 * 8 * 8 * 8 * (3 * 5 * 5)
    assert row.activation_bytes == 3 * 16 * 16 * 4


def test_a_transformer_costs_two_flops_a_weight_and_token_and_the_square_of_attention() -> None:
    rows = measured(NETWORKS["gpt"], tokens())
    [block] = [row for row in rows if row.kind == "Block"]
    norms = 2 * WIDTH
    attention = 2 * 2 * LENGTH**2 * WIDTH  # queries by keys, scores by values, the whole square of them
    assert block.repeats == LAYERS
    assert block.flops == 2 * LENGTH * (block.num_parameters - norms) + attention
    assert rows[-1].name == "(own)"
    assert rows[-1].flops == 2 * LENGTH * WIDTH * VOCABULARY  # the output layer, whose weights the embedding counts
    assert rows[-1].num_parameters == 0


@pytest.mark.parametrize(("cell", "num_gates"), [("lstm", 4), ("gru", 3), ("elman", 1)])
def test_a_recurrent_layer_costs_its_gates_at_every_step(cell: str, num_gates: int) -> None:
    rows = measured(lambda: RNN(**IMAGES, cell=cell, width=16), torch.rand(1, 3, 8, 8))
    [layer] = [row for row in rows if row.name == "blocks.0.recurrent"]
    assert layer.output_shape == (8, 16)
    assert layer.flops == 2 * 8 * num_gates * 16 * (3 * 8 + 16)


def test_identical_blocks_share_a_row_and_different_ones_do_not() -> None:
    rows = measured(lambda: MLP(input_shape=(8,), num_outputs=2, hidden=[8, 8, 8, 4, 4, 4]), torch.rand(1, 8))
    assert [(row.name, row.repeats) for row in rows if row.depth == 0] == [
        ("blocks.0", 1),  # it keeps the sample; the others find what they are given kept already
        ("blocks.1", 2),
        ("blocks.3", 1),
        ("blocks.4", 2),
        ("output", 1),
    ]
    assert [row.name for row in rows if row.name.startswith("blocks.1")] == ["blocks.1", "blocks.1.0", "blocks.1.1"]


def test_a_checkpointed_block_keeps_its_input_only() -> None:
    def make() -> nn.Module:
        network = GPT(**TOKENS, **SIZES, dropout=0.1)
        prepare_blocks(network, activation_checkpointing=True, compile=False)
        return network

    rows, plain = measured(make, tokens()), measured(NETWORKS["gpt"], tokens())
    [block] = [row for row in rows if row.kind == "Block"]
    assert block.activation_bytes == LENGTH * WIDTH * 4
    assert total(rows, "flops") == total(plain, "flops")


def test_weights_in_half_precision_have_half_the_activations() -> None:
    rows = measured(NETWORKS["vit"], torch.rand(1, 3, 8, 8))
    half = measured(NETWORKS["vit"], torch.rand(1, 3, 8, 8).bfloat16())
    # Sums for attention and norms stay in float32.
    assert 0.5 < total(half, "activation_bytes") / total(rows, "activation_bytes") < 0.55


def test_frozen_weights_are_not_trainable_and_the_network_is_left_as_it_was() -> None:
    with torch.device("meta"):
        network = MLP(input_shape=(8,), num_outputs=2, hidden=[4]).eval()
    network.blocks.requires_grad_(False)
    rows = measure(network, torch.empty(1, 8, device="meta"))
    assert [(row.num_parameters, row.num_trainable) for row in rows if row.depth == 0] == [(36, 0), (10, 10)]
    assert not network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_layers_stand_in_the_order_in_which_they_run() -> None:
    names = [row.name for row in measured(NETWORKS["gpt"], tokens()) if row.depth == 0]
    assert names == ["token_embedding", "dropout", "blocks.0", "final_norm", "(own)"]
