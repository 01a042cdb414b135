"""The encoder Transformer for masked-token prediction: every position sees the whole sequence.

Devlin et al., "BERT: Pre-training of deep bidirectional Transformers for language understanding", 2019. There is no
next-sentence prediction, hence no pooler (Liu et al., "RoBERTa", 2019, train better without).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmlp.model.transformer import Block, check_length, initialise, vocabulary_size


class BERT(nn.Module):
    """Embeddings of words, positions and segments, blocks of full attention, and the head of masked-token prediction.

    Args:
        input_shape: (tokens of a sample,).
        num_outputs: the data's vocabulary.
        pad_id: the token that fills short samples up, where the data has one; attention never looks at it.
        num_layers: blocks.
        num_heads: attention heads; they divide ``width``.
        width: of the residual stream.
        mlp_width: hidden width of a block's feed-forward network; None: 4 · width.
        dropout: share of values zeroed after embedding, attention and feed-forward network in training.
        vocab_size: rows of the embedding and logits per token; None: ``num_outputs``.
        max_positions: longest sequence; None: ``input_shape[0]``.
        num_token_types: rows of the segment embedding; all tokens are of the first.
        norm_position: ``post`` as published, or ``pre``, which adds a norm after the last block.
        norm_eps: added to the variance.

    Raises:
        ConfigError: the data has more tokens or longer sequences than the network.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        pad_id: int | None = None,
        num_layers: int,
        num_heads: int,
        width: int,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        vocab_size: int | None = None,
        max_positions: int | None = None,
        num_token_types: int = 2,
        norm_position: Literal["post", "pre"] = "post",
        norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.max_positions = max_positions or input_shape[0]
        check_length(input_shape[0], self.max_positions)
        vocab_size = vocabulary_size(vocab_size, num_outputs)
        self.position_embedding = nn.Embedding(self.max_positions, width)
        self.token_type_embedding = nn.Embedding(num_token_types, width)
        self.embedding_norm = nn.LayerNorm(width, norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                num_heads=num_heads,
                mlp_width=mlp_width,
                norm_eps=norm_eps,
                norm_position=norm_position,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(width, norm_eps) if norm_position == "pre" else nn.Identity()
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, norm_eps))
        # Behind the blocks, since it is the output layer too: Muon knows the last matrix for that.
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        initialise(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) int64 → logits (N, T, vocabulary) of what stands at each position.

        Raises:
            ConfigError: the sequences are longer than ``max_positions``.
        """
        check_length(tokens.shape[1], self.max_positions)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        first_type = self.token_type_embedding(positions.new_zeros(1))
        x = self.token_embedding(tokens) + first_type + self.position_embedding(positions)
        x = self.dropout(self.embedding_norm(x))
        mask = None if self.pad_id is None else (tokens != self.pad_id)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return F.linear(self.head(self.final_norm(x)), self.token_embedding.weight, self.output_bias)
