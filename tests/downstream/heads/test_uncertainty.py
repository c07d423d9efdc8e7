"""Probabilistic scores against closed forms and brute force; posteriors and conformal sets against theory."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from earthssl.downstream.heads.ridge_path import RidgePath
from earthssl.downstream.heads.uncertainty import (
    LEVELS,
    QuantileHead,
    RidgePosterior,
    block_weights,
    conformal_quantile,
    covered,
    crps_quantiles,
    empirical,
    evidence,
    gaussian,
    pit_chi2,
    pit_ensemble,
    predictives,
    spread_skill,
    uncertainty,
)
from earthssl.ssl.common.errors import EarthSSLError
from scipy.stats import binom, multivariate_normal


def crps_ensemble(observed: np.ndarray, members: np.ndarray) -> np.ndarray:
    low = high = np.zeros(len(observed))
    return empirical(observed, members, low, high).crps


def test_crps_of_a_gaussian_at_its_mean() -> None:
    """σ (√2 - 1) / √π."""
    found = gaussian(np.array([1.0, -3.0]), np.array([1.0, -3.0]), np.array([1.0, 2.0])).crps
    assert found == pytest.approx(np.array([1, 2]) * (math.sqrt(2) - 1) / math.sqrt(math.pi))


def test_crps_of_an_ensemble_by_all_pairs() -> None:
    rng = np.random.default_rng(0)
    members, observed = rng.normal(size=(6, 5)), rng.normal(size=6)
    pairs = np.abs(members[:, :, None] - members[:, None, :]).sum((1, 2)) / 2
    expected = np.abs(members - observed[:, None]).mean(1) - pairs / 25
    assert crps_ensemble(observed, members) == pytest.approx(expected)


def test_crps_of_an_ensemble_pays_for_its_size() -> None:
    """Members and truth from N(0, 1): on average 1/√π, and a share of 1 / M more."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40_000)
    for m in (2, 5):
        members = rng.normal(size=(40_000, m))
        assert crps_ensemble(truth, members).mean() == pytest.approx((1 + 1 / m) / math.sqrt(math.pi), abs=0.01)


def test_weights_count_as_copies() -> None:
    members, observed = np.array([[0.0, 1.0, 5.0]]), np.array([0.7])
    copies = np.repeat(members, [3, 1, 2], axis=1)
    weighted = empirical(observed, members, observed, observed, np.array([3.0, 1.0, 2.0])).crps
    assert weighted == pytest.approx(crps_ensemble(observed, copies))


def test_crps_by_quantiles_is_that_of_the_sorted_ensemble() -> None:
    """An identity where the levels are the midpoints."""
    rng = np.random.default_rng(0)
    members, observed = np.sort(rng.normal(size=(7, 20)), axis=1), rng.normal(size=7)
    assert crps_quantiles(observed, members) == pytest.approx(crps_ensemble(observed, members))


def test_spread_and_error_by_hand_with_weights_as_copies() -> None:
    """Deviations 3 and 1, errors 2 and 4, the first three times: √((3·9 + 1) / (3·4 + 16)) = 1."""
    observed, mean, std = np.array([2.0, 4.0]), np.zeros(2), np.array([3.0, 1.0])
    weights = np.array([3.0, 1.0])
    assert spread_skill(observed, mean, std, weights=weights) == pytest.approx(1)
    copies = [np.repeat(one, [3, 1]) for one in (observed, mean, std)]
    assert spread_skill(*copies) == pytest.approx(1)


def test_intervals_by_hand() -> None:
    observed, low, high = np.array([0.0, 1.0, 3.0, -2.0]), np.zeros(4), np.ones(4)
    assert covered(observed, low, high).tolist() == [True, True, False, False]


def test_spread_matches_error_where_calibrated() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=50_000)
    truth, members = (centre + rng.normal(size=(k, 50_000)) for k in (1, 4))
    found = spread_skill(truth[0], members.mean(0), members.std(0, ddof=1))
    assert 1.25**0.5 * found == pytest.approx(1, abs=0.02)
    half = spread_skill(truth[0], centre, np.full(50_000, 0.5))
    assert half == pytest.approx(0.5, abs=0.01)
    with pytest.raises(EarthSSLError, match="errs somewhere"):
        spread_skill(centre, centre, np.ones(50_000))


def test_pit_is_flat_only_where_calibrated() -> None:
    rng = np.random.default_rng(0)
    observed = rng.normal(size=5000)
    zero = np.zeros(5000)
    assert pit_chi2(gaussian(observed, zero, np.array(1.0)).pit) < 2.4  # 99 % of χ² / 9
    assert pit_chi2(gaussian(observed, zero, np.array(0.5)).pit) > 50
    members = rng.normal(size=(5000, 9))
    assert pit_chi2(pit_ensemble(observed, members, np.full(9, 1 / 9))) < 2.4
    with pytest.raises(EarthSSLError, match="at least 50 samples"):
        pit_chi2(np.full(49, 0.5))


def test_rank_by_hand() -> None:
    """Below all, between, tied with one, above all of four members: (rank + ½) / 5, ties half."""
    members = np.tile([1.0, 2.0, 3.0, 4.0], (4, 1))
    found = pit_ensemble(np.array([0.0, 2.5, 2.0, 9.0]), members, np.full(4, 0.25))
    assert found == pytest.approx([0.1, 0.5, 0.4, 0.9])


def test_conformal_quantile_by_hand() -> None:
    """⌈(n + 1)(1 - α)⌉: of 19 scores the 18th for α = .1, of 9 the 9th."""
    assert conformal_quantile(np.arange(1.0, 20)[::-1], 0.1) == 18
    assert conformal_quantile(np.arange(1.0, 10), 0.1) == 9
    assert conformal_quantile(np.arange(1.0, 10), 0.5) == 5
    with pytest.raises(EarthSSLError, match=r"at least 9 calibration blocks for α = 0\.1, got 8"):
        conformal_quantile(np.arange(8.0), 0.1)


def test_the_last_score_is_reached_however_the_sums_round() -> None:
    """9 blocks at 90 % want the largest score of all: sums of 10⁵ weights of 1 / (9 · 11 111) need not reach .9."""
    for per in (2800, 11111, 36500):
        scores = np.arange(9.0 * per)
        assert conformal_quantile(scores, 1 - 0.9, np.repeat(np.arange(9), per)) == pytest.approx(scores[-1], abs=1)


def test_blocks_count_alike_whatever_their_size() -> None:
    """Copies of a block's score do not weigh more, and each sample a block of its own is the plain case."""
    rng = np.random.default_rng(0)
    scores = rng.random(19)
    repeats = rng.integers(1, 9, 19)
    assert conformal_quantile(np.repeat(scores, repeats), 0.1, np.repeat(np.arange(19), repeats)) == np.sort(scores)[17]
    assert conformal_quantile(scores, 0.1, np.arange(19)) == conformal_quantile(scores, 0.1)
    assert block_weights(np.array([0, 0, 0, 7])) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_conformal_coverage_is_what_theory_says() -> None:
    """Exchangeable scores, n = 19, α = .1: the new one is covered with a chance of exactly 18 / 20."""
    rng = np.random.default_rng(0)
    scores = rng.exponential(size=(4000, 20))
    hits = sum(row[19] <= conformal_quantile(row[:19], 0.1) for row in scores)
    assert binom.ppf(0.0005, 4000, 0.9) <= hits <= binom.ppf(0.9995, 4000, 0.9)


def test_conformal_holds_its_coverage_with_dependent_samples_in_a_block() -> None:
    """Months that share the error of their year: with 11 years and α = .1, the 99th percentile by years.

    By months it is nearly the 90th percentile of 11 values, which a new one stays below with a chance of 10/12.
    """
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.exponential(size=(3000, 12)), 12, axis=1)
    years = np.repeat(np.arange(11), 12)
    by_year, by_month = [], []
    for one in scores:
        old, new = one[:132], one[-1]
        by_year.append(new <= conformal_quantile(old, 0.1, years))
        by_month.append(new <= conformal_quantile(old, 0.1))
    assert np.mean(by_year) == pytest.approx(11 / 12, abs=0.015)
    assert np.mean(by_month) == pytest.approx(10 / 12, abs=0.02)


def linear_world(n: int = 60, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * np.array([1, 2, 3, 0.5, 1])[:width]
    return x, 2 + x @ rng.normal(size=width) + 0.7 * rng.normal(size=n)


@pytest.mark.parametrize("n", [60, 4])
def test_the_width_of_a_ridge_posterior_by_matrix_inversion(n: int) -> None:
    """With more samples than features, and with fewer; in groups, the mean of each is as sure as it has samples."""
    x, y = linear_world(n)
    path = RidgePath.fit(x, y[:, None])
    queries = linear_world(7, seed=1)[0]
    z, q = ((part - path.feature_mean[0]) / path.feature_scale for part in (x, queries))
    inverse = np.linalg.inv(z.T @ z + 0.3 * n * np.eye(5))
    variance = 1 + 1 / n + np.einsum("qi,ij,qj->q", q, inverse, q)
    assert path.widths(queries, [0.3])[0] == pytest.approx(np.sqrt(variance))
    group = np.repeat([0, 1], [n // 4, n - n // 4])
    path = RidgePath.fit(x, y[:, None], group)
    z, q = ((part - path.feature_mean[g]) / path.feature_scale for part, g in ((x, group), (queries[[0, 0]], [0, 1])))
    inverse = np.linalg.inv(z.T @ z + 0.3 * n * np.eye(5))
    variance = 1 + 1 / np.array([n // 4, n - n // 4]) + np.einsum("qi,ij,qj->q", q, inverse, q)
    assert path.widths(queries[[0, 0]], [0.3], np.array([0, 1]))[0] == pytest.approx(np.sqrt(variance))


def test_evidence_by_the_density_of_the_contrasts() -> None:
    """What is left of y once its mean is taken out is N(0, σ² (I + ZZᵀ / (λn))): its density, up to a constant."""
    x, y = linear_world(12, 3)
    path = RidgePath.fit(x, y[:, None])
    z = (x - path.feature_mean[0]) / path.feature_scale
    basis = np.linalg.svd(np.eye(12) - 1 / 12)[0][:, :11]
    constants = []
    for penalty in (0.01, 0.5, 4.0):
        value, sigma = evidence(path, y - y.mean(), penalty)
        covariance = sigma**2 * (np.eye(11) + basis.T @ z @ z.T @ basis / (penalty * 12))
        constants.append(multivariate_normal(np.zeros(11), covariance).logpdf(basis.T @ y) - value)
    assert constants == pytest.approx([constants[0]] * 3)


def test_the_posterior_covers_what_it_was_made_for() -> None:
    """Targets drawn from the very prior: 90 % intervals hold 90 % of new ones, σ and penalty are found."""
    rng = np.random.default_rng(0)
    hits, sigmas = [], []
    for _ in range(60):
        x = rng.normal(size=(80, 10))
        y = x @ (0.35 * rng.normal(size=10)) + rng.normal(size=80)
        found = RidgePosterior.fit(x[:50], y[:50])
        mean, std = found.predict(x[50:])
        hits.append(np.abs(y[50:] - mean) <= 1.645 * std)
        sigmas.append(found.sigma)
    assert np.mean(hits) == pytest.approx(0.9, abs=0.02)
    assert np.mean(sigmas) == pytest.approx(1, abs=0.06)


def test_far_from_the_samples_the_posterior_is_unsure() -> None:
    x, y = linear_world()
    found = RidgePosterior.fit(x, y)
    _, near = found.predict(x.mean(0, keepdims=True))
    _, far = found.predict(x.mean(0, keepdims=True) + 100)
    assert near[0] == pytest.approx(found.sigma * math.sqrt(1 + 1 / 60))
    assert far[0] > 10 * near[0]


def test_quantiles_of_nothing_are_those_of_the_target() -> None:
    y = np.random.default_rng(0).exponential(size=4000)
    found = QuantileHead.fit(np.zeros((4000, 1)), y).predict(np.zeros((1, 1)))[0]
    assert found == pytest.approx(np.quantile(y, LEVELS), abs=0.03)


def test_quantile_regression_is_scikit_learns() -> None:
    """Noise that widens with a feature: slopes differ by level, as in the exact solution."""
    from sklearn.linear_model import QuantileRegressor

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2, size=(400, 2))
    y = x[:, 0] + (0.3 + x[:, 1]) * rng.normal(size=400)
    found = QuantileHead.fit(x, y)
    for j in (2, 10, 17):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exact = QuantileRegressor(quantile=LEVELS[j], alpha=0).fit(x, y)
        assert found.coefficients[:, j] / found.scale == pytest.approx(exact.coef_, abs=0.12)
    quantiles = found.predict(x)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (y[:, None] <= quantiles).mean(0) == pytest.approx(np.array(LEVELS), abs=0.02)


def test_a_constant_target_has_no_quantile_regression() -> None:
    with pytest.raises(EarthSSLError, match="a target that varies"):
        QuantileHead.fit(np.zeros((5, 1)), np.ones(5))


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """120 years of 12 independent months: y = 2 x₀ + N(0, 1), four features without meaning."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1440, 5))
    y = 2 * x[:, 0] + rng.normal(size=1440)
    years = np.repeat(np.arange(120), 12)
    return x, y, {"train": years < 60, "val": (years >= 60) & (years < 90), "test": years >= 90}, years


def test_every_method_is_calibrated_on_a_gaussian_world(world) -> None:  # type: ignore[no-untyped-def]
    """CRPS 1/√π × σ, coverage .9, width 3.29 σ, spread = error; climatology with σ = √5."""
    table = uncertainty(*world, draws=200).set_index(["method", "metric"])["value"]
    for method in ("Gaussian around ridge", "ridge posterior", "quantile regression", "conformal"):
        assert table[method, "crps"] == pytest.approx(1 / math.sqrt(math.pi), rel=0.08), method
        assert table[method, "crpss"] == pytest.approx(1 - 1 / math.sqrt(5), abs=0.04), method
        assert table[method, "coverage"] == pytest.approx(0.9, abs=0.05), method
        assert table[method, "width"] == pytest.approx(3.29, rel=0.12), method
        assert table[method, "spread_skill"] == pytest.approx(1, abs=0.1), method
        assert table[method, "pit_chi2"] < 3, method
    assert table["climatology", "crpss"] == 0
    assert table["climatology", "crps"] == pytest.approx(math.sqrt(5 / math.pi), rel=0.1)


def test_no_method_reads_the_test_targets(world) -> None:  # type: ignore[no-untyped-def]
    x, y, blocks, years = world
    changed = np.where(blocks["test"], y + 7, y)
    before, after = predictives(x, y, blocks, years), predictives(x, changed, blocks, years)
    for method, one in before.items():
        for name in ("mean", "std", "low", "high"):
            assert np.array_equal(getattr(one, name), getattr(after[method], name)), method
        assert not np.array_equal(one.crps, after[method].crps)


def test_gaps_and_short_blocks_are_said(world) -> None:  # type: ignore[no-untyped-def]
    x, y, blocks, years = world
    with pytest.raises(EarthSSLError, match=r"finite features and targets in the train block, got 720"):
        predictives(x, np.where(years == 5, np.nan, y), blocks, years)
    with pytest.raises(EarthSSLError, match="at least 9 calibration blocks"):
        predictives(x, y, {**blocks, "val": (years >= 60) & (years < 65)}, years)
