"""Paired bootstrap over units: counts, limits, and a case with a known interval."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.metrics.paired_bootstrap import compare, unit_counts, verdict
from earthssl.ssl.common.errors import EarthSSLError


def test_every_draw_has_as_many_units_and_blocks_are_neighbours() -> None:
    """Sums are the number of units; a block of 3 brings its neighbours, round the end."""
    counts = unit_counts(9, 500, block=3, seed=1)
    assert (counts.sum(1) == 9).all()
    assert counts.mean(0) == pytest.approx(np.ones(9), abs=0.15)
    alone = (counts > 0) & (np.roll(counts, 1, 1) == 0) & (np.roll(counts, -1, 1) == 0)
    assert not alone.any()


def test_blocks_of_half_the_units_wrap_round_the_end() -> None:
    """Two blocks of five of ten units on a circle: the counts rise and fall in runs of five."""
    halves = unit_counts(10, 500, block=5)
    pairs = [np.roll(np.r_[np.ones(5), np.zeros(5)], a) for a in range(10)]
    assert {tuple(row) for row in halves} <= {tuple(a + b) for a in pairs for b in pairs}
    np.testing.assert_array_equal(halves, unit_counts(10, 500, block=5))
    assert (halves != unit_counts(10, 500, block=5, seed=1)).any()


def test_mean_of_units_has_the_textbook_interval() -> None:
    """The bootstrap of a mean of n independent values: about ±1.96 s/√n."""
    values = np.random.default_rng(0).normal(size=400)
    scores, _ = compare(lambda w: np.array([(w * values).sum() / w.sum()]), np.arange(400), ["a"], [], draws=4000)
    half = 1.96 * values.std() / 20
    assert scores["value"][0] == pytest.approx(values.mean())
    assert scores["low"][0] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert scores["high"][0] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_whole_units_are_drawn() -> None:
    """Ten copies of each unit's value give the interval of the units, not one narrower by √10."""
    values = np.random.default_rng(3).normal(size=40)
    once, _ = compare(lambda w: np.array([(w * values).sum() / w.sum()]), np.arange(40), ["a"], [])
    many = np.repeat(values, 10)
    ten, _ = compare(lambda w: np.array([(w * many).sum() / w.sum()]), np.repeat(np.arange(40), 10), ["a"], [])
    assert ten[["low", "high"]].to_numpy() == pytest.approx(once[["low", "high"]].to_numpy())


def test_differences_are_paired() -> None:
    """A constant difference under huge common noise has an interval of no width; a smaller error is better."""
    noise = 100 * np.random.default_rng(1).normal(size=50)
    rows = np.stack([noise, noise + 1])

    def mean(weights: np.ndarray) -> np.ndarray:
        return rows @ weights / weights.sum()

    _, d = compare(mean, np.arange(50), ["a", "b"], ["a"])
    assert d["value"][0] == pytest.approx(1)
    assert d["low"][0] == pytest.approx(1)
    assert list(d["verdict"]) == ["better"]
    _, d = compare(mean, np.arange(50), ["a", "b"], ["a"], larger_is_better=False)
    assert list(d["verdict"]) == ["worse"]


def test_an_interval_with_zero_decides_nothing() -> None:
    """Zero inside, or at the edge, is undecided; NaN is, too."""
    assert verdict(-0.1, 0.2) == verdict(0.0, 0.2) == verdict(float("nan"), float("nan")) == "undecided"


def test_undefined_draws_are_left_out() -> None:
    """A score that is NaN in some draws has the interval of the others."""
    values = np.arange(6.0)

    def sometimes(weights: np.ndarray) -> np.ndarray:
        return np.array([values @ weights / 6 if weights[0] else np.nan])

    scores, _ = compare(sometimes, np.arange(6), ["a"], [], draws=200)
    assert np.isfinite(scores[["low", "high"]].to_numpy()).all()


def test_bad_input_is_refused() -> None:
    """Too few units, an unknown reference, names alike, a wrong shape."""
    with pytest.raises(EarthSSLError, match="at least 4 independent units"):
        compare(lambda w: np.array([1.0]), np.arange(3), ["a"], [])
    with pytest.raises(EarthSSLError, match="'pca' is not among the rows"):
        compare(lambda w: np.array([1.0]), np.arange(9), ["PCA"], ["pca"])
    with pytest.raises(EarthSSLError, match="different names"):
        compare(lambda w: np.ones(2), np.arange(9), ["a", "a"], [])
    with pytest.raises(EarthSSLError, match="one score for each of 1 rows"):
        compare(lambda w: np.ones(2), np.arange(9), ["a"], [])
