"""Multi-head attention as all Transformers here use it: grouped queries, rotary positions, a cache for generation.

Vaswani et al., "Attention is all you need", 2017; grouped queries: Ainslie et al., "GQA: Training generalized
multi-query Transformer models from multi-head checkpoints", 2023; normalised queries and keys: Dehghani et al.,
"Scaling vision Transformers to 22 billion parameters", 2023.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmlp.model.kv_cache import LayerCache
from distmlp.model.rotary import Rotary


class Attention(nn.Module):
    """Attention of a sequence to itself, by the fused kernels of torch.

    Args:
        width: of the input and the output.
        num_heads: heads of queries; they divide ``width``.
        num_kv_heads: heads of keys and values, each shared by an equal number of query heads; None: ``num_heads``.
        bias: biases of the four linear layers.
        causal: a position attends to itself and what is before it.
        qk_norm: RMS norm of each query and key, over the values of a head.
        norm_eps: added to the variance in that norm.
        rotary: turns queries and keys by their positions; None leaves them. One may serve all layers.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        bias: bool = True,
        causal: bool = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        assert width % num_heads == 0, (width, num_heads)
        assert num_heads % num_kv_heads == 0, (num_heads, num_kv_heads)
        self.head_width = width // num_heads
        self.is_grouped = num_kv_heads != num_heads
        self.causal = causal
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, num_kv_heads * self.head_width, bias=bias)
        self.value = nn.Linear(width, num_kv_heads * self.head_width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.query_norm = nn.RMSNorm(self.head_width, norm_eps) if qk_norm else None
        self.key_norm = nn.RMSNorm(self.head_width, norm_eps) if qk_norm else None
        self.rotary = rotary

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """(N, T, width) → (N, T, width).

        Args:
            x: the sequences, or with a ``cache`` what continues them.
            mask: bool, broadcastable to (N, heads, T, keys), True where a query may look at a key. It replaces the
                causal rule, and must hold it. Without one, several tokens may not continue a cache that holds some.
            cache: keys and values before ``x``; those of ``x`` are appended.
        """
        start = 0 if cache is None else cache.length
        assert mask is not None or start == 0 or x.shape[1] == 1
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        query, key = _normalised(query, self.query_norm), _normalised(key, self.key_norm)
        if self.rotary is not None:
            query, key = self.rotary(query, start), self.rotary(key, start)
        if cache is not None:
            key, value = cache.append(key, value)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            # Without a mask the flash kernels apply. A single new token looks at all that the cache holds. `not start`
            # is a bool under torch.compile too, where `start == 0` is symbolic.
            is_causal=self.causal and mask is None and not start,
            enable_gqa=self.is_grouped,
        )
        return self.output(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        """(N, T, heads · head_width) → (N, heads, T, head_width)."""
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Bool (num_queries, num_keys): the last query may look at every key, each one before it at one key fewer."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)


def document_mask(tokens: Tensor, separator_id: int, num_queries: int) -> Tensor:
    """Bool (N, 1, num_queries, T): the last ``num_queries`` tokens look back, but not beyond their own document.

    Args:
        tokens: (N, T).
        separator_id: the token that ends a document and belongs to it.
        num_queries: how many of the tokens look.
    """
    ends = tokens == separator_id
    documents = ends.cumsum(dim=1) - ends.long()
    same = documents[:, -num_queries:, None] == documents[:, None, :]
    return (same & causal_mask(num_queries, tokens.shape[1], tokens.device)).unsqueeze(1)


def _normalised(x: Tensor, norm: nn.RMSNorm | None) -> Tensor:
    if norm is None:
        return x
    # Under autocast the linear layers give bfloat16 beside the norm's float32 weight: torch has no fused norm for that.
    normed: Tensor = norm(x.to(norm.weight.dtype))
    return normed.type_as(x)
