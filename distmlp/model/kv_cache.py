"""What a decoder remembers of the tokens it has seen, so that generating a token costs one token's work."""

import torch
from torch import Tensor

from distmlp.errors import ConfigError


class LayerCache:
    """Keys and values of one layer, appended in place to memory that is taken once, for ``max_length`` tokens."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds (N, heads, T, head_width) and returns all so far, (N, heads, length, head_width), without gradient.

        Memory is taken at the first call: only then are the type that autocast computes in and the device known.
        """
        self._keys = self._taken(keys) if self._keys is None else self._keys
        self._values = self._taken(values) if self._values is None else self._values
        start, self.length = self.length, self.length + keys.shape[2]
        self._keys[:, :, start : self.length] = keys.detach()
        self._values[:, :, start : self.length] = values.detach()
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def _taken(self, like: Tensor) -> Tensor:
        num_sequences, num_heads, _, head_width = like.shape
        return torch.empty(num_sequences, num_heads, self.max_length, head_width, dtype=like.dtype, device=like.device)


class DecoderState:
    """The caches of all layers of a decoder, and the tokens themselves where documents must be told apart.

    Args:
        num_sequences: sequences that are continued side by side.
        max_length: most tokens that a sequence can have, its prompt included.
        num_layers: layers with a cache each.
        keeps_tokens: ``append_tokens`` will be called.
    """

    def __init__(self, *, num_sequences: int, max_length: int, num_layers: int, keeps_tokens: bool) -> None:
        self.num_sequences = num_sequences
        self.max_length = max_length
        self.layers = [LayerCache(max_length) for _ in range(num_layers)]
        self.tokens = torch.empty(num_sequences, 0, dtype=torch.int64) if keeps_tokens else None

    @property
    def length(self) -> int:
        """Tokens of each sequence so far."""
        return self.layers[0].length

    def check_fits(self, tokens: Tensor) -> None:
        """Raises `ConfigError` unless ``tokens`` (N, T) continue these sequences within their longest length."""
        num_sequences, num_tokens = tokens.shape
        if num_sequences != self.num_sequences:
            raise ConfigError(f"{num_sequences} sequences continue a state of {self.num_sequences}: give as many")
        if self.length + num_tokens > self.max_length:
            raise ConfigError(
                f"{num_tokens} tokens after {self.length} are more than the state's max_length={self.max_length}"
            )

    def append_tokens(self, tokens: Tensor) -> Tensor:
        """Adds tokens (N, T) and returns all so far, (N, length + T)."""
        assert self.tokens is not None
        self.tokens = torch.cat((self.tokens.to(tokens.device), tokens), dim=1)
        return self.tokens
