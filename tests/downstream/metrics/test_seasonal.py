"""Scores against hand cases, limits and numpy."""

import numpy as np
import pytest
from earthssl.downstream.metrics.seasonal import (
    all_season_skill,
    last_skilful_lead,
    pearson,
    std_ratio,
    valid_mean,
)


def test_pearson_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): r = 1 / (sqrt 2 sqrt 2).
    assert pearson(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)


def test_pearson_equals_numpy_and_skips_missing_pairs() -> None:
    rng = np.random.default_rng(0)
    f, o = rng.normal(size=(2, 4, 30))
    f[1, 3], o[1, 7] = np.nan, np.nan
    r = pearson(f, o)
    kept = np.isfinite(f[1] + o[1])
    assert r[0] == pytest.approx(np.corrcoef(f[0], o[0])[0, 1])
    assert r[1] == pytest.approx(np.corrcoef(f[1, kept], o[1, kept])[0, 1])


def test_a_weight_counts_as_so_many_pairs() -> None:
    rng = np.random.default_rng(5)
    f, o = rng.normal(size=(2, 12))
    weight = rng.integers(0, 4, 12)
    assert pearson(f, o, weights=weight) == pytest.approx(np.corrcoef(np.repeat(f, weight), np.repeat(o, weight))[0, 1])
    expected = np.repeat(f, weight).std() / np.repeat(o, weight).std()
    assert std_ratio(f, o, weight.astype(float)) == pytest.approx(expected)
    assert np.isnan(pearson(f, o, weights=np.r_[1, 1, np.zeros(10)])), "two pairs are too few"


def test_pearson_ignores_scale_and_offset() -> None:
    x = np.random.default_rng(1).normal(size=20)
    assert pearson(3 * x + 300, x) == pytest.approx(1)
    assert pearson(-x, x) == pytest.approx(-1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 300.1])
def test_a_constant_forecast_has_no_skill_and_constant_observations_no_score(constant: float) -> None:
    x = np.random.default_rng(2).normal(size=20)
    assert pearson(np.full(20, constant), x) == 0
    assert np.isnan(pearson(x, np.full(20, constant)))
    assert np.isnan(pearson(x[:2], x[:2] + 1)), "two pairs are too few"


def test_all_season_skill_is_the_mean_of_twelve_correlations() -> None:
    f, o = np.random.default_rng(3).normal(size=(2, 5, 25, 12))
    expected = [[np.corrcoef(f[i, :, m], o[i, :, m])[0, 1] for m in range(12)] for i in range(5)]
    found = all_season_skill(f.reshape(5, -1), o.reshape(5, -1), np.arange(25 * 12) % 12)
    np.testing.assert_allclose(found, np.mean(expected, axis=1))


def test_std_ratio_by_hand() -> None:
    o = np.repeat([2.0, 0.0], 12)
    assert std_ratio(o / 2, o) == pytest.approx(0.5)
    assert std_ratio(o, o) == pytest.approx(1)


def test_last_skilful_lead_stops_at_the_first_failure() -> None:
    assert last_skilful_lead(np.array([0.9, 0.5, 0.4, 0.6]), (1, 2, 3, 4)) == 2
    assert last_skilful_lead(np.array([0.4, 0.9]), (1, 2)) is None
    assert last_skilful_lead(np.array([0.9, np.nan]), (1, 2)) == 1


def test_valid_mean_leaves_gaps_out_and_is_nan_of_nothing() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_allclose(valid_mean(values, -1), [2, np.nan])
    np.testing.assert_allclose(valid_mean(values, (0, 1)), 2)
    whole = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_allclose(valid_mean(whole, 0), whole.mean(0))
