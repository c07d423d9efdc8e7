"""Scores of the probability of an event: hand cases, limits, identities, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.metrics.events import (
    Contingency,
    Ranking,
    best_threshold,
    bins_of,
    calibration_error,
    log_loss,
    murphy,
    reliability,
)
from earthssl.ssl.common.errors import EarthSSLError
from sklearn import metrics


def drawn(n: int = 400, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with some skill, events, and weights as a bootstrap makes them."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 6, n)
    p = np.round(p, 2) if ties else p
    return p, (rng.uniform(size=n) < p).astype(int), rng.poisson(1.0, n).astype(float)


def repeated(*columns: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    return [np.repeat(one, weight.astype(int)) for one in columns]


# ---- Brier -----------------------------------------------------------------------------------------------------


def test_brier_and_log_loss_by_hand() -> None:
    p, o = np.array([0.8, 0.3, 0.0]), np.array([1, 0, 0])
    assert murphy(p, o).brier == pytest.approx((0.04 + 0.09) / 3)
    assert log_loss(p, o) == pytest.approx(-(np.log(0.8) + np.log(0.7)) / 3)
    assert log_loss(np.array([0.0, 0.5]), np.array([1, 0])) == pytest.approx(-(np.log(1e-6) + np.log(0.5)) / 2)


@pytest.mark.parametrize("ties", [True, False])
def test_weights_are_repetitions(ties: bool) -> None:
    p, o, w = drawn(ties=ties)
    p2, o2 = repeated(p, o, weight=w)
    assert Ranking(p, o).auc(w)[0] == pytest.approx(Ranking(p2, o2).auc()[0])
    assert Ranking(p, o).average_precision(w)[0] == pytest.approx(Ranking(p2, o2).average_precision()[0])
    for name in ("pod", "far", "pofd", "csi", "pss", "hss"):
        one, two = Contingency.of(p > 0.2, o, w), Contingency.of(p2 > 0.2, o2)
        assert getattr(one, name) == pytest.approx(getattr(two, name))


# ---- Reliability -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [2, 7, 10, 50])
@pytest.mark.parametrize("ties", [True, False])
def test_murphys_parts_add_up_whatever_the_bins(bins: int, ties: bool) -> None:
    p, o, _ = drawn(ties=ties, seed=bins)
    m = murphy(p, o, bins)
    total = m.reliability - m.resolution + m.uncertainty + m.within_variance - m.within_covariance
    assert total == pytest.approx(m.brier, abs=1e-14)
    assert m.brier == pytest.approx(metrics.brier_score_loss(o, p))


def test_discrete_forecasts_have_the_three_classical_parts() -> None:
    p, o = np.array([0.1] * 10 + [0.6] * 5), np.array([1] + [0] * 9 + [1, 1, 1, 1, 0])
    m = murphy(p, o)
    rate = 5 / 15
    assert abs(m.within_variance) + abs(m.within_covariance) < 1e-30
    assert m.reliability == pytest.approx((10 * 0 + 5 * 0.2**2) / 15)
    assert m.resolution == pytest.approx((10 * (0.1 - rate) ** 2 + 5 * (0.8 - rate) ** 2) / 15)
    assert m.uncertainty == pytest.approx(rate * (1 - rate))
    assert calibration_error(p, o) == pytest.approx(5 / 15 * 0.2)


def test_a_constant_forecast_has_no_resolution_and_a_reliable_one_no_error() -> None:
    _, o, _ = drawn()
    m = murphy(np.full(len(o), o.mean()), o)
    assert m.resolution == pytest.approx(0, abs=1e-28)
    assert m.reliability == pytest.approx(0, abs=1e-28)
    assert calibration_error(np.full(len(o), o.mean()), o) == pytest.approx(0, abs=1e-15)


def test_bins_hold_equally_many_and_keep_equal_forecasts_together() -> None:
    p = np.linspace(0, 1, 100) ** 3
    np.testing.assert_array_equal(np.bincount(bins_of(p, 10)), 10)
    assert (np.diff(bins_of(p, 10)) >= 0).all()
    tied = np.array([0.0] * 70 + list(np.linspace(0.1, 0.9, 30)))
    at = bins_of(tied, 10)
    assert len(set(at[:70])) == 1
    np.testing.assert_array_equal(np.unique(at), np.arange(at.max() + 1))
    np.testing.assert_array_equal(bins_of(np.array([0.3, 0.1, 0.3]), 10), [1, 0, 1])


def test_the_reliability_table_is_that_of_each_bin() -> None:
    p, o, _ = drawn()
    table = reliability(p, o)
    at = bins_of(p)
    for k, line in table.iterrows():
        inside = at == k
        assert line["n"] == inside.sum()
        assert line["forecast"] == pytest.approx(p[inside].mean())
        assert line["observed"] == pytest.approx(o[inside].mean())
        assert (line["from"], line["to"]) == (p[inside].min(), p[inside].max())
    assert table["share"].sum() == pytest.approx(1)


# ---- Ranks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [True, False])
def test_ranks_agree_with_scikit_learn(ties: bool) -> None:
    p, o, w = drawn(ties=ties)
    stack = np.stack([p, p**2, -p, np.round(p, 1)])
    ranking = Ranking(stack, o)
    for weight in (None, w):
        auc, precision = ranking.auc(weight), ranking.average_precision(weight)
        for k, row in enumerate(stack):
            assert auc[k] == pytest.approx(metrics.roc_auc_score(o, row, sample_weight=weight), abs=1e-12)
            expected = metrics.average_precision_score(o, row, sample_weight=weight)
            assert precision[k] == pytest.approx(expected, abs=1e-12)
        assert auc[0] == auc[1] == pytest.approx(1 - auc[2])


def test_ranks_by_hand_with_a_tie() -> None:
    p, o = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0])
    assert Ranking(p, o).auc()[0] == (1 + 1 + 1 + 0.5) / 4
    assert Ranking(p, o).average_precision()[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert Ranking(np.full(4, 0.3), o).auc()[0] == 0.5
    assert Ranking(np.full(4, 0.3), o).average_precision()[0] == 0.5


def test_ranks_are_undefined_where_a_draw_holds_one_class() -> None:
    p, o = np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0])
    assert np.isnan(Ranking(p, o).auc(np.array([0.0, 1, 1]))[0])
    assert np.isnan(Ranking(p, o).auc(np.array([1.0, 0, 0]))[0])
    assert np.isnan(Ranking(p, o).average_precision(np.array([0.0, 1, 1]))[0])
    assert Ranking(p, o).average_precision(np.array([1.0, 0, 0]))[0] == 1


# ---- Calls -----------------------------------------------------------------------------------------------------


def test_the_contingency_table_by_hand() -> None:
    """Finley's tornadoes (1884), the classical table: 28 hits, 72 false alarms, 23 misses, 2680 correct negatives."""
    calls = np.repeat([1, 1, 0, 0], [28, 72, 23, 2680]).astype(bool)
    event = np.repeat([1, 0, 1, 0], [28, 72, 23, 2680])
    c = Contingency.of(calls, event)
    assert (c.hits, c.false_alarms, c.misses, c.correct_negatives) == (28, 72, 23, 2680)
    assert c.pod == pytest.approx(0.549, abs=5e-4)
    assert c.far == pytest.approx(0.720, abs=5e-4)
    assert c.csi == pytest.approx(0.228, abs=5e-4)
    assert c.pss == pytest.approx(0.523, abs=5e-4)
    assert c.hss == pytest.approx(0.355, abs=5e-4)
    assert c.hss == pytest.approx(metrics.cohen_kappa_score(event, calls))


def test_calls_without_skill_and_perfect_ones() -> None:
    _, o, w = drawn()
    stack = np.stack([np.zeros(len(o), bool), np.ones(len(o), bool), o == 1])
    c = Contingency.of(stack, o, w)
    np.testing.assert_allclose(c.pss, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(c.hss, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(c.far, [np.nan, 1 - w @ o / w.sum(), 0])
    np.testing.assert_allclose(c.csi, [0, w @ o / w.sum(), 1])


@pytest.mark.parametrize("score", ["pss", "hss"])
def test_the_best_threshold_is_that_of_trying_all(score: str) -> None:
    p, o, _ = drawn()
    tried = {value: float(getattr(Contingency.of(p >= value, o), score)) for value in np.unique(p)}
    assert tried[best_threshold(p, o, score)] == max(tried.values())


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    p, o = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 0, 1, 0])
    assert best_threshold(p, o, "pss") == 0.9


# ---- Mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "o", "said"),
    [
        ([0.5, np.nan], [0, 1], "from 0 to 1, got 1 others"),
        ([0.5, 1.5], [0, 1], "such as 1.5"),
        ([0.5, 0.5], [0, 2], "events 0 or 1"),
        ([0.5, 0.5], [0, 1, 1], "events 0 or 1 of shape"),
        ([], [], "n > 0"),
    ],
)
def test_bad_forecasts_are_refused(p: list[float], o: list[int], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        log_loss(np.array(p), np.array(o))


def test_other_mistakes_are_refused() -> None:
    p, o, _ = drawn()
    with pytest.raises(EarthSSLError, match="finite forecasts"):
        Ranking(np.where(p > 0.5, np.nan, p), o)
    with pytest.raises(EarthSSLError, match="pss, hss, got 'csi'"):
        best_threshold(p, o, "csi")
    with pytest.raises(EarthSSLError, match="got 0 events among 400"):
        best_threshold(p, 0 * o, "pss")
    with pytest.raises(EarthSSLError, match="at least 2 bins"):
        bins_of(p, 1)
