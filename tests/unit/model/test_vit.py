"""ViT cuts an image into patches that know where they were."""

from typing import Any

import pytest
import torch

from distmlp.errors import ConfigError
from distmlp.model.vit import ViT


def make(**settings: Any) -> ViT:
    torch.manual_seed(7)
    facts = {"input_shape": (3, 8, 12), "num_outputs": 5}
    return ViT(**{**facts, "num_layers": 2, "num_heads": 4, "width": 32, **settings}).eval()


def test_vit_b_16_has_its_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = make(
            input_shape=(3, 224, 224), num_outputs=1000, num_layers=12, num_heads=12, width=768, patch_size=16
        )
    assert sum(weight.numel() for weight in network.parameters()) == 86_567_656


@pytest.mark.parametrize(("pooling", "num_positions"), [("cls", 7), ("mean", 6)])
def test_an_image_becomes_its_patches_and_a_class_token_if_any(pooling: str, num_positions: int) -> None:
    network = make(pooling=pooling)
    seen: list[torch.Size] = []
    network.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert network(torch.randn(2, 3, 8, 12)).shape == (2, 5)
    assert seen == [(2, num_positions, 32)]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_patches_that_change_places_change_the_logits(pooling: str) -> None:
    network, images = make(pooling=pooling), torch.randn(2, 3, 8, 12)
    swapped = images.roll(4, dims=3)  # whole patches
    assert not torch.allclose(network(swapped), network(images), atol=1e-4)
    with torch.no_grad():
        network.position_embedding.zero_()
    torch.testing.assert_close(network(swapped), network(images), rtol=0, atol=1e-5)


def test_every_parameter_learns_under_bfloat16_autocast_too() -> None:
    network, images = make().train(), torch.randn(2, 3, 8, 12)
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    assert (logits - expected).abs().mean() < 0.05 * expected.std()
    logits.float().square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": (64,)}, r"^model=vit takes images of shape \(channels, height, width\), .* are \(64,\)$"),
        ({"patch_size": 8}, r"^model\.patch_size=8 does not divide the images' height 8 and width 12: use a size that"),
        ({"input_shape": (1, 30, 28)}, r"^model\.patch_size=4 does not divide the images' height 30 and width 28: "),
    ],
)
def test_data_that_does_not_fit_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)
