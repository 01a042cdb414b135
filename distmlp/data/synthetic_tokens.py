"""Made-up but learnable tokens, any number of them, for benchmarks and for runs longer than any text at hand.

A hidden order puts all V tokens in a circle. With probability 1 - ε the next token is the one that follows in it, else
any token, uniformly. The best loss of a network that predicts the next token is therefore the entropy of one step,

    H = -(p ln p + (V - 1) q ln q),   q = ε / V,   p = 1 - ε + q,

and one that has learnt nothing has ln V. Every token is a function of (split_seed, sample, place): nothing is stored
but the circle, 8 V bytes.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from distmlp.data.counter_hash import hashed
from distmlp.data.dataset import DataSet, TokenSplit
from distmlp.data.masking import MaskedSplit
from distmlp.data.token_files import Int64Array
from distmlp.data.token_splits import token_vocabulary
from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError

NOISE = 0.1  # ε
_JUMP, _TOKEN = 1, 2


@dataclass(frozen=True)
class SyntheticTokenSplit:
    """Sequences ``first_id … first_id + num_samples - 1`` over the tokens of ``circle`` (V,) int64."""

    circle: Int64Array
    first_id: int
    num_samples: int
    sequence_length: int
    seed: int

    def __len__(self) -> int:
        return self.num_samples

    def in_epoch(self, epoch: int) -> "SyntheticTokenSplit":
        return self

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and next tokens (len(positions), T) int64."""
        ids = self.sample_ids(positions).numpy()[:, None]
        places, size = np.arange(self.sequence_length + 1), len(self.circle)
        jumps = hashed(self.seed, _JUMP, ids, places) / 2.0**64 < NOISE
        jumps[:, 0] = True
        origin = np.maximum.accumulate(np.where(jumps, places, 0), axis=1)  # the last jump at or before each place
        landing = hashed(self.seed, _TOKEN, ids, places) % np.uint64(size)
        on_circle = np.take_along_axis(landing.astype(np.int64), origin, axis=1) + (places - origin)
        tokens = torch.from_numpy(self.circle[on_circle % size])
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Ids, int64, (len(positions),)."""
        return positions + self.first_id

    def num_targets(self, positions: Tensor) -> Tensor:
        """T for each, int64, (len(positions),)."""
        return torch.full_like(positions, self.sequence_length)


def best_loss(vocab_size: int) -> float:
    """Mean cross-entropy, in nats a token, of the best next-token predictor: H above."""
    other = NOISE / vocab_size
    follower = 1 - NOISE + other
    return -(follower * math.log(follower) + (vocab_size - 1) * other * math.log(other))


def load_synthetic_tokens(
    *,
    num_samples: int,
    vocab_size: int,
    split_seed: int,
    sequence_length: int,
    task: Literal["next_token", "masked_token"],
    mask_fraction: float,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> DataSet:
    """Sequences of T tokens; the splits are ranges of ids, training first.

    Args:
        num_samples: of all three splits together; memory does not grow with it.
        vocab_size: V, 2 or more.
        split_seed: seed of everything that is generated.
        sequence_length: T.
        task: next_token, or masked_token (`masking.py`).
        mask_fraction: share of the tokens to predict in masked_token.
        validation_fraction: share of all samples that validate.
        test_fraction: share of all samples that test; may be 0.
        seed: of the masks.

    Raises:
        ConfigError: fewer than 2 tokens, or a split that is asked for would be empty.
    """
    if vocab_size < 2:
        raise ConfigError(f"data.vocab_size is {vocab_size}, expected 2 or more")
    num_validation, num_test = round(num_samples * validation_fraction), round(num_samples * test_fraction)
    sizes = (num_samples - num_validation - num_test, num_validation, num_test)
    if min(sizes[:2]) < 1 or (test_fraction and not num_test):
        raise ConfigError(
            f"synthetic_tokens: {num_samples} samples split into {sizes[0]} train, {sizes[1]} validation and "
            f"{sizes[2]} test: a split is empty; change data.num_samples, data.validation_fraction, "
            "or data.test_fraction"
        )
    vocabulary = token_vocabulary(Vocabulary("ids", vocab_size), task=task, packing="stream")
    circle = np.random.default_rng(split_seed).permutation(vocab_size).astype(np.int64)
    starts = (0, sizes[0], sizes[0] + sizes[1])
    splits: list[TokenSplit] = [
        SyntheticTokenSplit(circle, start, size, sequence_length, split_seed)
        for start, size in zip(starts, sizes, strict=True)
    ]
    if task == "masked_token":
        splits = [MaskedSplit(split, vocabulary, mask_fraction, seed) for split in splits]
    content = json.dumps(["synthetic_tokens", num_samples, vocab_size, sequence_length, split_seed, NOISE])
    fingerprint = f"blake2b:{hashlib.blake2b(content.encode(), digest_size=16).hexdigest()}"
    shape, (train, validation, test) = (sequence_length,), splits
    notes = (f"The best loss that can be reached is {best_loss(vocab_size):.4f}.",) if task == "next_token" else ()
    return DataSet(
        "synthetic_tokens", task, shape, vocabulary.size, train, validation, test, fingerprint, notes, vocabulary
    )
