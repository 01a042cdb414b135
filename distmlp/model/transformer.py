"""The block that GPT, BERT and ViT repeat, and how its weights start.

A block adds attention and then a two-layer network to the residual stream. With ``pre`` norm each reads a normalised
copy of the stream (Xiong et al., "On layer normalization in the Transformer architecture", 2020); with ``post`` norm
the stream itself is normalised after each addition (Vaswani et al., 2017).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmlp.errors import ConfigError
from distmlp.model.attention import Attention
from distmlp.model.kv_cache import LayerCache
from distmlp.model.rotary import Rotary

INIT_STD = 0.02  # of GPT-2, BERT and ViT alike
SWIGLU_MULTIPLE = 64  # default widths are multiples of it, which matrix kernels like

Norm = Literal["rms", "layer"]
Activation = Literal["swiglu", "gelu", "gelu_tanh", "relu", "relu_squared"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
}


def default_mlp_width(width: int, activation: Activation) -> int:
    """4 · width; for swiglu 8/3 · width, as many weights in its three matrices, rounded up to a multiple of 64."""
    if activation != "swiglu":
        return 4 * width
    return math.ceil(8 * width / (3 * SWIGLU_MULTIPLE)) * SWIGLU_MULTIPLE


def new_norm(norm: Norm, width: int, eps: float, bias: bool) -> nn.Module:
    """Normalisation over the last dimension, of ``width``; RMS norm (Zhang and Sennrich, 2019) never has a bias."""
    return nn.RMSNorm(width, eps) if norm == "rms" else nn.LayerNorm(width, eps, bias=bias)


class FeedForward(nn.Module):
    """``down(f(up(x)))``, or for swiglu ``down(silu(gate(x)) · up(x))`` (Shazeer, "GLU variants …", 2020).

    ``relu_squared``: So et al., "Primer", 2021. Args: ``width`` of input and output, ``mlp_width`` in between.
    """

    def __init__(self, *, width: int, mlp_width: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, mlp_width, bias=bias) if activation == "swiglu" else None
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        hidden = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        return self.down(hidden)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward network, each added to its input.

    Args:
        width: of the residual stream.
        num_heads, num_kv_heads, causal, qk_norm, rotary: see `Attention`.
        mlp_width: hidden width of the feed-forward network; None: `default_mlp_width`.
        activation: of the feed-forward network.
        norm: kind of normalisation.
        norm_eps: added to the variance.
        norm_position: ``pre`` or ``post``.
        bias: of all linear layers and layer norms.
        dropout: share of attention's and the feed-forward network's outputs zeroed in training.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_width: int | None = None,
        activation: Activation = "gelu",
        norm: Norm = "layer",
        norm_eps: float = 1e-5,
        norm_position: Literal["pre", "post"] = "pre",
        bias: bool = True,
        causal: bool = False,
        dropout: float = 0.0,
        qk_norm: bool = False,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        self.is_post_norm = norm_position == "post"
        self.attention_norm = new_norm(norm, width, norm_eps, bias)
        self.attention = Attention(
            width=width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            bias=bias,
            causal=causal,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            rotary=rotary,
        )
        self.mlp_norm = new_norm(norm, width, norm_eps, bias)
        mlp_width = mlp_width or default_mlp_width(width, activation)
        self.mlp = FeedForward(width=width, mlp_width=mlp_width, activation=activation, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """(N, T, width) → (N, T, width); ``mask`` and ``cache`` as in `Attention`."""
        if self.is_post_norm:
            x = self.attention_norm(x + self.dropout(self.attention(x, mask, cache)))
            return self.mlp_norm(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


@torch.no_grad()
def initialise(network: nn.Module, residual_scale: float = 1.0) -> None:
    """Draws the weights of linear layers and embeddings from a normal of standard deviation 0.02, and zeroes biases.

    ``residual_scale`` multiplies it for the layers that write to the residual stream: with 1/sqrt(2 · layers) the
    stream does not grow with depth (Radford et al., "Language models are unsupervised multitask learners", 2019).
    """
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    residual = {layer for block in blocks for layer in (block.attention.output, block.mlp.down)}
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INIT_STD * (residual_scale if module in residual else 1.0))
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def vocabulary_size(vocab_size: int | None, data_vocabulary: int) -> int:
    """Rows of the embedding: ``vocab_size``, or the data's vocabulary where it is None.

    Raises:
        ConfigError: the data has tokens that the embedding would lack.
    """
    if vocab_size is not None and vocab_size < data_vocabulary:
        raise ConfigError(
            f"model.vocab_size={vocab_size} is smaller than the data's vocabulary of {data_vocabulary}: give at least "
            f"{data_vocabulary}, or null"
        )
    return vocab_size or data_vocabulary


def check_length(num_tokens: int, max_positions: int, start: int = 0) -> None:
    """Raises `ConfigError` if ``num_tokens`` after ``start`` others are more than the network has positions for."""
    if start + num_tokens > max_positions:
        after = f" after {start}" if start else ""
        raise ConfigError(
            f"a sequence of {num_tokens} tokens{after} is longer than model.max_positions={max_positions}: shorten it, "
            "or give the model more positions"
        )
