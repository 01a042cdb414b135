"""Synthetic samples are a function of their id alone, cost no memory for their number, and can be learnt."""

import pytest
import torch

from distmlp.data.dataset import DataSet
from distmlp.data.synthetic import POOL_BYTES, SyntheticSplit, load_synthetic
from distmlp.errors import ConfigError


def synthetic(
    num_samples: int = 1000,
    input_shape: list[int] | None = None,
    num_classes: int = 4,
    split_seed: int = 0,
    normalize: bool = True,
) -> DataSet:
    return load_synthetic(
        num_samples=num_samples,
        input_shape=input_shape or [12],
        num_classes=num_classes,
        validation_fraction=0.1,
        test_fraction=0.2,
        split_seed=split_seed,
        normalize=normalize,
    )


def test_splits_are_ranges_of_ids_training_first() -> None:
    data = synthetic()
    ranges = [(len(split), split.sample_ids(torch.tensor([0, len(split) - 1])).tolist()) for split in
              (data.train, data.validation, data.test)]  # fmt: skip
    assert ranges == [(700, [0, 699]), (100, [700, 799]), (200, [800, 999])]


def test_a_sample_does_not_depend_on_its_batch_or_on_the_number_of_samples() -> None:
    inputs, targets = synthetic().train.batch(torch.arange(700))
    again, labels = synthetic(num_samples=10**12).train.batch(torch.tensor([650, 3]))
    assert torch.equal(inputs[[650, 3]], again)
    assert torch.equal(targets[[650, 3]], labels)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64


def test_a_trillion_samples_cost_what_a_thousand_cost() -> None:
    data = synthetic(num_samples=10**12, input_shape=[3, 8, 8])
    assert len(data.train) == 700_000_000_000
    inputs, _ = data.test.batch(torch.tensor([0, 199_999_999_999]))
    assert inputs.shape == (2, 3, 8, 8)
    assert data.test.sample_ids(torch.tensor([199_999_999_999])).tolist() == [999_999_999_999]


def test_the_pool_of_large_samples_is_bounded() -> None:
    data = synthetic(input_shape=[3, 512, 512], num_classes=2)
    assert isinstance(data.train, SyntheticSplit)
    assert 4 * data.train.pool.numel() <= POOL_BYTES
    assert data.train.batch(torch.arange(2))[0].shape == (2, 3, 512, 512)


def test_samples_differ_and_classes_are_all_there() -> None:
    inputs, targets = synthetic(num_samples=20_000).train.batch(torch.arange(14_000))
    assert len(inputs.unique(dim=0)) == 14_000
    assert torch.bincount(targets, minlength=4).min() > 1000


def test_normalised_inputs_have_mean_zero_and_deviation_one_with_the_same_labels() -> None:
    inputs, targets = synthetic(20_000).train.batch(torch.arange(14_000))
    plain, labels = synthetic(20_000, normalize=False).train.batch(torch.arange(14_000))
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02
    assert plain.min() >= 0
    assert plain.max() < 1
    assert torch.equal(targets, labels)


def test_a_linear_network_learns_it_and_generalises() -> None:
    data = synthetic(num_samples=10_000)
    inputs, targets = data.train.batch(torch.arange(7000))
    with_bias = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    weights = torch.linalg.lstsq(with_bias, torch.nn.functional.one_hot(targets).float()).solution
    test_inputs, test_targets = data.test.batch(torch.arange(2000))
    scores = torch.cat([test_inputs, torch.ones(2000, 1)], dim=1) @ weights
    assert (scores.argmax(dim=1) == test_targets).float().mean() > 0.75  # chance is 0.25


def test_the_fingerprint_is_of_the_parameters_that_make_the_content() -> None:
    assert synthetic().fingerprint == synthetic(normalize=False).fingerprint
    others = [synthetic(1001), synthetic(input_shape=[13]), synthetic(num_classes=5), synthetic(split_seed=1)]
    assert len({data.fingerprint for data in (synthetic(), *others)}) == 5


def test_a_seed_makes_other_samples() -> None:
    first, second = (synthetic(split_seed=seed).train.batch(torch.arange(5))[0] for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 3}, r"^synthetic: 3 samples split into 2 train, 0 validation and 1 test: a split is empty"),
        ({"input_shape": [3, 0]}, r"^data\.input_shape is \[3, 0\], expected positive sizes"),
        ({"num_classes": 1}, r"^data\.num_classes is 1, expected 2 or more"),
    ],
)
def test_sizes_that_make_no_set_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic(**arguments)  # type: ignore[arg-type]
