"""Checkpointing and compilation change memory and speed, and nothing that is learnt or saved."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.model.blocks import prepare_blocks
from distmlp.model.cnn import CNN
from distmlp.model.mlp import MLP
from distmlp.model.rnn import RNN

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(input_shape=(3, 8, 8), num_outputs=5, hidden=(16, 16, 16), dropout=0.3, residual=True),
    "mlp with batch norm": lambda: MLP(input_shape=(3, 8, 8), num_outputs=5, hidden=(16, 16), norm="batch"),
    "cnn": lambda: CNN(input_shape=(3, 8, 8), num_outputs=5, widths=(4, 6), dropout=0.3),
    "cnn with batch norm": lambda: CNN(input_shape=(3, 8, 8), num_outputs=5, widths=(4, 6), norm="batch"),
    "rnn": lambda: RNN(input_shape=(3, 8, 8), num_outputs=5, width=6, num_layers=3, dropout=0.3),
}


@pytest.fixture
def compiler() -> Iterator[None]:
    """A fresh compiler with torch's own limits, which come back afterwards."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    torch._dynamo.reset()


def make(name: str, **options: bool) -> nn.Module:
    torch.manual_seed(7)
    network = NETWORKS[name]()
    prepare_blocks(network, **{"activation_checkpointing": False, "compile": False, **options})
    return network


def train(network: nn.Module, num_steps: int = 2) -> list[Tensor]:
    """Gradients of a few steps, added up."""
    torch.manual_seed(3)
    for _ in range(num_steps):
        network(torch.randn(6, 3, 8, 8)).square().mean().backward()
    gradients = [weight.grad for weight in network.parameters()]
    return [gradient for gradient in gradients if gradient is not None]


def saved_bytes(network: nn.Module, num_samples: int = 64) -> int:
    """What a forward pass keeps for the backward pass, beside the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(torch.randn(num_samples, 3, 8, 8))
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_changes_no_bit_of_gradients_and_statistics(name: str) -> None:
    plain, checkpointed = make(name), make(name, activation_checkpointing=True)
    for expected, found in zip(train(plain), train(checkpointed), strict=True):
        assert torch.equal(expected, found)
    expected_state, state = plain.state_dict(), checkpointed.state_dict()
    assert list(state) == list(expected_state)
    assert all(torch.equal(state[key], value) for key, value in expected_state.items())


@pytest.mark.parametrize("name", ["mlp", "cnn", "rnn"])
def test_checkpointing_keeps_less(name: str) -> None:
    less, more = saved_bytes(make(name, activation_checkpointing=True)), saved_bytes(make(name))
    assert 0 < less < 0.75 * more


def test_a_block_runs_again_only_for_a_backward_pass() -> None:
    network = make("mlp", activation_checkpointing=True)
    runs = []
    for block in network.blocks:
        block[0].register_forward_hook(lambda *_: runs.append(1))
    train(network, num_steps=1)
    assert len(runs) == 6
    network.eval()
    train(network, num_steps=1)
    assert len(runs) == 9
    with torch.no_grad():
        network.train()(torch.randn(6, 3, 8, 8))
    assert len(runs) == 12


def test_arguments_of_a_block_pass_through() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor, shift: Tensor, *, power: int) -> Tensor:
            return self.weight * x**power + shift

    network = nn.Module()
    network.blocks = nn.Sequential(Scale())
    prepare_blocks(network, activation_checkpointing=True, compile=False)
    output = network.blocks[0](torch.tensor(3.0), torch.tensor(1.0), power=2)
    output.backward()
    assert (output.item(), network.blocks[0].weight.grad.item()) == (19.0, 9.0)


def test_an_error_in_the_backward_pass_leaves_batch_norm_as_it_was() -> None:
    network = make("mlp with batch norm", activation_checkpointing=True)
    norm = network.blocks[0][1]
    output = network(torch.randn(6, 3, 8, 8))

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        output.sum().backward()
    assert (norm.momentum, norm.num_batches_tracked.item()) == (0.1, 1)
    assert "num_batches_tracked" in dict(norm.named_buffers())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # the compiler's own imports
@pytest.mark.usefixtures("compiler")
def test_a_compiled_and_checkpointed_block_computes_the_same_and_keeps_its_input_only() -> None:
    from torch._dynamo.utils import counters

    def network(on: bool) -> nn.Module:
        torch.manual_seed(7)
        made = MLP(input_shape=(3, 8, 8), num_outputs=5, hidden=(16,), activation="gelu", norm="batch")
        prepare_blocks(made, activation_checkpointing=on, compile=on)
        return made

    counters.clear()
    plain, compiled = network(False), network(True)
    for expected, found in zip(train(plain), train(compiled), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (counters["stats"]["unique_graphs"], len(counters["graph_break"])) == (1, 0)
    state = compiled.state_dict()
    assert list(state) == list(plain.state_dict())
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(state[key], value)
    assert saved_bytes(compiled, num_samples=6) == 6 * (192 + 16) * 4 < saved_bytes(plain, num_samples=6)


# The compiler asks for `.grad` of what the block before made.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.usefixtures("compiler")
def test_more_different_blocks_than_torch_s_limit_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward: original(forward, backend=count))
    network = MLP(input_shape=(4,), num_outputs=2, hidden=range(3, 15))
    x = torch.randn(2, 4)
    expected, names = network(x), list(network.state_dict())
    prepare_blocks(network, activation_checkpointing=False, compile=True)
    assert torch.equal(network(x), expected)
    assert len(graphs) == 12
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("option", ["activation_checkpointing", "compile"])
def test_a_network_without_blocks_is_refused_with_what_to_add(option: str) -> None:
    class MyNet(nn.Module):
        pass

    options = {"activation_checkpointing": False, "compile": False}
    prepare_blocks(MyNet(), **options)
    message = (
        rf"^model\.{option}=true works on .* MyNet has none: give it `self\.blocks = nn\.ModuleList.*{option}=false$"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_blocks(MyNet(), **{**options, option: True})
    assert "\n" not in str(caught.value)


def test_a_network_with_no_block_at_all_needs_nothing() -> None:
    network = MLP(input_shape=(4,), num_outputs=2, hidden=())
    prepare_blocks(network, activation_checkpointing=True, compile=True)
    assert network(torch.randn(3, 4)).shape == (3, 2)
