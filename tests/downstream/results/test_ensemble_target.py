"""Scores of ensembles: hand answers, scoringrules' own, and calibrated ensembles."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
from earthssl.downstream.results.ensemble_target import (
    COVERED,
    CRPS,
    ERROR2,
    VARIANCE,
    dressed,
    ensemble_target,
    parts_of,
    residual_quantiles,
)
from earthssl.downstream.results.row import Role, Row


def test_two_members_by_hand() -> None:
    """Members 0 and 2 about 1: no error, CRPS 1 − ½ = ½, variance 2 · 3/2, covered."""
    members = np.array([[[0.0], [2.0]]])
    parts = parts_of(lambda part: members[part], 2, np.array([[1.0]]), np.ones(1))[0]
    assert parts[[ERROR2, CRPS, VARIANCE, COVERED]].tolist() == [0, 0.5, 3, 1]
    alone = parts_of(lambda part: members[part, :1], 1, np.array([[1.0]]), np.ones(1))[0]
    assert alone[[ERROR2, CRPS]].tolist() == [1, 1]
    assert np.isnan(alone[[VARIANCE, COVERED]]).all()


def test_cells_count_by_their_area() -> None:
    rng = np.random.default_rng(0)
    members, truth = rng.normal(size=(30, 7, 3)), rng.normal(size=(30, 3))
    area = np.array([1.0, 2.0, 5.0])
    parts = parts_of(lambda part: members[part], 7, truth, area)
    crps = scoringrules.crps_ensemble(truth, np.moveaxis(members, 1, -1))
    np.testing.assert_allclose(parts[:, CRPS], crps @ area / 8)
    np.testing.assert_allclose(parts[:, ERROR2], (members.mean(1) - truth) ** 2 @ area / 8)


def test_members_drawn_like_the_truth_are_calibrated() -> None:
    """Truth and nine members of one distribution that moves: spread / skill 1, coverage 80 %; r is that of the mean."""
    rng = np.random.default_rng(1)
    centre, width = rng.normal(size=(4000, 1)), np.repeat([0.5, 2.0], 2000)[:, None]
    truth = centre + width * rng.normal(size=(4000, 1))
    members = centre[..., None] + width[..., None] * rng.normal(size=(4000, 9, 1))
    usual = dressed(np.zeros_like(truth), truth, truth, np.ones(1))
    row = Row("x", Role.BASELINE, {"t": parts_of(lambda part: members[part], 9, truth, np.ones(1))})
    target = ensemble_target("t", usual, np.arange(4000) // 400, 1, centred=True)
    found = {m.name: float(m.statistic([row])(np.ones(4000))[0]) for m in target.metrics}
    assert found["spread_skill"] == pytest.approx(1, abs=0.03)
    assert found["coverage_80"] == pytest.approx(0.8, abs=0.02)
    mean = members.mean(axis=1)[:, 0]
    assert found["r"] == pytest.approx(np.corrcoef(mean, truth[:, 0])[0, 1])
    assert found["skill"] == pytest.approx(1 - ((mean - truth[:, 0]) ** 2).mean() / (truth**2).mean())
    assert found["spread_r"] > 0.3  # wide where it errs
    constant = next(m for m in target.metrics if m.name == "spread_r").statistic(
        [Row("c", Role.BASELINE, {"t": usual})]
    )
    assert constant(np.ones(4000)).tolist() == [0]  # a spread that never changes says nothing


def test_residuals_shift_no_forecast() -> None:
    residuals = np.random.default_rng(0).exponential(size=(500, 2)) + 3
    quantiles = residual_quantiles(residuals, 40)
    np.testing.assert_allclose(quantiles.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(quantiles.std(axis=0), residuals.std(axis=0), rtol=0.1)
