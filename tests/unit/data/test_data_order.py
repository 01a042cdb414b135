"""The sample order is a bijection, a pure function of (seed, epoch, position), and random enough."""

import numpy as np
import pytest

from distmlp.data.order import permuted


def whole(num_samples: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return permuted(np.arange(num_samples), num_samples, seed, epoch)


@pytest.mark.parametrize(
    "num_samples", [*range(1, 40), 63, 64, 65, 255, 256, 257, 1000, 1797, 4095, 4096, 4097, 60_000]
)
def test_every_sample_appears_once(num_samples: int) -> None:
    for seed, epoch in ((0, 0), (1, 7), (-3, 2), (2**40, 0)):
        assert np.array_equal(np.sort(whole(num_samples, seed, epoch)), np.arange(num_samples))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {whole(500, seed, epoch).tobytes() for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    # An order close to another one would repeat batches: two random permutations agree in about one place.
    assert (whole(500, 0, 0) == whole(500, 0, 1)).sum() < 10
    assert (whole(500, 0, 1) == whole(500, 1, 0)).sum() < 10


def test_any_subset_of_positions_gives_what_the_whole_gives() -> None:
    order = whole(1797, 5, 3)
    positions = np.random.default_rng(0).permutation(1797)[:600]
    assert np.array_equal(permuted(positions, 1797, 5, 3), order[positions])
    assert np.array_equal(permuted(positions.reshape(20, 30), 1797, 5, 3), order[positions].reshape(20, 30))
    assert permuted(np.array([], dtype=np.int64), 1797, 5, 3).shape == (0,)


def test_positions_of_a_huge_set_cost_no_memory_for_the_rest() -> None:
    num_samples = 10**15 + 37
    values = permuted(np.array([0, 1, num_samples - 1]), num_samples, 0, 0)
    assert values.dtype == np.int64
    assert len(set(values.tolist())) == 3
    assert ((values >= 0) & (values < num_samples)).all()


def test_a_sample_lands_anywhere_with_equal_chance() -> None:
    num_samples, num_epochs, num_bins = 97, 2000, 97
    places = np.array([whole(num_samples, 0, epoch)[0] for epoch in range(num_epochs)])
    expected = num_epochs / num_bins
    chi_squared = ((np.bincount(places, minlength=num_bins) - expected) ** 2 / expected).sum()
    degrees = num_bins - 1
    # Mean `degrees`, variance 2·degrees: five standard deviations either side, so too even counts fail as well.
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


def test_neighbours_are_not_kept_together() -> None:
    order = whole(10_000).astype(np.float64)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.05
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05


def test_the_order_is_the_one_that_earlier_checkpoints_counted_on() -> None:
    assert whole(10, seed=0, epoch=0).tolist() == [8, 6, 2, 1, 4, 9, 3, 0, 5, 7]
    assert permuted(np.array([0, 1, 59_999]), 60_000, 42, 3).tolist() == [33324, 50789, 45577]
