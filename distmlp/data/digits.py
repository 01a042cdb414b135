"""The handwritten digits bundled with scikit-learn: a real image set of 1,797 samples, with no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

import numpy as np
import torch

from distmlp.data.dataset import DataSet, TensorSplit, content_fingerprint, split_rows
from distmlp.data.normalize import fit_normalisation
from distmlp.errors import ConfigError

NUM_CLASSES = 10
MAX_INTENSITY = 16.0


def load_digits(
    *, image_size: int = 28, validation_fraction: float, test_fraction: float, split_seed: int, normalize: bool
) -> DataSet:
    """Digits 0 to 9 as images (1, image_size, image_size) float32 in [0, 1], resized from 8x8 (bilinear).

    Args:
        image_size: height and width in pixels.
        validation_fraction: share of all samples that validate.
        test_fraction: share of all samples that test.
        split_seed: seed of the split.
        normalize: subtract the mean and divide by the standard deviation of the training split's pixels.

    Raises:
        ConfigError: ``image_size`` is not positive, or a split would be empty.
    """
    if image_size < 1:
        raise ConfigError(f"data.image_size is {image_size}, expected 1 or more pixels")
    from sklearn.datasets import load_digits as load_bundled

    bundled = load_bundled()
    images, labels = bundled.images.astype(np.float32), bundled.target.astype(np.int64)
    rows = split_rows(
        len(labels),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=split_seed,
        source="digits",
    )
    inputs = torch.from_numpy(images / MAX_INTENSITY)[:, None]
    inputs = torch.nn.functional.interpolate(inputs, size=(image_size, image_size), mode="bilinear")
    if normalize:
        inputs = fit_normalisation(inputs.numpy(), rows[0], per_feature=False).apply(inputs)
    targets = torch.from_numpy(labels)
    train, validation, test = (TensorSplit(inputs[part], targets[part], part) for part in rows)
    # Of the pixels before resizing: interpolation may round differently on another processor.
    fingerprint = content_fingerprint(images, labels, np.array([image_size]))
    shape = (1, image_size, image_size)
    return DataSet("digits", "classification", shape, NUM_CLASSES, train, validation, test, fingerprint)
