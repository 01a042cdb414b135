"""Mean and standard deviation, fitted on the training split only: the others must not leak into training.

One file for every source, so that two sources with the same numbers are normalised alike. The fit reads the rows by
parts (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979) in
float64: a memory-mapped set costs no more memory than one part, and gives bit for bit what a set in memory gives.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

PART_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Normalisation:
    """``mean`` and ``std``, float32: both () for the whole input, or both of the input's shape for each feature."""

    mean: Tensor
    std: Tensor

    def apply(self, inputs: Tensor) -> Tensor:
        """(inputs - mean) / std for inputs (N, *input_shape) float32; a new tensor of the same shape."""
        return (inputs - self.mean) / self.std


def fit_normalisation(
    inputs: npt.NDArray[Any], rows: Tensor, *, per_feature: bool, progress_title: str | None = None
) -> Normalisation:
    """Mean and population standard deviation of ``inputs[rows]`` as float32; the std of what never changes is 1.

    Args:
        inputs: (N, *input_shape), any number type, finite, may be memory-mapped.
        rows: row numbers of the training split, int64, at least one.
        per_feature: one mean and std for each feature; otherwise one for all.
        progress_title: title of a progress bar on a terminal's stderr; None shows none.
    """
    ordered = np.sort(rows.numpy())  # reads a file from front to back
    step = max(1, PART_ELEMENTS // max(1, inputs[:1].size))
    axis = 0 if per_feature else None
    count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    starts = range(0, len(ordered), step)
    for start in tqdm(starts, desc=progress_title, disable=None if progress_title else True):
        # The network sees float32, so what varies by less than float32 can tell counts as constant.
        part = inputs[ordered[start : start + step]].astype(np.float32).astype(np.float64)
        part_count = len(part) if per_feature else part.size
        part_mean = part.mean(axis=axis)
        total = count + part_count
        delta = part_mean - mean
        squares = squares + ((part - part_mean) ** 2).sum(axis=axis) + delta**2 * (count * part_count / total)
        mean = mean + delta * (part_count / total)
        low, high = np.minimum(low, part.min(axis=axis)), np.maximum(high, part.max(axis=axis))
        count = total
    # Rounding leaves a constant feature a tiny variance, so equality of the extremes decides.
    std = np.where(low == high, 1.0, np.sqrt(squares / count))
    return Normalisation(torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(std, dtype=torch.float32))
