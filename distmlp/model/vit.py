"""The Vision Transformer: an image is a sequence of patches.

Dosovitskiy et al., "An image is worth 16x16 words: Transformers for image recognition at scale", 2021.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.model.transformer import INIT_STD, Block, initialise


class ViT(nn.Module):
    """Patches, each mapped to a vector with a learned position, pre-norm blocks, and a linear layer on what is pooled.

    Args:
        input_shape: (channels, height, width) of an image.
        num_outputs: classes.
        num_layers: blocks.
        num_heads: attention heads; they divide ``width``.
        width: of the residual stream.
        mlp_width: hidden width of a block's feed-forward network; None: 4 · width.
        dropout: share of values zeroed after embedding, attention and feed-forward network in training.
        patch_size: height and width of a patch.
        pooling: ``cls`` classifies a token that is put before the patches; ``mean`` the patches' mean, without one.
        norm_eps: added to the variance.

    Raises:
        ConfigError: the data holds no images, or they are not made of whole patches.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        num_layers: int,
        num_heads: int,
        width: int,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        patch_size: int = 4,
        pooling: Literal["cls", "mean"] = "cls",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        num_channels, num_patches = _channels_and_patches(input_shape, patch_size)
        self.patch_embedding = nn.Conv2d(num_channels, width, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if pooling == "cls" else None
        num_positions = num_patches + (pooling == "cls")
        self.position_embedding = nn.Parameter(torch.empty(1, num_positions, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width=width, num_heads=num_heads, mlp_width=mlp_width, norm_eps=norm_eps, dropout=dropout)
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(width, norm_eps)
        self.output = nn.Linear(width, num_outputs)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, height, width) float32 → logits (N, num_outputs)."""
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(len(x), -1, -1).type_as(x), x), dim=1)
        x = self.dropout(x + self.position_embedding)
        for block in self.blocks:
            x = block(x)
        x = self.final_norm(x)
        logits: Tensor = self.output(x.mean(dim=1) if self.class_token is None else x[:, 0])
        return logits

    def _initialise(self) -> None:
        initialise(self)
        nn.init.normal_(self.patch_embedding.weight, std=INIT_STD)
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)
        nn.init.normal_(self.position_embedding, std=INIT_STD)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=INIT_STD)


def _channels_and_patches(input_shape: tuple[int, ...], patch_size: int) -> tuple[int, int]:
    if len(input_shape) != 3:
        raise ConfigError(
            f"model=vit takes images of shape (channels, height, width), and the data's samples are {input_shape}"
        )
    num_channels, height, width = input_shape
    if height % patch_size or width % patch_size:
        raise ConfigError(
            f"model.patch_size={patch_size} does not divide the images' height {height} and width {width}: use a size "
            "that divides both"
        )
    return num_channels, (height // patch_size) * (width // patch_size)
