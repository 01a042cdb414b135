"""The MLP is the network one would write by hand, and refuses what it cannot be."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from distmlp.errors import ConfigError
from distmlp.model.activations import ACTIVATIONS
from distmlp.model.mlp import MLP, NORMS


def make(**settings: Any) -> MLP:
    torch.manual_seed(7)
    return MLP(**{"input_shape": (6,), "num_outputs": 3, **settings})


def linears(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def test_weights_and_logits_equal_a_hand_written_sequential_bit_for_bit() -> None:
    network = make(input_shape=(1, 28, 28), num_outputs=10)
    torch.manual_seed(7)
    by_hand = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    state_after = torch.get_rng_state()
    for own, reference in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(own, reference)
    x = torch.rand(5, 1, 28, 28)
    assert torch.equal(network(x), by_hand(x.flatten(1)))
    make(input_shape=(1, 28, 28), num_outputs=10)
    assert torch.equal(torch.get_rng_state(), state_after)  # no draw beside nn.Linear's own


def test_each_hidden_layer_is_a_block_and_a_plain_one_runs_nothing_but_its_two_modules() -> None:
    network = make(hidden=(8, 4))
    called: list[type[nn.Module]] = []
    for module in network.modules():
        module.register_forward_hook(lambda module, *_: called.append(type(module)))
    network(torch.rand(2, 6))
    assert called == [*2 * [nn.Linear, nn.ReLU, nn.Sequential], nn.Linear, MLP]
    assert list(network.state_dict()) == [
        *("blocks.0.0.weight", "blocks.0.0.bias", "blocks.1.0.weight", "blocks.1.0.bias"),
        *("output.weight", "output.bias"),
    ]


def test_layer_order_is_linear_norm_activation_dropout() -> None:
    network = make(hidden=[8], norm="rms", activation="gelu", dropout=0.25)
    (layer,) = network.blocks
    assert isinstance(layer, nn.Sequential)
    assert [type(m) for m in layer] == [nn.Linear, nn.RMSNorm, nn.GELU, nn.Dropout]
    assert layer[3].p == 0.25


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_applied(activation: str) -> None:
    network = make(hidden=[8], activation=activation)
    first, last = linears(network)
    x = torch.randn(4, 6)
    function = {
        "relu": torch.relu,
        "gelu": nn.functional.gelu,
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "leaky_relu": nn.functional.leaky_relu,
        "identity": lambda value: value,
    }[activation]
    assert torch.equal(network(x), last(function(first(x))))


@pytest.mark.parametrize(("norm", "kind"), [("layer", nn.LayerNorm), ("batch", nn.BatchNorm1d), ("rms", nn.RMSNorm)])
def test_norm_normalises_each_hidden_layer(norm: str, kind: type[nn.Module]) -> None:
    network = make(hidden=[8, 5], norm=norm)
    norms = [module for module in network.modules() if isinstance(module, kind)]
    assert [module.weight.shape for module in norms] == [(8,), (5,)]  # type: ignore[union-attr]
    normed = norms[0](linears(network)[0](100.0 * torch.randn(64, 6)))
    assert normed.square().mean().item() == pytest.approx(1.0, abs=0.02)


def test_residual_adds_the_input_where_widths_are_equal() -> None:
    network = make(hidden=(8, 8, 4), residual=True)
    one, two, three, four = linears(network)
    x = torch.randn(5, 6)
    first = torch.relu(one(x))
    second = first + torch.relu(two(first))
    assert torch.equal(network(x), four(torch.relu(three(second))))


def test_dropout_acts_in_training_only() -> None:
    network = make(hidden=(64,), dropout=0.5)
    x = torch.randn(4, 6)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("init", "bound"),
    [("glorot", math.sqrt(6 / (400 + 300))), ("he", math.sqrt(6 / 400)), ("torch", 1 / math.sqrt(400))],
)
def test_init_is_uniform_within_the_paper_s_bound(init: str, bound: float) -> None:
    weight = linears(make(input_shape=(20, 20), hidden=[300], init=init))[0].weight
    assert weight.abs().max().item() <= bound
    assert weight.abs().max().item() > 0.999 * bound
    assert weight.mean().item() == pytest.approx(0.0, abs=0.01 * bound)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_zero_bias_zeroes_every_linear_bias_and_no_weight() -> None:
    for layer in linears(make(hidden=(8, 8), zero_bias=True, residual=True)):
        assert not layer.bias.any()
        assert layer.weight.all()
    assert all(layer.bias.all() for layer in linears(make(hidden=(8, 8))))


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_learns(norm: str) -> None:
    network = make(hidden=(8, 8), norm=norm, residual=True)
    nn.functional.cross_entropy(network(torch.randn(16, 6)), torch.randint(0, 3, (16,))).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_no_hidden_layer_scalar_samples_and_an_empty_batch() -> None:
    linear = make(hidden=())
    x = torch.randn(4, 6)
    assert torch.equal(linear(x), nn.functional.linear(x, linear.output.weight, linear.output.bias))
    assert make(input_shape=())(torch.randn(4)).shape == (4, 3)
    assert make(input_shape=(2, 3))(torch.randn(0, 2, 3)).shape == (0, 3)


def test_a_sample_of_another_size_is_not_silently_reshaped() -> None:
    with pytest.raises(RuntimeError, match="invalid for input of size 24"):
        make()(torch.randn(2, 12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"activation": "rulu"},
            r"^model\.activation=rulu is unknown: did you mean relu\? \(valid: relu, gelu, silu, ",
        ),
        ({"activation": "%%%"}, r"^model\.activation=%%% is unknown \(valid: relu, "),
        (
            {"norm": "layers"},
            r"^model\.norm=layers is unknown: did you mean layer\? \(valid: none, layer, batch, rms\)$",
        ),
        ({"init": "xavier"}, r"^model\.init=xavier is unknown \(valid: torch, glorot, he\)$"),
        ({"hidden": [8, 0]}, r"^model\.hidden=\[8, 0\]: 0 must be a whole number of at least 1$"),
        ({"hidden": [8.5]}, r"^model\.hidden=\[8\.5\]: 8\.5 must be a whole number"),
        ({"hidden": 128}, r"^model\.hidden=128 must be a list of widths: model\.hidden=\[128\]$"),
        ({"num_outputs": 0}, r"^number of outputs=\[0\]: 0 must be"),
        ({"input_shape": (28, 0)}, r"^input shape=\[28, 0\]: 0 must be"),
        ({"dropout": 1.0}, r"^model\.dropout=1\.0 must be at least 0 and less than 1$"),
        ({"dropout": -0.1}, r"^model\.dropout=-0\.1 must be"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)
