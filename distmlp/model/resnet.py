"""Residual networks (He et al., "Deep residual learning for image recognition", CVPR 2016) of any depth."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.model.cnn import channel_norm, image_shape

LARGE_STEM_PIXELS = 96
BOTTLENECK_EXPANSION = 4


@dataclass(frozen=True)
class Layout:
    """Blocks of each stage, the kind of block, and channels of the first stage; each next stage has twice as many."""

    blocks: tuple[int, ...]
    block: str
    width: int = 64


# Table 1 of the paper. The three-stage form of its section 4.2 is every other depth 6n+2.
IMAGENET = {
    18: Layout((2, 2, 2, 2), "basic"),
    34: Layout((3, 4, 6, 3), "basic"),
    50: Layout((3, 4, 6, 3), "bottleneck"),
    101: Layout((3, 4, 23, 3), "bottleneck"),
    152: Layout((3, 8, 36, 3), "bottleneck"),
}


class ResidualBlock(nn.Module):
    """``relu(shortcut(x) + layers(x))``, where the shortcut is the input, or its projection to another shape.

    The norm that ends ``layers`` starts at zero, so that a fresh block passes its input on (Goyal et al., "Accurate,
    large minibatch SGD", 2017).

    Args:
        num_inputs: channels that come in.
        width: channels of the 3x3 convolutions; a bottleneck gives out four times as many.
        stride: of the first 3x3 convolution and the projection. In a bottleneck the paper has it in the 1x1 before; in
            the 3x3, as torchvision's "v1.5", it drops no pixels and is more accurate.
        bottleneck: 1x1, 3x3 and 1x1 convolutions in place of two 3x3.
        norm: after each convolution, ``group`` or ``batch``.
    """

    def __init__(self, *, num_inputs: int, width: int, stride: int, bottleneck: bool, norm: str) -> None:
        super().__init__()
        self.num_outputs = width * BOTTLENECK_EXPANSION if bottleneck else width
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != self.num_outputs:
            self.shortcut = nn.Sequential(*_convolution(num_inputs, self.num_outputs, 1, stride, norm))
        if bottleneck:
            layers = _convolution(num_inputs, width, 1, 1, norm)
            layers += [nn.ReLU(), *_convolution(width, width, 3, stride, norm)]
            layers += [nn.ReLU(), *_convolution(width, self.num_outputs, 1, 1, norm)]
        else:
            layers = _convolution(num_inputs, width, 3, stride, norm)
            layers += [nn.ReLU(), *_convolution(width, width, 3, 1, norm)]
        self.layers = nn.Sequential(*layers)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_inputs, H, W) → (N, num_outputs, H / stride, W / stride), rounded up."""
        output: Tensor = self.activation(self.shortcut(x) + self.layers(x))
        return output


class ResNet(nn.Module):
    """A stem, stages of residual blocks, the mean over all pixels, and one linear layer that gives the logits.

    Args:
        input_shape: (channels, height, width) of one image.
        num_outputs: logits per image.
        depth: 18, 34, 50, 101 or 152 as published for ImageNet; any other 6n+2 (20, 32, 44, 56, 110 …) is the
            three-stage form for CIFAR, with projections where the paper pads with zeros. Unused if ``blocks`` is given.
        blocks: blocks of each stage, for any other depth; None: the depth's.
        block: ``basic``, ``bottleneck``, or ``auto``: the depth's (with ``blocks``: basic).
        width: channels of the first stage, before a bottleneck's factor of 4; None: the depth's (with ``blocks``: 64).
        stem: ``large`` is a 7x7 convolution of stride 2 and 3x3 max pooling of stride 2, ``small`` a 3x3 convolution;
            ``auto`` is large if height and width are at least 96 pixels.
        norm: ``batch`` is the paper's, whose statistics are those of the micro-batch: with it the run depends on the
            number of ranks. ``group`` does not.

    Raises:
        ConfigError: samples are not images, the depth does not exist, or it is made of the other kind of block.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        depth: int = 18,
        blocks: Sequence[int] | None = None,
        block: str = "auto",
        width: int | None = None,
        stem: str = "auto",
        norm: str = "group",
    ) -> None:
        super().__init__()
        num_channels, height, image_width = image_shape("resnet", input_shape)
        layout = find_layout(depth, blocks, block)
        stage_width = width or layout.width
        is_large = stem == "large" or (stem == "auto" and min(height, image_width) >= LARGE_STEM_PIXELS)
        self.stem = _stem(num_channels, stage_width, is_large, norm)
        self.blocks = nn.ModuleList()
        num_inputs = stage_width
        for stage, num_blocks in enumerate(layout.blocks):
            for position in range(num_blocks):
                new = ResidualBlock(
                    num_inputs=num_inputs,
                    width=stage_width << stage,
                    stride=2 if stage > 0 and position == 0 else 1,
                    bottleneck=layout.block == "bottleneck",
                    norm=norm,
                )
                self.blocks.append(new)
                num_inputs = new.num_outputs
        self.output = nn.Linear(num_inputs, num_outputs)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, height, width) → logits (N, num_outputs)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits


def find_layout(depth: int, blocks: Sequence[int] | None, block: str) -> Layout:
    """The layout of a depth, or of the ``blocks`` that take its place.

    Raises:
        ConfigError: there is no such depth, or it is made of another kind of block than ``block``.
    """
    if blocks is not None:
        return Layout(tuple(blocks), "basic" if block == "auto" else block)
    layout = _published(depth)
    if layout is None:
        nearest = sorted(_nearest_depths(depth))
        raise ConfigError(
            f"model.depth={depth} is no depth of a ResNet: use {' or '.join(map(str, nearest))}, or give the blocks of "
            "each stage, as in model.blocks=[2,2,2,2]"
        )
    if block not in ("auto", layout.block):
        raise ConfigError(
            f"model.depth={depth} is made of {layout.block} blocks, not model.block={block}: use model.block=auto, or "
            f"give the blocks of each stage, as in model.blocks={list(layout.blocks)}"
        )
    return layout


def _published(depth: int) -> Layout | None:
    if depth in IMAGENET:
        return IMAGENET[depth]
    if depth >= 8 and depth % 6 == 2:
        return Layout(((depth - 2) // 6,) * 3, "basic", width=16)
    return None


def _nearest_depths(depth: int) -> set[int]:
    below = next((d for d in range(depth, 7, -1) if _published(d)), None)
    above = next(d for d in range(max(depth, 8), max(depth, 8) + 7) if _published(d))
    return {above} if below is None else {below, above}


def _convolution(num_inputs: int, num_outputs: int, kernel_size: int, stride: int, norm: str) -> list[nn.Module]:
    padding = kernel_size // 2
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size, stride=stride, padding=padding, bias=False)
    return [convolution, channel_norm(norm, num_outputs)]


def _stem(num_channels: int, width: int, is_large: bool, norm: str) -> nn.Sequential:
    if not is_large:
        return nn.Sequential(*_convolution(num_channels, width, 3, 1, norm), nn.ReLU())
    pooling = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(*_convolution(num_channels, width, 7, 2, norm), nn.ReLU(), pooling)


def _initialise(network: ResNet) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, ResidualBlock):
            last_norm = module.layers[-1]
            assert isinstance(last_norm, nn.GroupNorm | nn.BatchNorm2d)
            nn.init.zeros_(last_norm.weight)
