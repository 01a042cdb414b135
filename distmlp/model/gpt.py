"""The decoder Transformer for next-token prediction: GPT-2, GPT-3 and Llama are settings of it.

Radford et al., "Language models are unsupervised multitask learners", 2019; Brown et al., "Language models are few-shot
learners", 2020; Touvron et al., "LLaMA", 2023. Presets of published sizes stand in conf/model/.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmlp.errors import ConfigError
from distmlp.model.attention import causal_mask, document_mask
from distmlp.model.kv_cache import DecoderState
from distmlp.model.rotary import Rotary
from distmlp.model.transformer import Activation, Block, Norm, check_length, initialise, new_norm, vocabulary_size


class GPT(nn.Module):
    """Pre-norm blocks of causal attention between a token embedding and an output layer.

    Args:
        input_shape: (tokens of a sample,).
        num_outputs: the data's vocabulary.
        separator_id: the token that ends a document, where the data has one.
        num_layers: blocks.
        num_heads: attention heads; they divide ``width``.
        width: of the residual stream.
        mlp_width: hidden width of a block's feed-forward network; None: `default_mlp_width`.
        dropout: share of values zeroed after embedding, attention and feed-forward network in training.
        num_kv_heads: heads of keys and values; None: ``num_heads``.
        vocab_size: rows of the embedding and logits per token; None: ``num_outputs``.
        max_positions: longest sequence; None: ``input_shape[0]``.
        positions: ``rotary``, ``learned`` or ``none``.
        rope_theta: base of the rotary wavelengths.
        norm: ``rms`` or ``layer``.
        norm_eps: added to the variance.
        activation: of the feed-forward networks.
        bias: biases of linear layers and layer norms; the output layer never has one.
        tie_embeddings: the output layer is the token embedding (Press and Wolf, 2017).
        qk_norm: normalises queries and keys.
        logit_soft_cap: c in c · tanh(logit / c) (Gemma Team, "Gemma 2", 2024); None leaves the logits.
        attend_across_documents: False: attention ends where a document ends.

    Raises:
        ConfigError: the data has more tokens or longer sequences than the network, or documents without a separator.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        separator_id: int | None = None,
        num_layers: int,
        num_heads: int,
        width: int,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        num_kv_heads: int | None = None,
        vocab_size: int | None = None,
        max_positions: int | None = None,
        positions: str = "rotary",
        rope_theta: float = 10000.0,
        norm: Norm = "rms",
        norm_eps: float = 1e-5,
        activation: Activation = "swiglu",
        bias: bool = False,
        tie_embeddings: bool = True,
        qk_norm: bool = False,
        logit_soft_cap: float | None = None,
        attend_across_documents: bool = True,
    ) -> None:
        super().__init__()
        if separator_id is None and not attend_across_documents:
            raise ConfigError(
                "model.attend_across_documents=false needs data with a document separator: set data.separator"
            )
        self.separator_id = None if attend_across_documents else separator_id
        self.max_positions = max_positions or input_shape[0]
        check_length(input_shape[0], self.max_positions)
        vocab_size = vocabulary_size(vocab_size, num_outputs)
        self.logit_soft_cap = logit_soft_cap
        self.position_embedding = nn.Embedding(self.max_positions, width) if positions == "learned" else None
        rotary = None
        if positions == "rotary":
            rotary = Rotary(head_width=width // num_heads, max_positions=self.max_positions, theta=rope_theta)
        self.dropout = nn.Dropout(dropout)
        block = partial(Block, width=width, mlp_width=mlp_width, activation=activation, bias=bias, dropout=dropout)
        block = partial(block, num_heads=num_heads, num_kv_heads=num_kv_heads, qk_norm=qk_norm, rotary=rotary)
        self.blocks = nn.ModuleList(block(norm=norm, norm_eps=norm_eps, causal=True) for _ in range(num_layers))
        self.final_norm = new_norm(norm, width, norm_eps, bias)
        # Behind the blocks, since it is the output layer too where it is tied: Muon knows the last matrix for that.
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.output = None if tie_embeddings else nn.Linear(width, vocab_size, bias=False)
        initialise(self, residual_scale=(2 * num_layers) ** -0.5)

    def forward(self, tokens: Tensor, state: DecoderState | None = None) -> Tensor:
        """Tokens (N, T) int64 → logits (N, T, vocabulary) of the token that follows each.

        With a ``state``, the tokens continue its sequences, and it is updated in place; no gradient flows back into it.

        Raises:
            ConfigError: the sequences are longer than ``max_positions`` or than the state's ``max_length``.
        """
        start = 0 if state is None else state.length
        check_length(tokens.shape[1], self.max_positions, start)
        if state is not None:
            state.check_fits(tokens)
        mask = self._mask(tokens, state)
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            x = x + self.position_embedding(torch.arange(start, start + tokens.shape[1], device=tokens.device))
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, None if state is None else state.layers[layer])
        x = self.final_norm(x)
        logits: Tensor = F.linear(x, self.token_embedding.weight) if self.output is None else self.output(x)
        if self.logit_soft_cap is not None:
            logits = self.logit_soft_cap * torch.tanh(logits / self.logit_soft_cap)
        return logits

    def new_state(self, num_sequences: int, max_length: int) -> DecoderState:
        """An empty state for generating ``num_sequences`` side by side, of up to ``max_length`` tokens each.

        Raises:
            ConfigError: ``max_length`` is more than ``max_positions``.
        """
        check_length(max_length, self.max_positions)
        return DecoderState(
            num_sequences=num_sequences,
            max_length=max_length,
            num_layers=len(self.blocks),
            keeps_tokens=self.separator_id is not None,
        )

    def _mask(self, tokens: Tensor, state: DecoderState | None) -> Tensor | None:
        """What attention may look at. None where being causal says it: there are faster kernels for that."""
        num_tokens = tokens.shape[1]
        if self.separator_id is not None:
            seen = tokens if state is None else state.append_tokens(tokens)
            return document_mask(seen, self.separator_id, num_tokens)
        if state is None or state.length == 0 or num_tokens == 1:
            return None
        return causal_mask(num_tokens, state.length + num_tokens, tokens.device)
