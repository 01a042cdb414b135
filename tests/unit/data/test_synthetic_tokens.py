"""Synthetic tokens are a function of their id, cost no memory, and can be learnt down to a loss known in advance."""

import math

import pytest
import torch

from distmlp.data.dataset import DataSet
from distmlp.data.masking import MaskedSplit
from distmlp.data.synthetic_tokens import SyntheticTokenSplit, best_loss, load_synthetic_tokens
from distmlp.errors import ConfigError


def synthetic(
    num_samples: int = 1000, vocab_size: int = 40, split_seed: int = 0, task: str = "next_token", seed: int = 0
) -> DataSet:
    return load_synthetic_tokens(
        num_samples=num_samples,
        vocab_size=vocab_size,
        split_seed=split_seed,
        sequence_length=64,
        task=task,  # type: ignore[arg-type]
        mask_fraction=0.15,
        validation_fraction=0.1,
        test_fraction=0.0,
        seed=seed,
    )


def test_splits_are_ranges_of_ids_training_first() -> None:
    data = synthetic()
    assert (len(data.train), len(data.validation), len(data.test)) == (900, 100, 0)
    assert data.validation.sample_ids(torch.tensor([0, 99])).tolist() == [900, 999]
    assert (data.input_shape, data.num_outputs, data.task) == ((64,), 40, "next_token")


def test_a_sequence_depends_on_its_id_and_split_seed_alone() -> None:
    inputs, targets = synthetic().train.batch(torch.arange(900))
    again, following = synthetic(num_samples=10**12, seed=5).train.batch(torch.tensor([850, 3]))
    assert torch.equal(inputs[[850, 3]], again)
    assert torch.equal(targets[[850, 3]], following)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert len(inputs.unique(dim=0)) == 900
    assert not torch.equal(synthetic(split_seed=1).train.batch(torch.arange(900))[0], inputs)


def test_counted_pairs_reach_the_best_loss_and_it_is_far_below_that_of_guessing() -> None:
    data = synthetic(num_samples=10_000)
    inputs, targets = data.train.batch(torch.arange(6000))
    pairs = torch.zeros(40, 40, dtype=torch.float64)
    pairs.index_put_((inputs.flatten(), targets.flatten()), torch.ones(1, dtype=torch.float64), accumulate=True)
    table = ((pairs + 0.01) / (pairs + 0.01).sum(dim=1, keepdim=True)).log()
    inputs, targets = data.validation.batch(torch.arange(1000))
    loss = -table[inputs, targets].mean().item()
    assert loss == pytest.approx(best_loss(40), abs=0.02)
    assert best_loss(40) < 0.2 * math.log(40)
    assert pairs.sum(dim=0).std() < 0.05 * pairs.sum(dim=0).mean()  # no token is rarer: knowing them all is needed


def test_masked_sequences_hide_tokens_of_the_same_sequences() -> None:
    data = synthetic(task="masked_token")
    assert isinstance(data.train, MaskedSplit)
    assert isinstance(data.train.tokens, SyntheticTokenSplit)
    assert data.vocabulary is not None
    assert (data.num_outputs, data.vocabulary.mask_id) == (41, 40)
    assert data.train.batch(torch.arange(3))[0].max() == 40


@pytest.mark.parametrize(("num_samples", "vocab_size", "message"), [(4, 40, "0 validation"), (100, 1, "2 or more")])
def test_sizes_that_cannot_be_are_refused(num_samples: int, vocab_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic(num_samples, vocab_size)
