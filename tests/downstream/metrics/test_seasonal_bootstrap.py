"""The bootstrap against brute force, and its coverage where the truth is known."""

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.metrics.seasonal import Row, all_season_skill, root_mean_square_error, score
from earthssl.downstream.metrics.seasonal_bootstrap import (
    paired_bootstrap,
    resampled_rmse,
    resampled_skill,
    year_counts,
)
from earthssl.ssl.common.errors import EarthSSLError


def observations(seed: int = 0, years: int = 30, leads: int = 2) -> xr.DataArray:
    init = np.arange(np.datetime64("1980-01", "M"), np.datetime64("1980-01", "M") + 12 * years)
    values = np.random.default_rng(seed).normal(size=(leads, len(init)))
    coords = {"lead": np.arange(1, leads + 1), "init_time": init.astype("datetime64[ns]")}
    return xr.DataArray(values, dims=("lead", "init_time"), coords=coords)


def noisy(observed: xr.DataArray, noise: float, seed: int) -> xr.DataArray:
    return observed + noise * np.random.default_rng(seed).normal(size=observed.shape)


def test_counts_are_blocks_of_consecutive_years_that_wrap() -> None:
    # Two blocks of five of ten years on a circle: the counts rise and fall in runs of five.
    halves = year_counts(10, 500, block=5)
    pairs = [np.roll(np.r_[np.ones(5), np.zeros(5)], a) for a in range(10)]
    possible = {tuple(a + b) for a in pairs for b in pairs}
    assert {tuple(row) for row in halves} <= possible
    counts = year_counts(9, 500, block=2)
    np.testing.assert_array_equal(counts.sum(axis=1), 9)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.2)
    np.testing.assert_array_equal(counts, year_counts(9, 500, block=2))
    assert (counts != year_counts(9, 500, block=2, seed=1)).any()


@pytest.mark.parametrize("missing", [False, True])
def test_draws_equal_scores_of_the_resampled_years(missing: bool) -> None:
    rng = np.random.default_rng(0)
    f, o = rng.normal(size=(2, 3, 20, 12)) + 5
    if missing:
        o[:, -1, 9:] = np.nan
    counts = year_counts(20, 15)
    skill, error = resampled_skill(f, o, counts), resampled_rmse(f, o, counts)
    for draw in range(15):
        years = np.repeat(np.arange(20), counts[draw].astype(int))
        np.testing.assert_allclose(skill[draw], all_season_skill(f[:, years], o[:, years]), atol=1e-10)
        np.testing.assert_allclose(error[draw], root_mean_square_error(f[:, years], o[:, years]), atol=1e-10)


def test_each_year_once_is_the_full_score() -> None:
    f, o = np.random.default_rng(1).normal(size=(2, 3, 20, 12))
    np.testing.assert_allclose(resampled_skill(f, o, np.ones((1, 20)))[0], all_season_skill(f, o))


def test_a_constant_forecast_has_no_skill_in_any_draw() -> None:
    o = np.random.default_rng(2).normal(size=(1, 20, 12))
    for constant in (0.0, 0.1, 300.1):
        np.testing.assert_array_equal(resampled_skill(np.full_like(o, constant), o, year_counts(20, 50)), 0)


def test_points_equal_the_plain_scores_and_lie_in_their_intervals() -> None:
    observed = observations()
    row = Row("a", None, noisy(observed, 1.0, 1))
    result = paired_bootstrap([row], observed, [], draws=500)
    np.testing.assert_allclose(result["score"][0], score(row, observed)["skill"])
    low, high = result["score_interval"][0].values.T
    assert ((low < result["score"][0]) & (result["score"][0] < high)).all()
    rmse = paired_bootstrap([row], observed, [], score="rmse", draws=500)
    np.testing.assert_allclose(rmse["score"][0], score(row, observed)["rmse"])


def test_equal_rows_do_not_differ_and_pairing_narrows_the_interval() -> None:
    observed = observations()
    a, b = noisy(observed, 1.0, 1), noisy(observed, 1.0, 2)
    rows = [Row("a", None, a), Row("same", None, a), Row("near", None, a + 0.05 * (b - a))]
    rows.append(Row("damped", None, a / 3 + 0.1))
    result = paired_bootstrap(rows, observed, ["a"], draws=500)
    assert (result["difference_interval"].sel(row="same") == 0).all()
    assert (result["verdict"].sel(row=["same", "damped"]) == "").all()
    width = np.diff(result["mean_difference_interval"].sel(row="near", reference="a"))
    assert width < 0.3 * np.diff(result["mean_score_interval"].sel(row="a"))


@pytest.mark.parametrize("kind", ["r", "rmse"])
def test_verdicts_follow_the_interval(kind: str) -> None:
    observed = observations()
    rows = [Row("good", None, noisy(observed, 0.3, 1)), Row("bad", None, noisy(observed, 3.0, 2))]
    result = paired_bootstrap(rows, observed, ["good", "bad"], score=kind, draws=500)
    assert str(result["mean_verdict"].sel(row="good", reference="bad").values) == "better"
    assert str(result["mean_verdict"].sel(row="bad", reference="good").values) == "worse"
    assert (result["verdict"].sel(row="good", reference="bad") == "better").all()
    assert (result["verdict"].sel(row="good", reference="good") == "").all()


def test_seeds_are_averaged_as_scores_not_as_forecasts() -> None:
    observed = observations()
    seeds = [Row("a", s, noisy(observed, 1.0, s)) for s in range(3)]
    result = paired_bootstrap(seeds, observed, [], draws=200)
    single = np.stack([score(row, observed)["skill"] for row in seeds])
    np.testing.assert_allclose(result["score"][0], single.mean(axis=0))
    np.testing.assert_allclose(result["seed_std"][0], single.std(axis=0, ddof=1))
    assert int(result["seeds"][0]) == 3
    ensemble = Row("mean", None, sum(row.forecast for row in seeds) / 3)
    assert (score(ensemble, observed)["skill"] > result["score"][0]).all()


def test_the_order_of_rows_does_not_matter() -> None:
    observed = observations()
    a, b = Row("a", None, noisy(observed, 1.0, 1)), Row("b", None, noisy(observed, 0.5, 2))
    one = paired_bootstrap([a, b], observed, ["a"], draws=200)
    two = paired_bootstrap([b, a], observed, ["a"], draws=200).sel(row=["a", "b"])
    xr.testing.assert_equal(one, two)


def test_coverage_where_the_truth_is_known() -> None:
    # Years are independent; r of observation + noise of equal variance is sqrt(1/2) in the population.
    # The months of a year share half their variance, as they do in an ENSO record.
    truth, covered, replicates = np.sqrt(0.5), 0, 200
    rng = np.random.default_rng(7)
    for replicate in range(replicates):
        o, e = (rng.normal(size=(2, 1, 30, 1)) + rng.normal(size=(2, 1, 30, 12))) / np.sqrt(2)
        draws = resampled_skill(o + e, o, year_counts(30, 300, seed=replicate))[:, 0]
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= truth <= high
    assert 0.86 <= covered / replicates <= 0.99


def test_false_alarms_are_rare_between_equally_good_rows() -> None:
    rng, alarms = np.random.default_rng(8), 0
    for replicate in range(200):
        o = rng.normal(size=(1, 30, 12))
        a, b = o + rng.normal(size=(2, 1, 30, 12))
        counts = year_counts(30, 300, seed=replicate)
        difference = resampled_skill(a, o, counts)[:, 0] - resampled_skill(b, o, counts)[:, 0]
        low, high = np.quantile(difference, [0.025, 0.975])
        alarms += low > 0 or high < 0
    assert alarms / 200 <= 0.12


def test_mistakes_are_refused() -> None:
    observed = observations(years=2)
    row = Row("persistence", None, observed)
    with pytest.raises(EarthSSLError, match="Did you mean 'persistence'"):
        paired_bootstrap([row], observed, ["persistance"])
    with pytest.raises(EarthSSLError, match="at least 4 years"):
        paired_bootstrap([row], observed, ["persistence"])
    with pytest.raises(EarthSSLError, match="score r or rmse"):
        paired_bootstrap([row], observed, [], score="acc")
    with pytest.raises(EarthSSLError, match="are missing"):
        paired_bootstrap([Row("a", None, observations()[:, 1:])], observations(), [])
