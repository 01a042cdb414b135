"""Masked-token samples: some tokens of each sequence are hidden, and those are what the network predicts.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019: of the tokens
chosen, 80 % become the mask, 10 % a random token, and 10 % stay. Which they are is a function of (seed, epoch, sample,
place): the same for any world size, new in each epoch, and fixed where no epoch is named, as in evaluation.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distmlp.data.counter_hash import hashed
from distmlp.data.dataset import IGNORED, TokenSplit
from distmlp.data.token_files import Int64Array
from distmlp.data.vocabulary import Vocabulary

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens
_NO_EPOCH = -1
_CHOICE, _FATE, _TOKEN = 1, 2, 3  # three independent draws at each place
_ALL = np.uint64((1 << 64) - 1)


@dataclass(frozen=True)
class MaskedSplit:
    """The inputs of ``tokens``, a split of next-token samples, with ``mask_fraction`` of them to predict.

    Of n tokens exactly max(1, round(mask_fraction · n)) are chosen, so that their number is known without reading
    them. Special tokens inside a sequence come last: they are chosen only where there are too few others.
    """

    tokens: TokenSplit
    vocabulary: Vocabulary
    mask_fraction: float
    seed: int
    epoch: int = _NO_EPOCH

    def __len__(self) -> int:
        return len(self.tokens)

    def in_epoch(self, epoch: int) -> "MaskedSplit":
        return replace(self, tokens=self.tokens.in_epoch(epoch), epoch=epoch)

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Ids, int64, (len(positions),)."""
        return self.tokens.sample_ids(positions)

    def num_targets(self, positions: Tensor) -> Tensor:
        """Tokens to predict, int64, (len(positions),)."""
        lengths = self.tokens.num_targets(positions)
        return (lengths * self.mask_fraction).round().to(torch.int64).clamp(min=1)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (len(positions), T) int64; targets are `IGNORED` but where a token was chosen."""
        inputs = self.tokens.batch(positions)[0].numpy()
        ids, places = self.sample_ids(positions).numpy(), np.arange(inputs.shape[1])
        rows, columns = np.nonzero(self._chosen(inputs, ids[:, None], places, positions))
        originals, masked = inputs[rows, columns], inputs.copy()
        targets = np.full_like(inputs, IGNORED)
        targets[rows, columns] = originals
        masked[rows, columns] = self._replaced(originals, ids[rows], columns)
        return torch.from_numpy(masked), torch.from_numpy(targets)

    def _replaced(self, originals: Int64Array, ids: Int64Array, places: Int64Array) -> Int64Array:
        """What stands in the place of the chosen tokens, (n,)."""
        assert self.vocabulary.mask_id is not None, "`token_vocabulary` adds it"
        fate = hashed(self.seed, self.epoch, _FATE, ids, places) / 2.0**64
        drawn = hashed(self.seed, self.epoch, _TOKEN, ids, places) % np.uint64(len(self._ordinary))
        changed = np.where(fate < MASKED, self.vocabulary.mask_id, self._ordinary[drawn.astype(np.int64)])
        return np.where(fate < MASKED + RANDOM, changed, originals)

    def _chosen(
        self, inputs: Int64Array, ids: Int64Array, places: Int64Array, positions: Tensor
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """True at the places with the lowest draws: ordinary tokens before special ones, and never padding."""
        low = np.uint64((1 << len(places).bit_length()) - 1)
        draws = hashed(self.seed, self.epoch, _CHOICE, ids, places) >> np.uint64(2)
        draws = (draws & ~low) | places.astype(np.uint64)  # no two alike in a sequence, so the number is exact
        draws[self._is_special[inputs]] |= np.uint64(1 << 62)
        draws[places >= self.tokens.num_targets(positions).numpy()[:, None]] = _ALL
        last = np.sort(draws, axis=1)[np.arange(len(draws)), self.num_targets(positions).numpy() - 1]
        chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = draws <= last[:, None]
        return chosen

    @cached_property
    def _is_special(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        special = np.zeros(self.vocabulary.size, dtype=bool)
        special[list(self.vocabulary.special_ids)] = True
        return special

    @cached_property
    def _ordinary(self) -> Int64Array:
        return np.flatnonzero(~self._is_special)
