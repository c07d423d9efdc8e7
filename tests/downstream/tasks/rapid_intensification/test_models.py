"""Models of rapid intensification on storms whose law is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from earthssl.downstream.metrics.events import Ranking, calibration_error
from earthssl.downstream.tasks.rapid_intensification.models import (
    ISOTONIC,
    PLATT,
    SMOOTHING,
    Problem,
    balanced,
    boosting,
    call,
    climatology,
    logistic,
    recalibrated,
    table,
)
from sklearn.metrics import brier_score_loss


def test_climatology_and_persistence_by_hand(problem: Problem) -> None:
    train, test = problem.inside("train"), problem.inside("test")
    north = problem.basin == 0
    expected = problem.event[train & north].mean()
    np.testing.assert_allclose(climatology(problem).test[north[test]], expected)
    day, half = call(problem, 24), call(problem, 12)
    threshold = problem.threshold_kt
    np.testing.assert_array_equal(day.test == 1, problem.samples["change24"][test] >= threshold)
    np.testing.assert_array_equal(half.test == 1, problem.samples["change12"][test] >= threshold / 2)
    assert set(day.test) == {0, 1}


def test_the_table_is_the_smoothed_frequency_of_its_box(problem: Problem) -> None:
    s, train, test = problem.samples, problem.inside("train"), problem.inside("test")
    change = s["change12"].fillna(0)
    box = (s["wind_kt"] >= 34) & (s["wind_kt"] < 50) & (change >= -2.5) & (change < 2.5)
    hits, n = problem.event[train & box].sum(), (train & box).sum()
    rate = problem.event[train].mean()
    np.testing.assert_allclose(table(problem).test[box[test]], (hits + SMOOTHING * rate) / (n + SMOOTHING))


def test_logistic_regression_finds_the_law_it_is_made_for(problem: Problem) -> None:
    """Events drawn from a logistic law of a feature: the fit reaches the score of the true chances."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(len(problem.event))
    chance = 1 / (1 + np.exp(-(2 * x - 1)))
    change = np.where(rng.uniform(size=len(x)) < chance, 2 * problem.threshold_kt, 0.0)
    made = replace(problem, samples=problem.samples.assign(change_kt=change))
    found = logistic(made, x[:, None])
    test = made.inside("test")
    np.testing.assert_allclose(found.test, chance[test], atol=0.06)
    assert brier_score_loss(made.event[test], found.test) == pytest.approx(
        brier_score_loss(made.event[test], chance[test]), rel=0.02
    )
    assert len(found.val) == made.inside("val").sum()


def test_trees_find_what_a_line_cannot_and_are_a_function_of_their_seed(problem: Problem) -> None:
    x = np.random.default_rng(4).standard_normal((len(problem.event), 2))
    change = np.where(x[:, 0] * x[:, 1] > 0, 2 * problem.threshold_kt, 0.0)
    made = replace(problem, samples=problem.samples.assign(change_kt=change))
    event = made.event[made.inside("test")]
    one, again, other = (boosting(made, x, seed) for seed in (0, 0, 1))
    assert Ranking(one.test, event).auc()[0] > 0.95
    assert Ranking(logistic(made, x).test, event).auc()[0] < 0.6
    np.testing.assert_array_equal(one.test, again.test)
    assert (one.test != other.test).any()
    assert 1 <= one.chosen["trees"] <= 300


@pytest.mark.parametrize("how", [ISOTONIC, PLATT])
def test_recalibration_mends_distorted_chances(problem: Problem, how: str) -> None:
    """Doubled log-odds are halved again; the order of the samples stays."""
    rng = np.random.default_rng(5)
    odds = rng.normal(-1, 1.2, len(problem.event))
    change = np.where(rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-odds)), 2 * problem.threshold_kt, 0.0)
    made = replace(problem, samples=problem.samples.assign(change_kt=change))
    event = made.event[made.inside("test")]
    sure = made.chances(1 / (1 + np.exp(-2 * odds)))
    mended = recalibrated(made, sure, how)
    assert calibration_error(mended.test, event) < 0.6 * calibration_error(sure.test, event)
    assert brier_score_loss(event, mended.test) < brier_score_loss(event, sure.test)
    order = np.argsort(sure.test)
    assert (np.diff(mended.test[order]) >= 0).all()
    if how == PLATT:
        np.testing.assert_allclose(mended.test, (1 / (1 + np.exp(-odds)))[made.inside("test")], atol=0.06)


def test_balanced_classes_keep_the_order_and_spoil_the_chances(problem: Problem) -> None:
    event = problem.event[problem.inside("test")]
    plain, warning = logistic(problem, problem.predictors.track), balanced(problem)
    assert Ranking(warning.test, event).auc()[0] == pytest.approx(Ranking(plain.test, event).auc()[0], abs=0.02)
    assert warning.test.mean() > event.mean() + 0.05
    assert brier_score_loss(event, warning.test) > brier_score_loss(event, plain.test)
