"""Gradients are clipped by the norm of all of them together."""

import pytest
import torch
from torch import nn

from distmlp.strategy.clipping import clip_gradients


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(size)) for size in (3, 5)]
    for index, parameter in enumerate(made):
        parameter.grad = torch.full_like(parameter, float(index + 1))
    return made


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_it_does_what_torch_does_with_whole_tensors(max_norm: float) -> None:
    ours, theirs = parameters(), parameters()
    norm = clip_gradients(ours, max_norm)
    assert norm == nn.utils.clip_grad_norm_(theirs, max_norm)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True) if a.grad is not None)


def test_a_parameter_without_a_gradient_counts_for_nothing() -> None:
    made = [*parameters(), nn.Parameter(torch.ones(7))]
    assert float(clip_gradients(made, 1.0)) == pytest.approx((3 * 1 + 5 * 4) ** 0.5)
    assert made[2].grad is None
