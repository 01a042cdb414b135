"""The multi-layer perceptron ``y = f(xW + b)``, layer by layer, as a plain module that knows nothing of parallelism."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.model.activations import ACTIVATIONS, check_activation, check_choice

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
    "rms": nn.RMSNorm,
}
INITS = ("torch", "glorot", "he")


class ResidualBlock(nn.Sequential):
    """Adds its input to what its modules make of it (He et al., "Deep residual learning", CVPR 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → (N, width)."""
        output = x
        for module in self:
            output = module(output)
        return x + output


class MLP(nn.Module):
    """Hidden layers of linear → norm → activation → dropout, then one linear layer that gives the logits.

    Args:
        input_shape: shape of one sample, flattened by ``forward``; ``()`` is a single number.
        num_outputs: logits per sample.
        hidden: widths of the hidden layers; empty makes the network linear.
        activation: one of ``ACTIVATIONS``.
        dropout: probability that a hidden unit is zeroed in training, in [0, 1).
        norm: one of ``NORMS``. ``batch`` sees the micro-batch, so with it the run depends on the micro-batch size.
        residual: adds a hidden layer's input to its output where the two widths are equal.
        init: ``torch`` keeps ``nn.Linear``'s own draws, so the weights equal those of a hand-written ``nn.Sequential``
            under the same seed; ``glorot`` is uniform in ±sqrt(6 / (inputs + outputs)) (Glorot and Bengio,
            "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010); ``he`` is
            uniform in ±sqrt(6 / inputs) (He et al., "Delving deep into rectifiers", ICCV 2015).
        zero_bias: zeroes the biases of the linear layers (with ``init=glorot``: what Keras does).

    Raises:
        ConfigError: an argument is out of range or names no choice.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        hidden: Sequence[int] = (128,),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
        residual: bool = False,
        init: str = "torch",
        zero_bias: bool = False,
    ) -> None:
        super().__init__()
        _check_widths(input_shape, num_outputs, hidden)
        check_activation(activation)
        check_choice("model.norm", norm, NORMS)
        check_choice("model.init", init, INITS)
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"model.dropout={dropout} must be at least 0 and less than 1")
        self.num_inputs = math.prod(input_shape)
        self.blocks = nn.ModuleList()
        width = self.num_inputs
        for next_width in hidden:
            kind = ResidualBlock if residual and width == next_width else nn.Sequential
            self.blocks.append(kind(*_hidden_layer(width, next_width, activation, norm, dropout)))
            width = next_width
        self.output = nn.Linear(width, num_outputs)
        _initialise(self, init, zero_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) → logits (N, num_outputs)."""
        x = x.reshape(x.shape[0], self.num_inputs)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(x)
        return logits


def _hidden_layer(num_inputs: int, num_outputs: int, activation: str, norm: str, dropout: float) -> list[nn.Module]:
    modules = [nn.Linear(num_inputs, num_outputs), NORMS[norm](num_outputs), ACTIVATIONS[activation]()]
    if dropout > 0.0:
        modules.append(nn.Dropout(dropout))
    return [module for module in modules if not isinstance(module, nn.Identity)]


@torch.no_grad()
def _initialise(network: nn.Module, init: str, zero_bias: bool) -> None:
    for module in network.modules():
        if not isinstance(module, nn.Linear):
            continue
        if init == "glorot":
            nn.init.xavier_uniform_(module.weight)
        elif init == "he":
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        if zero_bias:
            nn.init.zeros_(module.bias)


def _check_widths(input_shape: Sequence[int], num_outputs: int, hidden: Sequence[int]) -> None:
    if isinstance(hidden, (int, str)):
        raise ConfigError(f"model.hidden={hidden} must be a list of widths: model.hidden=[{hidden}]")
    for key, widths in (("input shape", input_shape), ("model.hidden", hidden), ("number of outputs", [num_outputs])):
        for width in widths:
            if not isinstance(width, int) or width < 1:
                raise ConfigError(f"{key}={list(widths)}: {width} must be a whole number of at least 1")
