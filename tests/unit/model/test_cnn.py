"""The CNN has the shapes and operations that its keys name, and refuses what is no image."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distmlp.errors import ConfigError
from distmlp.model.cnn import CNN, num_groups

SMALL = {"input_shape": (3, 8, 8), "num_outputs": 5, "widths": (4, 6), "blocks_per_stage": 2}


def make(**settings: Any) -> CNN:
    torch.manual_seed(7)
    return CNN(**{**SMALL, **settings})


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def sizes(network: CNN, image: torch.Tensor) -> list[tuple[int, ...]]:
    shapes = []
    for block in network.blocks:
        image = block(image)
        shapes.append(tuple(image.shape[1:]))
    return shapes


def test_logits_equal_the_operations_written_out() -> None:
    network = make(activation="gelu", residual=True)
    one, two, three, four = convolutions(network)
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]

    def layer(x: torch.Tensor, number: int) -> torch.Tensor:
        convolved = F.conv2d(x, (one, two, three, four)[number].weight, padding=1)
        return F.gelu(F.group_norm(convolved, norms[number].num_groups))

    x = torch.randn(2, 3, 8, 8)
    first = layer(x, 0)
    second = first + layer(first, 1)
    third = layer(F.max_pool2d(second, 2), 2)
    fourth = third + layer(third, 3)
    torch.testing.assert_close(network(x), network.output(fourth.mean((2, 3))))


@pytest.mark.parametrize("downsample", ["max", "average", "stride"])
def test_each_stage_but_the_first_halves_height_and_width(downsample: str) -> None:
    network = make(input_shape=(1, 8, 12), widths=(4, 4, 6), downsample=downsample)
    shapes = sizes(network, torch.randn(2, 1, 8, 12))
    assert shapes == [(4, 8, 12), (4, 8, 12), (4, 4, 6), (4, 4, 6), (6, 2, 3), (6, 2, 3)]


def test_each_way_to_halve_is_its_own() -> None:
    x = torch.randn(2, 3, 8, 8)
    networks = {name: make(downsample=name, blocks_per_stage=1, widths=(4, 4)) for name in ("max", "average", "stride")}
    first, second = networks["max"].blocks[0], convolutions(networks["max"])[1]
    normed = F.relu(F.group_norm(second(F.max_pool2d(first(x), 2)), 2))
    torch.testing.assert_close(networks["max"](x), networks["max"].output(normed.mean((2, 3))))
    normed = F.relu(F.group_norm(second(F.avg_pool2d(first(x), 2)), 2))
    torch.testing.assert_close(networks["average"](x), networks["max"].output(normed.mean((2, 3))))
    normed = F.relu(F.group_norm(second(first(x))[:, :, ::2, ::2], 2))
    torch.testing.assert_close(networks["stride"](x), networks["max"].output(normed.mean((2, 3))))


def test_residual_is_only_where_shapes_are_equal() -> None:
    with_skips, without = make(norm="none"), make(norm="none", residual=False)
    for convolution in (*convolutions(with_skips)[1::2], *convolutions(without)[1::2]):
        nn.init.zeros_(convolution.weight)
    x = torch.randn(2, 3, 8, 8)
    first = with_skips.blocks[0](x)
    assert first.any()
    assert torch.equal(with_skips.blocks[1](first), first)
    assert not without.blocks[1](first).any()


def test_a_convolution_has_a_bias_only_without_a_norm() -> None:
    assert all(convolution.bias is None for convolution in convolutions(make()))
    assert all(not convolution.bias.any() for convolution in convolutions(make(norm="none")))


@pytest.mark.parametrize(("norm", "groups"), [("group", 3), ("layer", 1)])
def test_group_norms_do_not_look_at_other_samples_and_batch_norm_does(norm: str, groups: int) -> None:
    network = make(norm=norm)
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert norms[-1].num_groups == groups
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
    batch = make(norm="batch")
    assert not torch.allclose(batch(x)[:2], batch(x[:2]), atol=1e-3)


def test_groups_divide_the_channels_and_hold_two_or_more() -> None:
    found = {channels: num_groups(channels) for channels in range(1, 600)}
    assert all(channels % groups == 0 and groups <= 32 for channels, groups in found.items())
    assert all(channels // groups >= 2 for channels, groups in found.items() if channels > 1)
    assert [found[n] for n in (1, 2, 7, 16, 24, 32, 48, 64, 96, 512)] == [1, 1, 1, 8, 12, 16, 24, 32, 32, 32]


def test_pooling_takes_the_mean_or_the_maximum_over_all_pixels() -> None:
    x = torch.randn(2, 3, 8, 8)
    average, maximum = make(), make(pooling="max")
    seen = x
    for block in average.blocks:
        seen = block(seen)
    assert torch.equal(average(x), average.output(seen.mean((2, 3))))
    assert torch.equal(maximum(x), average.output(seen.amax((2, 3))))


def test_dropout_acts_before_the_output_in_training_only() -> None:
    network = make(dropout=0.5)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), make().eval()(x))


@pytest.mark.parametrize("norm", ["none", "group", "layer", "batch"])
@pytest.mark.parametrize("downsample", ["max", "stride"])
def test_every_parameter_learns(norm: str, downsample: str) -> None:
    network = make(norm=norm, downsample=downsample, activation="silu", kernel_size=5)
    F.cross_entropy(network(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_convolutions_start_with_he_s_variance_and_activations_keep_their_size() -> None:
    network = make(widths=(64,), blocks_per_stage=10, norm="none", residual=False)
    weight = convolutions(network)[3].weight
    assert weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)
    x = torch.randn(4, 3, 8, 8)
    for block in network.blocks:
        x = block(x)
    assert 0.05 < x.square().mean().item() < 5


def test_builds_on_the_meta_device_and_takes_an_empty_batch() -> None:
    with torch.device("meta"):
        assert make()(torch.empty(2, 3, 8, 8)).shape == (2, 5)
    assert make()(torch.empty(0, 3, 8, 8)).shape == (0, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"input_shape": (13,)},
            r"^model=cnn takes images \(channels, height, width\), and data gives samples of shape \(13,\): "
            r"use model=mlp$",
        ),
        (
            {"input_shape": (1, 4, 9), "widths": (2, 2, 2, 2)},
            r"^model\.widths=\[2, 2, 2, 2\] has 4 stages, .* images of 4x9 pixels can be halved 2 times: "
            r"give at most 3 widths$",
        ),
        ({"activation": "rulu"}, r"^model\.activation=rulu is unknown: did you mean relu\?"),
    ],
)
def test_a_mistake_is_named_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_the_smallest_image_that_can_be_halved_so_often_is_taken() -> None:
    assert make(input_shape=(1, 4, 7), widths=(2, 2, 2))(torch.randn(3, 1, 4, 7)).shape == (3, 5)
