"""The ResNet is the published one: parameter counts, and logits of another implementation with the same weights."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distmlp.errors import ConfigError
from distmlp.model.resnet import ResidualBlock, ResNet, find_layout


def make(**settings: Any) -> ResNet:
    torch.manual_seed(7)
    return ResNet(**{"input_shape": (3, 16, 16), "num_outputs": 5, "blocks": [1, 2], "width": 8, **settings})


@pytest.mark.parametrize(
    ("depth", "norm", "count"),
    [
        (18, "batch", 11_689_512),
        (34, "batch", 21_797_672),
        (50, "batch", 25_557_032),
        (50, "group", 25_557_032),
        (101, "batch", 44_549_160),
        (152, "batch", 60_192_808),
    ],
)
def test_published_networks_have_the_published_number_of_parameters(depth: int, norm: str, count: int) -> None:
    with torch.device("meta"):
        network = ResNet(input_shape=(3, 224, 224), num_outputs=1000, depth=depth, norm=norm)
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_networks_for_cifar_have_about_the_published_number_of_parameters(depth: int, millions: float) -> None:
    with torch.device("meta"):
        network = ResNet(input_shape=(3, 32, 32), num_outputs=10, depth=depth)
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(layers) == depth


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_logits_equal_those_of_transformers_with_the_same_weights(block: str) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    factor = 4 if block == "bottleneck" else 1
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8 * factor, 16 * factor, 32 * factor],
        depths=[1, 2, 2],
        layer_type=block,
        num_labels=5,
    )
    reference = ResNetForImageClassification(config).eval()
    for tensor in reference.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.4) if tensor.ndim == 1 else tensor.normal_(std=0.3)
    network = make(blocks=[1, 2, 2], block=block, stem="large", norm="batch").eval()
    # Both list the stem, then of each block the shortcut before the layers, then the output.
    ours, theirs = network.state_dict(), reference.state_dict()
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    images = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        expected = reference(images).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_block_passes_its_input_on() -> None:
    block = ResidualBlock(num_inputs=8, width=8, stride=1, bottleneck=False, norm="group")
    assert isinstance(block.shortcut, nn.Identity)
    network = make()
    x = torch.rand(2, 8, 16, 16)
    assert torch.equal(network.blocks[0](x), x)
    assert not torch.equal(block(x), x)  # the network zeroes the last norm, not the block


def test_the_stem_follows_the_size_of_the_images() -> None:
    for shape, stem, size in (
        ((3, 95, 200), "auto", (95, 200)),
        ((3, 96, 96), "auto", (24, 24)),
        ((1, 16, 16), "large", (4, 4)),
        ((1, 96, 96), "small", (96, 96)),
    ):
        assert make(input_shape=shape, stem=stem).stem(torch.randn(1, *shape)).shape[2:] == size


def test_blocks_give_any_depth_and_width() -> None:
    network = make(blocks=[1, 1, 2], block="bottleneck", width=4)
    x = network.stem(torch.randn(1, 3, 16, 16))
    shapes = []
    for block in network.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (64, 4, 4)]
    assert find_layout(18, [1, 1], "auto").block == "basic"
    assert make(blocks=None, depth=8, width=None).output.in_features == 64
    assert make(blocks=None, depth=8, width=4).output.in_features == 16


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_every_parameter_learns_after_the_first_step(block: str) -> None:
    network = make(block=block)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 19}, r"^model\.depth=19 is no depth of a ResNet: use 18 or 20, or give the blocks of each stage"),
        ({"depth": 3}, r"^model\.depth=3 is no depth of a ResNet: use 8, or give"),
        ({"depth": 12}, r"use 8 or 14, or give"),
        ({"depth": 100}, r"use 98 or 101, or give"),
        (
            {"depth": 50, "block": "basic"},
            r"^model\.depth=50 is made of bottleneck blocks, not model\.block=basic: use model\.block=auto, or .*"
            r"model\.blocks=\[3, 4, 6, 3\]$",
        ),
        ({"input_shape": (784,)}, r"^model=resnet takes images .* samples of shape \(784,\): use model=mlp$"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(**{"blocks": None, **settings})
    assert "\n" not in str(caught.value)
