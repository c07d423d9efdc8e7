"""The uncertainty of a table where every answer is known: perfect, narrow and shifted rows, ensembles, chances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.heads.residuals import CENTRAL
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import Target, class_target, event_chances, number_target
from earthssl.downstream.results.uncertainty import (
    CHANCES,
    CLIMATOLOGY,
    CONFORMAL,
    COVERED,
    CRPS,
    NORMAL,
    PARTS,
    PIT,
    POSTERIOR,
    SEEDS,
    WEIGHT,
    Earlier,
    exchangeable,
    member_sums,
    uncertainty,
)
from scipy.stats import norm

N, YEARS = 3000, 30
UNITS = np.arange(N) // (N // YEARS)


def world(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a signal and a noise of variance 1, and how wide the noise is at each sample."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=N), rng.normal(size=N), rng.choice([0.5, np.sqrt(1.75)], size=N)


@pytest.fixture(scope="module")
def table() -> Any:
    """Rows whose residuals are as before, twice as large, and of a width that is known."""
    made = []
    for seed, factor in ((0, 1.0), (1, 2.0)):
        signal, noise, wide = world(seed)
        truth = signal + noise * wide
        forecast = {
            "right": signal,
            "narrow": signal + (factor - 1) * np.random.default_rng(9).normal(size=N) * np.sqrt(3) * wide,
        }
        rows = [Row(name, Role.BASELINE, {"x": own}, width={"x": wide}) for name, own in forecast.items()]
        made.append(([number_target("x", truth, np.zeros(N), UNITS)], rows))
    (before, old), (targets, rows) = made
    return uncertainty(targets, rows, Earlier(before, old), ["right"], 1000)


def value(found: Any, row: str, distribution: str, metric: str) -> float:
    own = found.tables["uncertainty"]
    own = own[(own.row == row) & (own.distribution == distribution) & (own.metric == metric)]
    assert len(own) == 1, (row, distribution, metric)
    return float(own.value.iloc[0])


def test_residuals_like_those_before_are_covered_as_promised(table: Any) -> None:
    """Conformal intervals of 30 years are those of 31 / 30 of the share: the unknown year may be the worst."""
    for kind, more in ((CONFORMAL, 31 / 30), (POSTERIOR, 1)):
        held = [value(table, "right", kind, f"coverage_{round(100 * share)}") for share in CENTRAL]
        assert held == pytest.approx([share * more for share in CENTRAL], abs=0.03)
        assert value(table, "right", kind, "spread_skill") == pytest.approx(1, abs=0.04)
    assert value(table, "right", POSTERIOR, "pit_unevenness") < 0.08
    # half of the samples are wide: their mixture has more in its middle than a Gaussian
    assert value(table, "right", NORMAL, "coverage_50") > 0.53


def test_crps_and_its_skill_by_hand(table: Any) -> None:
    """E CRPS of a calibrated Gaussian is σ / √π; climatology has the variance of signal and noise."""
    expected = (0.5 + np.sqrt(1.75)) / 2 / np.sqrt(np.pi)
    assert value(table, "right", POSTERIOR, "crps") == pytest.approx(expected, rel=0.03)
    assert value(table, CLIMATOLOGY, NORMAL, "crps") == pytest.approx(np.sqrt(2 / np.pi), rel=0.03)
    assert value(table, CLIMATOLOGY, CONFORMAL, "crps_skill") == 0
    skill = 1 - expected / value(table, CLIMATOLOGY, CONFORMAL, "crps")
    assert value(table, "right", POSTERIOR, "crps_skill") == pytest.approx(skill, abs=0.02)
    assert value(table, "right", POSTERIOR, "crps") < value(table, "right", NORMAL, "crps")


def test_errors_twice_as_large_as_before_show_as_a_u_and_as_a_loss(table: Any) -> None:
    assert value(table, "narrow", NORMAL, "spread_skill") == pytest.approx(0.5, abs=0.03)
    assert value(table, "narrow", POSTERIOR, "coverage_90") == pytest.approx(2 * norm.cdf(1.645 / 2) - 1, abs=0.03)
    ranks = table.tables["rank_histogram"]
    shares = ranks[(ranks.row == "narrow") & (ranks.distribution == POSTERIOR)].share.to_numpy()
    assert shares.sum() == pytest.approx(1)
    assert shares[[0, -1]].min() > 0.15
    assert shares[4:8].max() < 0.06
    d = table.tables["uncertainty_differences"]
    own = d[(d.row == "narrow") & (d.reference == "right") & (d.metric == "crps_skill")]
    assert set(own.verdict) == {"worse"}
    assert set(own.distribution) == {CONFORMAL, NORMAL, POSTERIOR}


def test_the_intervals_of_the_scores_are_of_whole_years(table: Any) -> None:
    own = table.tables["uncertainty"]
    own = own[(own.row == "right") & (own.metric == "coverage_90") & (own.distribution == NORMAL)].iloc[0]
    assert own.low < own.value < own.high
    width = 2 * 1.96 * np.sqrt(0.09 / N)  # samples are independent here
    assert own.high - own.low == pytest.approx(width, rel=0.5)


def test_a_perfect_ensemble_is_flat_a_narrow_one_a_u() -> None:
    rng = np.random.default_rng(3)
    truth, members = rng.normal(size=(4000, 5)), rng.normal(size=(3, 4000, 5))
    for width, flat in ((1.0, True), (0.5, False)):
        sums = member_sums(width * members, truth, np.ones_like(truth))
        share = sums[PIT:PARTS].sum(1) / sums[WEIGHT].sum()
        assert share.sum() == pytest.approx(1)
        assert (np.abs(share - 1 / 12).max() < 0.006) == flat
        assert (share[[0, -1]].min() > 1.3 / 12) != flat
        if flat:
            held = sums[COVERED].sum() / sums[WEIGHT].sum()
            assert held == pytest.approx(0.5, abs=0.02)
    assert np.isnan(sums[COVERED + 1 :][:3]).all()  # three members hold a half


def test_the_fair_crps_by_pairs_and_ties_in_the_middle() -> None:
    members, truth = np.array([0.0, 1.0, 3.0])[:, None, None], np.array([[1.0]])
    sums = member_sums(members, truth, np.array([[2.0]]))
    assert sums[CRPS, 0] / sums[WEIGHT, 0] == pytest.approx((1 + 0 + 2) / 3 - (1 + 3 + 2) * 2 / (2 * 3 * 2))
    assert sums[PIT:PARTS, 0].tolist() == pytest.approx([0, 0, 0, *[1 / 3] * 6, 0, 0, 0])


def test_seeds_make_an_ensemble_that_is_dressed_and_one_that_is_not() -> None:
    made = []
    for seed in (4, 5):
        signal, noise, _ = world(seed)
        rows = [
            Row("net", Role.PRETRAINED, {"x": signal + 0.5 * np.random.default_rng(10 * seed + k).normal(size=N)}, k)
            for k in range(3)
        ]
        made.append(([number_target("x", signal + noise, np.zeros(N), UNITS)], rows))
    found = uncertainty(*made[1], Earlier(*made[0]), ["net"], 1000)
    mean = "net, mean of 3 seeds"
    assert value(found, mean, NORMAL, "spread_skill") == pytest.approx(1, abs=0.05)
    assert value(found, mean, NORMAL, "crps") < value(found, "net", NORMAL, "crps")
    # the error of the mean is 1 + 1/12, its spread says ¼ × 4/3
    assert value(found, mean, SEEDS, "spread_skill") == pytest.approx(np.sqrt((1 / 3) / (13 / 12)), abs=0.03)
    assert value(found, mean, SEEDS, "coverage_50") < 0.4
    assert "Uncertainty of net" not in "".join(found.notes)  # only of rows called pretrained


def test_few_years_of_days_are_taken_by_shorter_blocks() -> None:
    times = np.datetime64("2000-01-01") + np.arange(730).astype("timedelta64[D]")
    years = times.astype("datetime64[Y]").astype(int)
    assert len(np.unique(exchangeable(years, times))) == 24
    assert exchangeable(years, None) is years
    many = np.arange(730) // 60
    assert exchangeable(many, times) is many


def test_chances_have_brier_and_calibration_error_and_two_classes_count_once() -> None:
    rng = np.random.default_rng(6)
    p = rng.random(N)
    o = (rng.random(N) < p).astype(int)
    bold = (p > 0.5) * 0.98 + 0.01
    rows = [Row(name, Role.BASELINE, {"x": np.stack([1 - own, own], 1)}) for name, own in (("p", p), ("bold", bold))]
    target = class_target("x", o, np.full((N, 2), 0.5), UNITS, classes=("no", "yes"))
    found = uncertainty([target], rows, None, ["p", "bold"], 1000)
    assert value(found, "p", CHANCES, "brier") == pytest.approx(1 / 6, abs=0.01)
    assert value(found, "p", CHANCES, "ece") < 0.03
    assert value(found, "bold", CHANCES, "ece") == pytest.approx(0.24, abs=0.02)
    assert set(found.tables["reliability"]["class"]) == {"yes"}
    events = [Row(row.name, row.role, {"x": row.forecast["x"][:, 1]}) for row in rows]
    plain = Target("x", UNITS, target.metrics, chances=event_chances("x", o))
    again = uncertainty([plain], events, None, ["p"], 1000).tables["uncertainty"]
    pd.testing.assert_frame_equal(again, found.tables["uncertainty"])
    assert set(found.figures) == {"reliability_of_chances"}


def test_a_target_without_earlier_residuals_has_no_distribution() -> None:
    targets = [number_target("x", np.zeros(N), np.zeros(N), UNITS)]
    rows = [Row("a", Role.BASELINE, {"x": np.ones(N)})]
    assert not uncertainty(targets, rows, None, ["a"], 1000).tables
