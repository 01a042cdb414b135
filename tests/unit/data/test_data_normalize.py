"""The fit equals NumPy's on the training rows, whatever the number of parts it is read in."""

import numpy as np
import pytest
import torch

from distmlp.data import normalize
from distmlp.data.normalize import fit_normalisation


@pytest.mark.parametrize("part_elements", [1, 7, 1 << 22])
@pytest.mark.parametrize("per_feature", [True, False])
def test_fit_equals_numpy_on_the_training_rows(
    part_elements: int, per_feature: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalize, "PART_ELEMENTS", part_elements)
    inputs = np.random.default_rng(0).normal(1000.0, 3.0, (60, 2, 3)).astype(np.float32)
    rows = torch.randperm(60)[:41]
    inputs[sorted(set(range(60)) - set(rows.tolist()))] = 1e6  # would show at once if another row were read
    fit = fit_normalisation(inputs, rows, per_feature=per_feature)
    axis = 0 if per_feature else None
    train = inputs[rows.numpy()].astype(np.float64)
    np.testing.assert_allclose(fit.mean.numpy(), train.mean(axis), rtol=1e-6)
    np.testing.assert_allclose(fit.std.numpy(), train.std(axis), rtol=1e-5)
    assert fit.mean.shape == ((2, 3) if per_feature else ())
    normalised = fit.apply(torch.from_numpy(inputs[rows.numpy()]))
    assert normalised.dtype == torch.float32
    assert abs(float(normalised.mean())) < 1e-3
    assert abs(float(normalised.std(unbiased=False)) - 1) < 1e-3


def test_a_constant_feature_keeps_its_scale() -> None:
    inputs = np.stack([np.full(1000, 0.1), np.arange(1000.0)], axis=1)
    fit = fit_normalisation(inputs, torch.arange(1000), per_feature=True)
    assert fit.std[0] == 1.0
    assert fit.apply(torch.from_numpy(inputs.astype(np.float32)))[:, 0].abs().max() == 0.0


def test_what_float32_cannot_tell_apart_is_constant() -> None:
    inputs = 1.0 + np.arange(10.0)[:, None] * 1e-12
    assert fit_normalisation(inputs, torch.arange(10), per_feature=True).std.tolist() == [1.0]
