"""scikit-learn's digits, as images of the size asked for."""

import numpy as np
import pytest
import torch

from distmlp.data.dataset import DataSet
from distmlp.data.digits import load_digits
from distmlp.errors import ConfigError


def digits(image_size: int = 28, normalize: bool = False, split_seed: int = 0) -> DataSet:
    return load_digits(
        image_size=image_size,
        validation_fraction=0.1,
        test_fraction=0.2,
        split_seed=split_seed,
        normalize=normalize,
    )


def everything(data: DataSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = [split.batch(torch.arange(len(split))) for split in (data.train, data.validation, data.test)]
    ids = [split.sample_ids(torch.arange(len(split))) for split in (data.train, data.validation, data.test)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), torch.cat(ids)


def test_at_the_original_size_it_is_the_bundled_set() -> None:
    from sklearn.datasets import load_digits as load_bundled

    inputs, targets, ids = everything(digits(image_size=8))
    assert ids.sort().values.tolist() == list(range(1797))
    np.testing.assert_array_equal(inputs[ids.argsort(), 0].numpy(), load_bundled().images / 16)
    assert targets[ids.argsort()].tolist() == load_bundled().target.tolist()


def test_images_have_the_size_asked_for_and_lie_in_zero_one() -> None:
    data = digits()
    inputs, targets, _ = everything(data)
    assert inputs.shape == (1797, 1, 28, 28)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert data.input_shape == (1, 28, 28)
    assert (data.task, data.num_outputs, data.name) == ("classification", 10, "digits")
    assert inputs.min() >= 0
    assert inputs.max() == 1
    assert set(targets.tolist()) == set(range(10))


def test_normalised_by_the_training_split_only() -> None:
    data, raw = digits(normalize=True), digits()
    positions = torch.arange(len(data.train))
    train, plain = data.train.batch(positions)[0], raw.train.batch(positions)[0]
    assert abs(float(train.mean())) < 1e-5
    assert abs(float(train.std()) - 1) < 1e-4
    test, plain_test = data.test.batch(torch.arange(5))[0], raw.test.batch(torch.arange(5))[0]
    torch.testing.assert_close(test, (plain_test - plain.mean()) / plain.std(unbiased=False), rtol=1e-4, atol=1e-5)


def test_the_fingerprint_is_of_the_content_and_the_split_of_the_seed() -> None:
    assert digits(8).fingerprint == digits(8, normalize=True, split_seed=1).fingerprint
    assert digits(8).fingerprint != digits(9).fingerprint
    ids = [digits(8, split_seed=seed).test.sample_ids(torch.arange(359)) for seed in (0, 0, 1)]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.image_size is 0, expected 1 or more pixels$"):
        digits(image_size=0)
