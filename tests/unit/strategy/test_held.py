"""What is read of an optimizer and a loss scaler, and written back: without ranks, which tests/distributed has."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distmlp.optimizer import DEFAULTS, build_optimizer
from distmlp.strategy.deepspeed import DeepSpeed
from distmlp.strategy.deepspeed_config import ZeroOptions
from distmlp.strategy.deepspeed_process import import_deepspeed
from distmlp.strategy.precision import PRECISIONS
from distmlp.strategy.single import Single

STATES = {
    "sgd": set(),
    "momentum": {"momentum_buffer"},
    "adam": {"exp_avg", "exp_avg_sq"},
    "adamw": {"exp_avg", "exp_avg_sq"},
    "adagrad": {"sum"},
    "rmsprop": {"square_avg"},
    "lion": {"exp_avg"},
    "muon": {"momentum_buffer", "exp_avg", "exp_avg_sq"},
}


class Scaled(nn.Module):
    """Has parameters of 0, 1 and 2 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


def placed(name: str, precision: str = "fp32") -> tuple[Single, torch.optim.Optimizer]:
    torch.manual_seed(0)
    strategy = Single(device=torch.device("cpu"), precision=PRECISIONS[precision])
    strategy.network = Scaled()
    optimizer = build_optimizer(strategy.network, name=name, lr=0.1)
    strategy.optimizers = [optimizer]
    strategy.attach(optimizer)
    return strategy, optimizer


@pytest.mark.parametrize("name", DEFAULTS)
def test_states_come_into_being_and_weights_stay(name: str) -> None:
    strategy, optimizer = placed(name)
    assert strategy.network is not None
    before = {key: value.clone() for key, value in strategy.network.state_dict().items()}
    strategy.prepare_states(optimizer)
    shards = strategy.shards()
    kinds = {shard.kind for shard in shards} - {"weights"}
    assert kinds == {f"optimizer/{state}" for state in STATES[name]}
    weights = {shard.place.name: shard.tensor for shard in shards if shard.kind == "weights"}
    assert weights.keys() == before.keys()  # buffers too, and none that is not kept
    assert all(torch.equal(weights[key], value) for key, value in before.items())
    assert all(shard.tensor.shape == shard.place.shape for shard in shards)
    assert all(not shard.tensor.any() for shard in shards if shard.kind != "weights")
    assert all(parameter.grad is None for parameter in strategy.network.parameters())
    assert {group["lr"] for group in optimizer.param_groups} <= {0.1, 1e-3}


def test_steps_are_numbers_even_of_a_parameter_that_is_one() -> None:
    strategy, optimizer = placed("adamw")
    strategy.prepare_states(optimizer)
    assert strategy.scalars()["factor"] == strategy.scalars()["layers.0.weight"] == {"step": 1.0}
    tensors = [state["step"] for state in optimizer.state.values()]
    strategy.load_scalars({"factor": {"step": 7.0}, "unknown": {"step": 9.0}})
    assert strategy.scalars()["factor"] == {"step": 7.0}
    assert strategy.scalars()["layers.0.weight"] == {"step": 1.0}
    assert all(state["step"] is tensor for state, tensor in zip(optimizer.state.values(), tensors, strict=True))


def test_a_scaler_goes_on_where_another_was() -> None:
    strategy, _ = placed("sgd", "fp16_mixed")
    strategy.load_scaler_state({"scale": 512.0, "growth_tracker": 17.0})
    assert strategy.scaler_state() == {"scale": 512.0, "growth_tracker": 17.0}
    strategy.load_scaler_state({})
    assert strategy.scaler_state()["scale"] == 512.0
    assert strategy.scaler is not None
    interval = strategy.scaler.get_growth_interval()
    strategy.load_scaler_state({"scale": 512.0, "growth_tracker": interval + 5.0})
    assert strategy.scaler_state()["growth_tracker"] == interval - 1
    assert placed("sgd")[0].scaler_state() == {}


def zero(**options: Any) -> Any:
    place = {"device": torch.device("cpu"), "precision": PRECISIONS["fp32"], "rank": 0, "world_size": 1}
    return DeepSpeed(zero=ZeroOptions(**options), max_norm=None, **place)


def test_the_scaler_of_deepspeed_has_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    import_deepspeed("cpu")
    from deepspeed.runtime.fp16 import loss_scaler

    monkeypatch.setattr(loss_scaler, "dist", SimpleNamespace(get_rank=lambda: 1))  # it asks who shall log

    def made() -> Any:
        scaler = loss_scaler.DynamicLossScaler(2.0**16, 4, 1.0, 2, False)
        strategy = zero(stage=2)
        strategy.engine = SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler))
        return strategy, scaler

    (one, one_scaler), (other, other_scaler) = made(), made()
    scales: list[float] = []
    for overflow in (False, True, True, False, False):
        one_scaler.update_scale(overflow)
    state = one.scaler_state()
    assert state == {"scale": 2.0**15, "growth_tracker": 2.0, "hysteresis": 1.0}
    other.load_scaler_state(state)
    assert other.scaler_state() == state
    for overflow in (False, False, False, True, False, False, False, False, False):
        one_scaler.update_scale(overflow)
        other_scaler.update_scale(overflow)
        assert one_scaler.cur_scale == other_scaler.cur_scale
        scales.append(one_scaler.cur_scale)
    assert len(set(scales)) > 1
    other.load_scaler_state({"scale": 8.0, "growth_tracker": 1.0})  # torch's
    assert other.scaler_state()["scale"] == 8.0
