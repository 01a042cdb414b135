"""The RNN reads images, sequences, values and tokens, starts well, and continues from its state."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distmlp.errors import ConfigError
from distmlp.model.rnn import RNN, RecurrentBlock

CELLS = ["elman", "gru", "lstm"]


def make(**settings: Any) -> RNN:
    torch.manual_seed(7)
    return RNN(**{"input_shape": (5, 4), "num_outputs": 3, "width": 6, **settings})


def make_for_tokens(**settings: Any) -> RNN:
    return make(**{"input_shape": (10,), "num_outputs": 11, "num_tokens": 11, **settings})


def recurrent(network: RNN) -> list[nn.RNNBase]:
    return [module for module in network.modules() if isinstance(module, nn.RNNBase)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_equal_torch_s_layers_one_on_the_other(cell: str, bidirectional: bool) -> None:
    network = make(cell=cell, num_layers=2, bidirectional=bidirectional)
    whole = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](
        4, 6, 2, batch_first=True, bidirectional=bidirectional
    )
    with torch.no_grad():
        for layer, own in enumerate(recurrent(network)):
            for name, weight in own.named_parameters():
                whole.get_parameter(name.replace("_l0", f"_l{layer}")).copy_(weight)
    x = torch.randn(2, 5, 4)
    output, last = whole(x)
    hidden = last[0] if cell == "lstm" else last
    summary = torch.cat([hidden[2], hidden[3]], 1) if bidirectional else hidden[1]
    torch.testing.assert_close(network(x), network.output(summary))
    network.pooling = "mean"
    torch.testing.assert_close(network(x), network.output(output.mean(1)))
    network.pooling = "max"
    torch.testing.assert_close(network(x), network.output(output.amax(1)))


def test_an_image_is_read_row_by_row_and_a_vector_value_by_value() -> None:
    image = torch.randn(2, 3, 5, 4)
    rows = torch.stack([image[:, :, row].reshape(2, 12) for row in range(5)], dim=1)
    assert torch.equal(make(input_shape=(3, 5, 4))(image), make(input_shape=(5, 12))(rows))
    vector = torch.randn(2, 7)
    assert torch.equal(make(input_shape=(7,))(vector), make(input_shape=(7, 1))(vector.reshape(2, 7, 1)))


@pytest.mark.parametrize("cell", CELLS)
def test_tokens_have_logits_at_every_position_and_see_no_later_token(cell: str) -> None:
    network = make_for_tokens(cell=cell, num_layers=2, embedding_width=4)
    assert isinstance(network.embedding, nn.Embedding)
    assert network.embedding.weight.shape == (11, 4)
    tokens = torch.randint(0, 11, (2, 10))
    logits = network(tokens)
    assert logits.shape == (2, 10, 11)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 11
    assert torch.equal(network(changed)[:, :6], logits[:, :6])
    assert not torch.equal(network(changed)[:, 6:], logits[:, 6:])
    both = make_for_tokens(cell=cell, bidirectional=True)
    assert not torch.equal(both(changed)[:, :6], both(tokens)[:, :6])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pieces", [[1] * 10, [4, 1, 5]])
def test_a_state_continues_as_if_all_had_been_read_at_once(cell: str, pieces: list[int]) -> None:
    network = make_for_tokens(cell=cell, num_layers=2, dropout=0.5).eval()
    tokens = torch.randint(0, 11, (3, 10))
    with torch.no_grad():
        state = network.new_state(3, 10)
        parts = [network(part, state) for part in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), network(tokens), atol=1e-6, rtol=1e-5)
        assert not torch.allclose(network(tokens[:, :1], state), parts[0][:, :1])
    assert network.max_positions is None


def test_states_are_apart_and_need_one_direction() -> None:
    network = make_for_tokens().eval()
    tokens = torch.randint(0, 11, (3, 4))
    with torch.no_grad():
        first = network(tokens, network.new_state(3, 4))
        assert torch.equal(network(tokens, network.new_state(3, 4)), first)
    both = make_for_tokens(bidirectional=True)
    with pytest.raises(AssertionError):
        both(tokens, both.new_state(3, 4))


def test_dropout_lies_between_layers_and_before_the_output() -> None:
    network = make(num_layers=2, dropout=0.5)
    x = torch.randn(2, 5, 4)
    first, second = network.blocks
    assert torch.equal(first(x), first(x))  # inputs of the network are whole
    assert not torch.equal(second(first(x)), second(first(x)))
    alone = make(dropout=0.5)
    assert not torch.equal(alone(x), alone(x))
    assert torch.equal(alone.eval()(x), make().eval()(x))


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_matrices_start_orthogonal_and_only_the_forget_gate_is_open(cell: str) -> None:
    (layer,) = recurrent(make(cell=cell, width=16))
    for gate in layer.weight_hh_l0.split(16):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
    bound = (6 / (4 + 16)) ** 0.5
    assert 0.9 * bound < layer.weight_ih_l0.abs().max().item() <= bound
    gates = (layer.bias_ih_l0 + layer.bias_hh_l0).split(16)
    assert [gate.unique().tolist() for gate in gates] == (
        [[0.0], [1.0], [0.0], [0.0]] if cell == "lstm" else [[0.0]] * len(gates)
    )


@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_learns(cell: str) -> None:
    network = make_for_tokens(cell=cell, num_layers=2, bidirectional=True)
    tokens = torch.arange(11).expand(2, 11)
    F.cross_entropy(network(tokens).flatten(0, 1), torch.randint(0, 11, (22,))).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_blocks_are_one_layer_each_and_map_sequences_to_sequences() -> None:
    network = make(num_layers=3, bidirectional=True)
    assert len(network.blocks) == 3
    assert [block(torch.randn(2, 5, n)).shape for block, n in zip(network.blocks, (4, 12, 12), strict=True)] == [
        (2, 5, 12)
    ] * 3
    assert all(isinstance(block, RecurrentBlock) for block in network.blocks)


def test_builds_on_the_meta_device_takes_an_empty_batch_and_bfloat16_autocast() -> None:
    with torch.device("meta"):
        assert make_for_tokens(num_layers=2)(torch.zeros(2, 10, dtype=torch.int64)).shape == (2, 10, 11)
    assert make()(torch.empty(0, 5, 4)).shape == (0, 3)
    network, tokens = make_for_tokens().eval(), torch.randint(0, 11, (2, 10))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = network.new_state(2, 10)
        logits = torch.cat([network(part, state) for part in tokens.split(5, dim=1)], 1)
    torch.testing.assert_close(logits.float(), network(tokens), atol=0.02, rtol=0.05)


@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5)])
def test_samples_that_are_no_sequence_are_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"^model=rnn takes images .* samples of shape \(.*\): use model=mlp$"
    ) as caught:
        make(input_shape=shape)
    assert "\n" not in str(caught.value)
