"""A convolutional classifier of images: stages of convolutions, each stage at half the height and width of the last."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.model.activations import ACTIVATIONS, check_activation

MAX_GROUPS = 32
POOLINGS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class ConvolutionBlock(nn.Module):
    """Halving where asked for → convolution → norm → activation; adds its input where nothing changes the shape.

    Args:
        num_inputs: channels that come in.
        num_outputs: channels that go out.
        kernel_size: height and width of the kernel, odd; the edges are padded with zeros.
        activation: one of ``ACTIVATIONS``.
        norm: ``none``, or one that `channel_norm` knows. The convolution has a bias only without a norm.
        downsample: ``max`` or ``average`` pools 2x2 before the convolution, ``stride`` lets the convolution take every
            other pixel; None keeps height and width.
        residual: adds the block's input to its output where the two have one shape.
    """

    def __init__(
        self,
        *,
        num_inputs: int,
        num_outputs: int,
        kernel_size: int,
        activation: str,
        norm: str,
        downsample: str | None,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual and num_inputs == num_outputs and downsample is None
        modules: list[nn.Module] = [POOLINGS[downsample](2)] if downsample in POOLINGS else []
        stride = 2 if downsample == "stride" else 1
        padding, bias = kernel_size // 2, norm == "none"
        modules.append(nn.Conv2d(num_inputs, num_outputs, kernel_size, stride=stride, padding=padding, bias=bias))
        if norm != "none":
            modules.append(channel_norm(norm, num_outputs))
        self.layers = nn.Sequential(*modules, ACTIVATIONS[activation]())

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_inputs, H, W) → (N, num_outputs, H, W), or half of H and W."""
        output: Tensor = self.layers(x)
        return x + output if self.residual else output


class CNN(nn.Module):
    """Stages of convolutions, global pooling, dropout, and one linear layer that gives the logits.

    Group norm (Wu and He, "Group normalization", ECCV 2018) is the default: the statistics of batch norm are those of
    the micro-batch, so that with it the run depends on the number of ranks. Weights of convolutions start normal with
    variance 2 / inputs (He et al., "Delving deep into rectifiers", ICCV 2015), their biases at zero.

    Args:
        input_shape: (channels, height, width) of one image.
        num_outputs: logits per image.
        widths: channels of each stage; each stage but the first halves height and width.
        blocks_per_stage: convolutions in each stage.
        kernel_size: height and width of the kernels, odd.
        activation: one of ``ACTIVATIONS``.
        norm: after each convolution: ``none``, ``group``, ``layer`` (over all channels) or ``batch``.
        downsample: how a stage halves height and width: ``max``, ``average`` or ``stride``.
        pooling: how the last stage becomes one vector: ``average`` or ``max``.
        residual: adds the input of a convolution to its output where the shapes are equal.
        dropout: probability that a value is zeroed before the output layer in training, in [0, 1).

    Raises:
        ConfigError: samples are not images, or too small for so many stages; the activation is unknown.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        widths: Sequence[int] = (32, 64, 128),
        blocks_per_stage: int = 2,
        kernel_size: int = 3,
        activation: str = "relu",
        norm: str = "group",
        downsample: str = "max",
        pooling: str = "average",
        residual: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        num_channels, height, width = image_shape("cnn", input_shape)
        _check_stages(widths, height, width)
        check_activation(activation)
        self.pooling = pooling
        self.blocks = nn.ModuleList()
        for stage, stage_width in enumerate(widths):
            for position in range(blocks_per_stage):
                block = ConvolutionBlock(
                    num_inputs=num_channels,
                    num_outputs=stage_width,
                    kernel_size=kernel_size,
                    activation=activation,
                    norm=norm,
                    downsample=downsample if stage > 0 and position == 0 else None,
                    residual=residual,
                )
                self.blocks.append(block)
                num_channels = stage_width
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(num_channels, num_outputs)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, height, width) → logits (N, num_outputs)."""
        for block in self.blocks:
            x = block(x)
        x = x.mean((2, 3)) if self.pooling == "average" else x.amax((2, 3))
        logits: Tensor = self.output(self.dropout(x))
        return logits


def image_shape(network: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of one sample.

    Raises:
        ConfigError: the samples are not images; ``network`` is the name that the message gives.
    """
    if len(input_shape) != 3:
        raise ConfigError(
            f"model={network} takes images (channels, height, width), and data gives samples of shape {input_shape}: "
            "use model=mlp"
        )
    num_channels, height, width = input_shape
    return num_channels, height, width


def channel_norm(kind: str, num_channels: int) -> nn.Module:
    """A norm of (N, num_channels, H, W): ``group``, ``layer`` (group norm with one group) or ``batch``."""
    if kind == "batch":
        return nn.BatchNorm2d(num_channels)
    return nn.GroupNorm(num_groups(num_channels) if kind == "group" else 1, num_channels)


def num_groups(num_channels: int) -> int:
    """The most groups, up to ``MAX_GROUPS``, that divide the channels and leave each of them two or more."""
    possible = (n for n in range(1, MAX_GROUPS + 1) if num_channels % n == 0 and num_channels // n >= 2)
    return max(possible, default=1)


def _check_stages(widths: Sequence[int], height: int, width: int) -> None:
    most = min(height, width).bit_length()
    if len(widths) > most:
        raise ConfigError(
            f"model.widths={list(widths)} has {len(widths)} stages, each half the height and width of the one before, "
            f"and images of {height}x{width} pixels can be halved {most - 1} times: give at most {most} widths"
        )


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
