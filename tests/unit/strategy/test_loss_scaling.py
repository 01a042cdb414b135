"""float16: the unscaled gradients are clipped and applied, and a step that overflows is left out.

On a CPU whose float16 is slow, too: the format is refused there for a run, and not here.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from distmlp.strategy.precision import PRECISIONS
from distmlp.strategy.single import Single


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def placed(precision: str, net: nn.Module) -> tuple[Single, torch.optim.Optimizer]:
    """The strategy as `setup` leaves it."""
    strategy = Single(device=torch.device("cpu"), precision=PRECISIONS[precision])
    strategy.network = net
    strategy.run = strategy.place(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    strategy.attach(optimizer)
    return strategy, optimizer


def step(strategy: Single, optimizer: torch.optim.Optimizer, factor: float, max_norm: float | None) -> Tensor | None:
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    strategy.zero_gradients(optimizer)
    with strategy.autocast():
        loss = strategy.compute(inputs).square().mean() * factor
    strategy.add_gradients(loss)
    return strategy.apply_gradients(optimizer, max_norm, None)


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_a_scaled_step_is_the_unscaled_one(max_norm: float | None) -> None:
    ours, theirs = network(), network()
    norm = step(*placed("fp16_mixed", ours), 1.0, max_norm)
    expected = step(*placed("fp32", theirs), 1.0, max_norm)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3 * 0.5)
        assert a.dtype == torch.float32
    if max_norm is not None:
        assert norm is not None
        assert expected is not None
        assert float(norm) == pytest.approx(float(expected), rel=1e-2)


def test_gradients_too_small_for_float16_arrive() -> None:
    net = network()
    before = copy.deepcopy(net)
    strategy, optimizer = placed("fp16_mixed", net)
    optimizer.param_groups[0]["lr"] = 1e8
    step(strategy, optimizer, 1e-8, None)
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    assert moved > 1e-3


def test_a_step_that_overflows_is_left_out_and_the_scale_falls() -> None:
    net = network()
    before = copy.deepcopy(net)
    strategy, optimizer = placed("fp16_mixed", net)
    assert strategy.scaler is not None
    scale = strategy.scaler.get_scale()
    step(strategy, optimizer, 1e6, None)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    assert strategy.scaler.get_scale() < scale
