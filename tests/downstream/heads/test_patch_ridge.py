"""The shared ridge against weighted least squares written out."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.heads.patch_ridge import PatchRidge
from earthssl.ssl.common.errors import EarthSSLError

WEIGHT = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.5, 0.0, 0.5], [1.0, 1.0, 0.0]])  # a coast


def data(n: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4, 5)) * np.array([1, 2, 0.1, 5, 1]) + 3
    x[..., 4] = 7  # says nothing
    y = x[..., :3] @ rng.normal(size=(3, 3)) + 4 + rng.normal(size=(n, 4, 3))
    y[:, WEIGHT == 0] = np.nan
    return x, y


def brute(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, mean: np.ndarray, scale: np.ndarray, penalty: float
) -> np.ndarray:
    """Weighted least squares of one target with rows (sample, place), by stacking √penalty rows."""
    keep = np.isfinite(y) & (w > 0)
    z = np.concatenate([(x - mean) / scale, np.ones((*y.shape, 1))], -1)[keep]
    root = np.sqrt(np.broadcast_to(w, y.shape)[keep])
    ridge = np.sqrt(penalty * (root**2).sum()) * np.eye(z.shape[1])[:-1]
    rows, targets = np.concatenate([z * root[:, None], ridge]), np.concatenate([y[keep] * root, np.zeros(len(ridge))])
    return np.linalg.lstsq(rows, targets, rcond=None)[0]


def test_equals_weighted_least_squares_beside_land() -> None:
    x, y = data()
    head = PatchRidge.fit(x, y, WEIGHT, [1e-3, 0.3])
    mean, scale = x.mean((0, 1)), np.where(x.std((0, 1)) > 1e-9, x.std((0, 1)), np.inf)
    for k, penalty in enumerate(head.penalties):
        for c in range(3):
            expected = brute(x, y[..., c], WEIGHT[:, c], mean, scale, penalty)
            np.testing.assert_allclose(head.coefficients[k][:, c], expected, atol=1e-8)
    assert (head.coefficients[:, 4] == 0).all()


def test_errors_are_those_of_the_predictions() -> None:
    x, y = data()
    others, truth = data(12, 1)
    head = PatchRidge.fit(x, y, WEIGHT, [1e-3, 0.3])
    errors = head.errors(others, truth, WEIGHT)
    for k in range(2):
        square = np.where(WEIGHT > 0, (truth - head.predict(others, k)) ** 2, 0)
        expected = (square * WEIGHT).sum((0, 1)) / (WEIGHT.sum(0) * 12)
        np.testing.assert_allclose(errors[k], expected, rtol=1e-4)
    part = head.take(slice(1, 3))
    np.testing.assert_array_equal(part.predict(others, 1), head.predict(others, 1)[..., 1:])


def test_patches_with_a_gap_in_time_are_left_out() -> None:
    """As if the sample had no such place; the others count."""
    x, y = data()
    gappy = y.copy()
    gappy[3, 1, 0] = np.nan
    head = PatchRidge.fit(x, gappy, WEIGHT, [0.1])
    y[3, 1] = np.nan
    np.testing.assert_allclose(head.coefficients, PatchRidge.fit(x, y, WEIGHT, [0.1]).coefficients)
    y[:, 1] = 1e3  # a place that counts for much, but never at any other time
    assert not np.allclose(head.coefficients, PatchRidge.fit(x, y, WEIGHT, [0.1]).coefficients)


def test_a_large_penalty_leaves_the_weighted_mean() -> None:
    x, y = data()
    head = PatchRidge.fit(x, y, WEIGHT, [1e9])
    w = np.broadcast_to(WEIGHT[:, 1], y[..., 1].shape)
    expected = np.nansum(y[..., 1] * w) / w.sum()
    np.testing.assert_allclose(head.predict(x, 0)[..., 1], expected, rtol=1e-5)


def test_nothing_to_fit_on_is_refused() -> None:
    x, y = data()
    y[:, :, 1] = np.nan
    with pytest.raises(EarthSSLError, match="no patch was observed whole"):
        PatchRidge.fit(x, y, WEIGHT, [0.1])
    with pytest.raises(EarthSSLError, match="positive ridge penalties"):
        PatchRidge.fit(*data(), WEIGHT, [0.0])


def test_a_target_that_is_land_everywhere_is_forecast_as_nothing() -> None:
    x, y = data()
    weight = WEIGHT.copy()
    weight[:, 2] = 0
    head = PatchRidge.fit(x, y, weight, [0.1])
    assert (head.predict(x, 0)[..., 2] == 0).all()
    assert np.isnan(head.errors(x, y, weight)[0, 2])
    assert np.isfinite(head.errors(x, y, weight)[0, :2]).all()
