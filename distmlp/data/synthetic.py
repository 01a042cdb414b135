"""A learnable set of any size in bounded memory, for benchmarks and for runs too long for any real set at hand.

Inputs and labels are a pure function of the sample's id, so nothing is stored but a pool of random rows: an id selects
a pair of them (a keyed permutation of all pairs, `order.py`) and the input is two thirds of the first and one third of
the second. The label is the class that a fixed random linear teacher scores highest. Being linear, the teacher is
applied to the pool once; a batch costs two gathers.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distmlp.data.dataset import DataSet
from distmlp.data.order import permuted
from distmlp.errors import ConfigError

POOL_ROWS = 4096
POOL_BYTES = 1 << 26
TEACHER_BLOCK_BYTES = 1 << 26
_MEAN = 0.5  # of a uniform variable in [0, 1), and of any weighted mean of such
_STD = math.sqrt(5 / 9 / 12)  # of 2/3 of one and 1/3 of another


@dataclass(frozen=True)
class SyntheticSplit:
    """Ids ``first_id … first_id + num_samples - 1``. pool (P, *input_shape) float32, scores (P, classes) float64."""

    pool: Tensor
    scores: Tensor
    first_id: int
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return self.num_samples

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (len(positions), *input_shape) float32 and labels (len(positions),) int64."""
        num_rows = len(self.pool)
        ids = self.sample_ids(positions).numpy() % num_rows**2
        pairs = torch.from_numpy(permuted(ids, num_rows**2, self.seed, 0))
        first, second = pairs // num_rows, pairs % num_rows
        # Unequal weights: the pair (a, b) is another sample than (b, a).
        inputs = torch.lerp(self.pool[second], self.pool[first], 2 / 3)
        return inputs, (2 * self.scores[first] + self.scores[second]).argmax(dim=1)

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Ids, int64, (len(positions),)."""
        return positions + self.first_id


def load_synthetic(
    *,
    num_samples: int,
    input_shape: list[int],
    num_classes: int,
    validation_fraction: float,
    test_fraction: float,
    split_seed: int,
    normalize: bool,
) -> DataSet:
    """Random inputs of ``input_shape`` with the labels of a linear teacher; samples repeat after (pool rows)² ids.

    Args:
        num_samples: of all three splits together; the splits are ranges of ids, training first.
        input_shape: of one sample.
        num_classes: 2 or more.
        validation_fraction: share of all samples that validate.
        test_fraction: share of all samples that test.
        split_seed: seed of everything that is generated.
        normalize: inputs of mean 0 and standard deviation 1 (known, so not fitted) instead of values in [0, 1).

    Raises:
        ConfigError: a size is not positive, there are fewer than 2 classes, or a split would be empty.
    """
    if not input_shape or min(input_shape) < 1:
        raise ConfigError(f"data.input_shape is {list(input_shape)}, expected positive sizes such as [1, 28, 28]")
    if num_classes < 2:
        raise ConfigError(f"data.num_classes is {num_classes}, expected 2 or more")
    num_validation, num_test = round(num_samples * validation_fraction), round(num_samples * test_fraction)
    sizes = (num_samples - num_validation - num_test, num_validation, num_test)
    if min(sizes) < 1:
        raise ConfigError(
            f"synthetic: {num_samples} samples split into {sizes[0]} train, {sizes[1]} validation and {sizes[2]} test: "
            "a split is empty; change data.num_samples, data.validation_fraction and data.test_fraction"
        )
    pool, scores = _pool_and_scores(math.prod(input_shape), num_classes, split_seed)
    pool = pool.reshape(-1, *input_shape)
    if normalize:
        pool = (pool - _MEAN) / _STD
    starts = (0, sizes[0], sizes[0] + sizes[1])
    train, validation, test = (
        SyntheticSplit(pool, scores, start, size, split_seed) for start, size in zip(starts, sizes, strict=True)
    )
    content = json.dumps(["synthetic", num_samples, list(input_shape), num_classes, split_seed])
    fingerprint = f"blake2b:{hashlib.blake2b(content.encode(), digest_size=16).hexdigest()}"
    shape = tuple(input_shape)
    return DataSet("synthetic", "classification", shape, num_classes, train, validation, test, fingerprint)


def _pool_and_scores(num_features: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pool (P, features) float32 in [0, 1) and the teacher's scores of it (P, classes) float64.

    Uniform numbers, since they are exact on every processor; scores in float64, so that rounding decides no label.
    """
    num_rows = max(2, min(POOL_ROWS, POOL_BYTES // (4 * num_features), POOL_BYTES // (8 * num_classes)))
    pool = np.random.default_rng([seed, 0]).random((num_rows, num_features), dtype=np.float32)
    centred = pool.astype(np.float64) - _MEAN
    teacher = np.random.default_rng([seed, 1])
    block = max(1, TEACHER_BLOCK_BYTES // (8 * num_features))
    scores = [
        centred @ (teacher.random((min(block, num_classes - start), num_features)) - 0.5).T
        for start in range(0, num_classes, block)
    ]
    return torch.from_numpy(pool), torch.from_numpy(np.concatenate(scores, axis=1))
