"""Optimizers train, decay only what they should, survive their own checkpoint, and drop no option."""

import copy
import io
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from distmlp.errors import ConfigError
from distmlp.muon import MuonWithAdamW
from distmlp.optimizer import DEFAULTS, build_optimizer, parameter_groups

RATES = {"sgd": 0.3, "momentum": 0.05, "adam": 0.01, "adamw": 0.01, "adagrad": 0.1, "rmsprop": 0.01, "lion": 0.003}


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    """Losses of the steps ``first`` to ``last``; the batch of a step follows from its number alone."""
    losses = []
    for step in range(first, last):
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        y = x[:, :3].argmax(dim=1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def names(net: nn.Module, group: dict[str, Any]) -> list[str]:
    by_id = {id(weight): name for name, weight in net.named_parameters()}
    return [by_id[id(weight)] for weight in group["params"]]


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_optimizer_lowers_the_loss_and_continues_bit_for_bit_from_its_state(name: str) -> None:
    settings: dict[str, Any] = {"name": name, "lr": RATES.get(name, 0.02), "weight_decay": 0.01}
    whole = network()
    losses = train(whole, build_optimizer(whole, **settings), 0, 60)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

    part = network()
    optimizer = build_optimizer(part, **settings)
    train(part, optimizer, 0, 25)
    file = io.BytesIO()
    torch.save({"network": part.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = network()
    fresh.load_state_dict(saved["network"])
    resumed = build_optimizer(fresh, **settings)
    resumed.load_state_dict(saved["optimizer"])
    assert train(fresh, resumed, 25, 60) == losses[25:]
    assert torch.equal(weights(fresh), weights(whole))


@pytest.mark.parametrize("name", DEFAULTS)
def test_bfloat16_weights_move_as_32_bit_ones_do(name: str) -> None:
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        net = network().to(dtype)
        before = weights(net).float()
        optimizer = build_optimizer(net, name=name, lr=0.05)
        for index, weight in enumerate(net.parameters()):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)).to(dtype)
        for _ in range(5):
            optimizer.step()
        moved.append(weights(net).float() - before)
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 0.1


def test_decay_is_for_matrices_only() -> None:
    net = network()
    decay, rest = parameter_groups(net, 0.1)
    assert (decay["name"], decay["weight_decay"]) == ("decay", 0.1)
    assert names(net, decay) == ["0.weight", "3.weight", "5.weight"]
    assert (rest["name"], rest["weight_decay"]) == ("no_decay", 0.0)
    assert names(net, rest) == ["0.bias", "1.weight", "1.bias", "3.bias", "5.bias"]


def test_norms_of_any_shape_are_exempt_and_frozen_parameters_are_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm((4, 6))
            self.batch = nn.BatchNorm1d(4)
            self.linear = nn.Linear(6, 2)
            self.position_bias = nn.Parameter(torch.zeros(4, 6))
            self.frozen = nn.Linear(6, 2).requires_grad_(False)

    net = Net()
    decay, rest = parameter_groups(net, 0.1)
    assert names(net, decay) == ["linear.weight"]
    assert set(names(net, rest)) == {
        "norm.weight",
        "norm.bias",
        "batch.weight",
        "batch.bias",
        "linear.bias",
        "position_bias",
    }


def test_without_decay_there_is_one_group_in_the_network_s_order() -> None:
    net = network()
    (group,) = parameter_groups(net, 0.0)
    assert names(net, group) == [name for name, _ in net.named_parameters()]
    assert [g["name"] for g in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == ["decay"]


def test_decay_reaches_the_weights() -> None:
    net = nn.Linear(2, 2)
    before = weights(net).clone()
    optimizer = build_optimizer(net, name="adamw", lr=0.5, weight_decay=0.2)
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.allclose(weights(net), torch.cat([before[:4] * 0.9, before[4:]]), rtol=1e-6)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_group_carries_the_defaults_and_the_options_override_them(name: str) -> None:
    keys = {
        "sgd": {"momentum": 0.5, "nesterov": True},
        "momentum": {"momentum": 0.8},
        "adagrad": {"lr_decay": 0.1},
        "rmsprop": {"alpha": 0.5, "centered": True},
        "muon": {"ns_steps": 3},
    }.get(name, {"betas": [0.7, 0.8]})
    default = build_optimizer(network(), name=name, lr=0.1).param_groups[0]
    changed = build_optimizer(network(), name=name, lr=0.1, **keys).param_groups[0]
    for key, value in keys.items():
        assert default[key] == DEFAULTS[name][key]
        assert changed[key] == (tuple(value) if key == "betas" else value)


def test_fused_where_torch_has_it() -> None:
    fused = {name: build_optimizer(network(), name=name, lr=0.1).param_groups[-1].get("fused") for name in DEFAULTS}
    assert Counter(fused.values())[True] == 6
    assert not fused["rmsprop"]
    assert not fused["lion"]
    assert not build_optimizer(network(), name="adam", lr=0.1, fused=False).param_groups[0]["fused"]
    assert not build_optimizer(network().to("meta"), name="adam", lr=0.1).param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("sgd", {}, 0.0),
        ("sgd", {"weight_decay": 0.01}, 0.0),
        # From here on the vectorised kernel contracts a multiplication and an addition into one rounding.
        ("momentum", {}, 1e-6),
        ("adamw", {"weight_decay": 0.01}, 1e-6),
        ("adagrad", {}, 1e-6),
    ],
)
def test_fused_equals_the_plain_loop_on_the_same_gradients(
    name: str, options: dict[str, Any], tolerance: float
) -> None:
    gradients = torch.randn(1000, 101, generator=torch.Generator().manual_seed(0))
    results = []
    for fused in (True, False):
        net = nn.Module()
        net.weight = nn.Parameter(torch.linspace(-1, 1, 101)[None])
        optimizer = build_optimizer(net, name=name, lr=0.001, fused=fused, **options)
        for gradient in gradients:
            net.weight.grad = gradient[None].clone()
            optimizer.step()
        results.append(weights(net))
    assert (results[0] - results[1]).abs().max().item() <= tolerance


def test_a_state_loads_across_implementations_and_keeps_the_machine_s_own() -> None:
    with_fused, without = network(), network()
    source = build_optimizer(with_fused, name="adam", lr=0.1)
    train(with_fused, source, 0, 3)
    target = build_optimizer(without, name="adam", lr=0.5, fused=False)
    target.load_state_dict(copy.deepcopy(source.state_dict()))  # torch would share the tensors
    assert target.param_groups[0]["lr"] == 0.1
    assert not target.param_groups[0]["fused"]
    without.load_state_dict(with_fused.state_dict())
    assert train(without, target, 3, 10) == pytest.approx(train(with_fused, source, 3, 10), rel=1e-5)


def test_muon_steps_hidden_matrices_and_adamw_the_rest() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.position_embed = nn.Parameter(torch.zeros(3, 4))
            self.norm = nn.LayerNorm((3, 4))
            self.first = nn.Linear(4, 8)
            self.second = nn.Linear(8, 4)
            self.head = nn.Linear(4, 10)

    net = Net()
    groups = build_optimizer(net, name="muon", lr=0.1, adamw_lr=0.01, weight_decay=0.1).param_groups
    found = {g["name"]: (g["algorithm"], g["lr"], g["weight_decay"], names(net, g)) for g in groups}
    adamw_matrices = ["position_embed", "embedding.weight", "head.weight"]
    vectors = ["norm.weight", "norm.bias", "first.bias", "second.bias", "head.bias"]
    assert found == {
        "muon_decay": ("muon", 0.1, 0.1, ["first.weight", "second.weight"]),
        "adamw_decay": ("adamw", 0.01, 0.1, adamw_matrices),
        "adamw_no_decay": ("adamw", 0.01, 0.0, vectors),
    }
    net.head.weight = net.embedding.weight  # tied: the layer before it is still no output layer
    assert names(net, build_optimizer(net, name="muon", lr=0.1).param_groups[0]) == ["first.weight", "second.weight"]


def test_muon_equals_torch_s_two_optimizers_side_by_side() -> None:
    together, apart = network(), network()
    train(together, build_optimizer(together, name="muon", lr=0.02, adamw_lr=0.01), 0, 5)
    hidden = [apart[0].weight, apart[3].weight]
    rest = [weight for weight in apart.parameters() if all(weight is not matrix for matrix in hidden)]
    muon = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.0)  # type: ignore[arg-type]
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0, fused=True)
    for step in range(5):
        # A rate of 0 in the helper's own optimizer: it only computes the gradients.
        train(apart, torch.optim.SGD(apart.parameters(), lr=0.0), step, step + 1)
        muon.step()
        adamw.step()
    assert torch.equal(weights(together), weights(apart))


def test_muon_can_be_copied_takes_a_closure_and_refuses_a_group_without_algorithm() -> None:
    net = network()
    optimizer = build_optimizer(net, name="muon", lr=0.02)
    train(net, optimizer, 0, 2)
    other_net, other = copy.deepcopy((net, optimizer))
    assert train(other_net, other, 2, 5) == train(net, optimizer, 2, 5)

    def closure() -> float:
        assert torch.is_grad_enabled()
        return 1.5

    assert optimizer.step(closure) == 1.5
    with pytest.raises(ValueError, match="a parameter group needs algorithm=muon or algorithm=adamw, not None"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(ValueError, match=r"matrices only, not a parameter of shape \(2,\)"):
        MuonWithAdamW(
            [{"params": [nn.Parameter(torch.zeros(2))], "algorithm": "muon"}], muon={"lr": 0.1}, adamw={"lr": 0.1}
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamm", {}, r"^optimizer\.name=adamm is unknown: did you mean adam\? \(valid: sgd, momentum, adam, adamw, "),
        (
            "adam",
            {"momentum": 0.9},
            r"^optimizer\.momentum is no option of optimizer\.name=adam \(valid: lr, weight_dec",
        ),
        (
            "adamw",
            {"beta": 0.9},
            r"is no option of optimizer\.name=adamw: did you mean betas\? \(valid: lr, weight_decay",
        ),
        ("sgd", {"nesterov": True}, r"^optimizer\.nesterov=true needs optimizer\.momentum above 0$"),
        ("sgd", {"weight_decay": -1.0}, r"^optimizer\.weight_decay=-1\.0 must be a finite number of at least 0$"),
        ("momentum", {"momentum": 1.0}, r"^optimizer\.momentum=1\.0 must be a number in \[0, 1\)$"),
        ("momentum", {"nesterov": "yes"}, r"^optimizer\.nesterov=yes must be true or false$"),
        ("adam", {"betas": [0.9]}, r"^optimizer\.betas=\[0\.9\] must be two numbers in \[0, 1\)$"),
        ("adam", {"betas": 0.9}, r"^optimizer\.betas=0\.9 must be two numbers"),
        ("adam", {"eps": "1e-8"}, r"^optimizer\.eps=1e-8 must be a finite number"),
        ("muon", {"ns_steps": 0}, r"^optimizer\.ns_steps=0 must be a whole number from 1 to 99$"),
        ("adam", {"lr": float("nan")}, r"^optimizer\.lr=nan must be a finite number of at least 0$"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_optimizer(network(), **{"name": name, "lr": 0.1, **options})
    assert "\n" not in str(caught.value)


def test_a_network_with_nothing_for_the_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="the network has no trainable parameter"):
        build_optimizer(network().requires_grad_(False), name="sgd", lr=0.1)
    with pytest.raises(ConfigError, match=r"^optimizer\.name=muon needs a hidden matrix, .*: use optimizer=adamw$"):
        build_optimizer(nn.Linear(4, 2), name="muon", lr=0.1)
