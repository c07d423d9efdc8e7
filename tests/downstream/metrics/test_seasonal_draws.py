"""All-season skill under draws of years: against brute force, and its coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.metrics.paired_bootstrap import compare, unit_counts
from earthssl.downstream.metrics.seasonal import SeasonalSkill, all_season_skill, resampled_skill
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.results.target import Metric, Target
from earthssl.ssl.common.errors import EarthSSLError

YEARS, LEADS = 30, 2
LEAD = np.repeat(np.arange(LEADS), 12 * YEARS)
MONTH = np.tile(np.arange(12 * YEARS), LEADS)


def observations(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(MONTH))


def noisy(observed: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return observed + noise * np.random.default_rng(seed).normal(size=observed.shape)


def folded_skill(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Skill of values by year and calendar month, (lead, year, 12)."""
    f, o = (values.reshape(len(values), -1) for values in (forecast, observed))
    return all_season_skill(f, o, np.arange(f.shape[1]) % 12)


def skill(rows: list[np.ndarray], observed: np.ndarray) -> SeasonalSkill:
    return SeasonalSkill(np.stack(rows), observed, 1980 + MONTH // 12, MONTH % 12, LEAD)


def table(named: dict[str, list[np.ndarray]], observed: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and differences of rows, each of one or more seeds."""
    rows = [Row(name, Role.BASELINE, {"all": f}, seed) for name, own in named.items() for seed, f in enumerate(own)]
    metric = Metric("skill", lambda rows: skill([row.forecast["all"] for row in rows], observed))
    return tables([Target("all", 1980 + MONTH // 12, [metric], 2)], rows, draws=1000)


@pytest.mark.parametrize("missing", [False, True])
def test_draws_equal_scores_of_the_resampled_years(missing: bool) -> None:
    rng = np.random.default_rng(0)
    f, o = rng.normal(size=(2, 3, 20, 12)) + 5
    if missing:
        o[:, -1, 9:] = np.nan
    counts = unit_counts(20, 15, block=2)
    found = resampled_skill(f, o, counts)
    for draw in range(15):
        years = np.repeat(np.arange(20), counts[draw].astype(int))
        np.testing.assert_allclose(found[draw], folded_skill(f[:, years], o[:, years]), atol=1e-10)


def test_all_draws_at_once_equal_one_after_the_other() -> None:
    observed = observations()
    statistic = skill([noisy(observed, 1.0, 1), noisy(observed, 2.0, 2), np.zeros_like(observed)], observed)
    counts = unit_counts(YEARS, 10, block=2)
    each = np.stack([statistic(count[MONTH // 12]) for count in counts])
    np.testing.assert_allclose(statistic.resample(counts), each, atol=1e-10)


def test_each_year_once_is_the_full_score() -> None:
    f, o = np.random.default_rng(1).normal(size=(2, 3, 20, 12))
    np.testing.assert_allclose(resampled_skill(f, o, np.ones((1, 20)))[0], folded_skill(f, o))
    observed = observations()
    said = noisy(observed, 1.0, 1)
    by_hand = folded_skill(said.reshape(LEADS, YEARS, 12), observed.reshape(LEADS, YEARS, 12)).mean()
    assert skill([said], observed)(np.ones(len(observed))) == pytest.approx(by_hand)


def test_a_perfect_and_a_reversed_row_by_season() -> None:
    observed = observations()
    seasons = skill([observed, -observed], observed).season_skill()
    assert seasons.shape == (2, LEADS, 12)
    assert seasons[0] == pytest.approx(1)
    assert seasons[1] == pytest.approx(-1)


def test_a_constant_forecast_has_no_skill_in_any_draw() -> None:
    o = np.random.default_rng(2).normal(size=(1, 20, 12))
    for constant in (0.0, 0.1, 300.1):
        np.testing.assert_array_equal(resampled_skill(np.full_like(o, constant), o, unit_counts(20, 50, block=2)), 0)


def test_scores_lie_in_their_intervals() -> None:
    observed = observations()
    scores, _ = table({"a": [noisy(observed, 1.0, 1)]}, observed)
    assert scores.low[0] < scores.value[0] < scores.high[0]


def test_equal_rows_do_not_differ_and_pairing_narrows_the_interval() -> None:
    observed = observations()
    a, b = noisy(observed, 1.0, 1), noisy(observed, 1.0, 2)
    scores, d = table({"a": [a], "same": [a], "near": [a + 0.05 * (b - a)], "damped": [a / 3 + 0.1]}, observed)
    d = d[d.reference == "a"].set_index("row")
    assert (d.loc["same", ["low", "high"]] == 0).all()
    assert set(d.loc[["same", "damped"], "verdict"]) == {"undecided"}
    assert d.loc["near", "high"] - d.loc["near", "low"] < 0.3 * (scores.high[0] - scores.low[0])


def test_verdicts_follow_the_interval() -> None:
    observed = observations()
    _, d = table({"good": [noisy(observed, 0.3, 1)], "bad": [noisy(observed, 3.0, 2)]}, observed)
    d = d.set_index(["row", "reference"])
    assert d.loc[("good", "bad"), "verdict"] == "better"
    assert d.loc[("bad", "good"), "verdict"] == "worse"


def test_seeds_are_averaged_as_scores_not_as_forecasts() -> None:
    observed = observations()
    seeds = [noisy(observed, 1.0, seed) for seed in range(3)]
    scores, _ = table({"a": seeds}, observed)
    single = skill(seeds, observed)(np.ones(len(observed)))
    assert scores.value[0] == pytest.approx(single.mean())
    assert scores.value[1:].to_numpy() == pytest.approx(single)
    assert skill([np.mean(seeds, axis=0)], observed)(np.ones(len(observed)))[0] > scores.value[0]


def test_the_order_of_rows_does_not_matter() -> None:
    observed = observations()
    named = {"a": [noisy(observed, 1.0, 1)], "b": [noisy(observed, 0.5, 2)]}
    (one, first), (two, second) = table(named, observed), table(dict(reversed(named.items())), observed)
    for left, right, key in ((one, two, ["row"]), (first, second, ["row", "reference"])):
        pd.testing.assert_frame_equal(left.set_index(key).sort_index(), right.set_index(key).sort_index())


def test_coverage_where_the_truth_is_known() -> None:
    # Years are independent; r of observation + noise of equal variance is sqrt(1/2) in the population.
    # The months of a year share half their variance, as they do in an ENSO record.
    truth, covered, replicates = np.sqrt(0.5), 0, 200
    rng = np.random.default_rng(7)
    for replicate in range(replicates):
        o, e = (rng.normal(size=(2, 1, 30, 1)) + rng.normal(size=(2, 1, 30, 12))) / np.sqrt(2)
        draws = resampled_skill(o + e, o, unit_counts(30, 300, block=2, seed=replicate))[:, 0]
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= truth <= high
    assert 0.86 <= covered / replicates <= 0.99


def test_false_alarms_are_rare_between_equally_good_rows() -> None:
    rng, alarms = np.random.default_rng(8), 0
    for replicate in range(200):
        o = rng.normal(size=(1, 30, 12))
        a, b = o + rng.normal(size=(2, 1, 30, 12))
        counts = unit_counts(30, 300, block=2, seed=replicate)
        difference = resampled_skill(a, o, counts)[:, 0] - resampled_skill(b, o, counts)[:, 0]
        low, high = np.quantile(difference, [0.025, 0.975])
        alarms += low > 0 or high < 0
    assert alarms / 200 <= 0.12


def test_too_few_years_are_refused() -> None:
    observed = observations()
    few = MONTH < 36
    statistic = SeasonalSkill(observed[None, few], observed[few], MONTH[few] // 12, MONTH[few] % 12, LEAD[few])
    with pytest.raises(EarthSSLError, match="at least 4 independent units"):
        compare(statistic, MONTH[few] // 12, ["a"], [])
