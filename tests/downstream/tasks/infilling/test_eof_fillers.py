"""Filling with patterns: exact where the field has so few, shrunk where the data are noise."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.features.eof import Eof
from earthssl.downstream.tasks.infilling.fillers import Dineof, PcaRegression
from earthssl.downstream.tasks.infilling.gaps import Places
from earthssl.ssl.common.errors import EarthSSLError

CELLS, RANK = 40, 3


def places() -> Places:
    rng = np.random.default_rng(9)
    return Places(rng.uniform(-60, 60, CELLS), rng.uniform(0, 360, CELLS), rng.uniform(0.5, 2, CELLS))


def fields(times: int, seed: int, noise: float = 0.0) -> np.ndarray:
    """Anomalies with three patterns, the same for every seed."""
    patterns = np.random.default_rng(0).normal(size=(RANK, CELLS))
    rng = np.random.default_rng(seed)
    return rng.normal(size=(times, RANK)) @ patterns + noise * rng.normal(size=(times, CELLS))


def gappy(truth: np.ndarray, share: float = 0.5, seed: int = 2) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(truth.shape) < share, truth, np.nan)


def test_dineof_recovers_a_field_of_so_many_patterns_exactly() -> None:
    """With the right number of patterns, half of the cells give the other half, each month with its own gaps."""
    truth = fields(12, 1)
    method = Dineof(places(), fields(60, 3), (RANK,), tolerance=1e-9, steps=3000)
    filled = method.fill(gappy(truth))
    np.testing.assert_allclose(filled, truth, atol=1e-5)


def test_dineof_finds_how_many_patterns_there_are() -> None:
    """By training fields kept out, three of 1, 2, 3, 8; and fewer leave an error."""
    truth, training = fields(12, 1, 0.05), fields(60, 3, 0.05)
    method = Dineof(places(), training, (1, 2, 3, 8), tolerance=1e-6, steps=1000)
    filled = method.fill(gappy(truth))
    assert method.chosen == RANK
    assert np.abs(filled - truth).max() < 0.4
    fewer = Dineof(places(), training, (2,)).fill(gappy(truth))
    assert np.sqrt(((fewer - truth) ** 2).mean()) > 5 * np.sqrt(((filled - truth) ** 2).mean())


def test_dineof_keeps_observations_and_repeats_itself() -> None:
    """Observed cells stay, to the bit, and a second call gives the same fields."""
    truth = fields(6, 1, 0.3)
    shown = gappy(truth)
    first, again = (Dineof(places(), fields(30, 3, 0.3)).fill(shown) for _ in range(2))
    seen = np.isfinite(shown)
    assert np.array_equal(first[seen], shown[seen])
    assert np.array_equal(first, again)


def test_pca_regression_is_exact_for_its_patterns() -> None:
    """As many patterns as the field has, hardly any noise: the hidden cells follow."""
    truth = fields(12, 1)
    filled = PcaRegression(places(), fields(200, 3), RANK).fill(gappy(truth))
    np.testing.assert_allclose(filled, truth, atol=0.02)


def test_pca_regression_by_brute_force() -> None:
    """The conditional mean of the Gaussian model: covariance P diag(s²) Pᵀ, noise in the observations only."""
    training = fields(80, 3, 0.5)
    own = places()
    method = PcaRegression(own, training, 2)
    eof = Eof.fit(training, own.area, 2)
    signal = eof.patterns.T @ np.diag(eof.std**2) @ eof.patterns
    seen = np.arange(CELLS) < 15
    observed = fields(4, 7, 0.5)[:, seen]
    noise = ((training - eof.reconstruct(eof.project(training))) ** 2).mean(0)
    gain = signal[:, seen] @ np.linalg.inv(signal[np.ix_(seen, seen)] + np.diag(noise[seen]))
    expected = eof.mean + (observed - eof.mean[seen]) @ gain.T
    np.testing.assert_allclose(method.predict(observed, seen), expected, atol=1e-8)


def test_pca_regression_shrinks_what_one_observation_says() -> None:
    """Of pure noise little is believed: the estimate lies nearer to the mean than the patterns would put it."""
    training = np.random.default_rng(0).normal(size=(200, CELLS))
    filled = PcaRegression(places(), training, 5).predict(np.full((1, 1), 3.0), np.arange(CELLS) == 4)
    assert np.abs(filled).max() < 1.5


def test_what_the_training_cannot_carry_is_refused() -> None:
    """More patterns than times, gaps in training, a field without observations."""
    with pytest.raises(EarthSSLError, match="EOFs from 5 times"):
        PcaRegression(places(), fields(5, 3), 9)
    with pytest.raises(EarthSSLError, match="expected ranks below 4"):
        Dineof(places(), fields(5, 3), (7, 9))
    with pytest.raises(EarthSSLError, match="gaps"):
        Dineof(places(), gappy(fields(30, 3)), (2,))
    with pytest.raises(EarthSSLError, match="got none in field 0"):
        Dineof(places(), fields(30, 3), (2,)).fill(np.full((1, CELLS), np.nan))
