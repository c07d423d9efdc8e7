"""Distributions from residuals: CRPS by integration, scales of cells, and intervals that hold what they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from earthssl.downstream.heads.residuals import Calibration, Empirical, Gaussian
from scipy.stats import norm

GRID = np.linspace(-12, 12, 240_001)


def crps_by_integration(below: Any, observed: float) -> float:
    """∫ (F(x) - 1[x ≥ y])² dx."""
    return float(((below - (observed <= GRID)) ** 2).sum() * (GRID[1] - GRID[0]))


@pytest.mark.parametrize("observed", [-2.3, 0.0, 0.7, 3.5])
def test_crps_of_both_shapes_by_integration(observed: float) -> None:
    assert Gaussian().crps(np.array(observed)) == pytest.approx(crps_by_integration(norm.cdf(GRID), observed), abs=1e-4)
    values, weights = np.array([-1.5, -0.2, 0.7, 2.0]), np.array([0.1, 0.4, 0.3, 0.2])
    shape = Empirical(values, weights, {})
    cdf = (weights[:, None] * (values[:, None] <= GRID)).sum(0)
    assert shape.crps(np.array(observed)) == pytest.approx(crps_by_integration(cdf, observed), abs=1e-3)


def test_moments_and_places_of_a_weighted_sample() -> None:
    shape = Empirical(np.array([-1.0, 0.0, 3.0]), np.array([0.5, 0.25, 0.25]), {})
    assert (shape.mean, shape.variance) == (0.25, pytest.approx(2.75 - 0.0625))
    assert shape.below(np.array([-2.0, -1.0, -0.5, 0.0, 9.0])).tolist() == [0, 0.25, 0.5, 0.625, 1]


def test_half_widths_of_the_gaussian() -> None:
    assert [round(Gaussian().half[share], 3) for share in (0.5, 0.8, 0.9, 0.95)] == [0.674, 1.282, 1.645, 1.96]


def test_intervals_of_exchangeable_blocks_hold_what_they_promise() -> None:
    """Of 19 blocks the ⌈20 × share⌉-th smallest score bounds a new one with exactly that chance: 50, 80, 90, 95 %."""
    rng = np.random.default_rng(0)
    held = np.zeros(4)
    for _ in range(400):
        noise = rng.standard_t(3, size=19 + 50)
        found = Calibration.fit(noise[:19, None], np.ones((19, 1)), np.arange(19))
        new = np.abs(noise[19:] / found.scale[0])
        held += [(new <= found.conformal.half[share]).mean() for share in (0.5, 0.8, 0.9, 0.95)]
    assert held / 400 == pytest.approx([0.5, 0.8, 0.9, 0.95], abs=0.015)


def test_neighbours_in_time_are_one_block() -> None:
    """Ten years of two hundred days that err alike carry no interval of 95 %, and one of 90 % is the widest year."""
    year = np.repeat(np.arange(10), 200)
    found = Calibration.fit(np.repeat(np.arange(1.0, 11), 200)[:, None], np.ones((2000, 1)), year)
    assert found.blocks == 10
    assert set(found.conformal.half) == {0.5, 0.8, 0.9}
    assert found.conformal.half[0.9] * found.scale[0] == pytest.approx(10)


def test_each_cell_has_its_scale_and_one_without_residuals_that_of_all() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4000, 3)) * [1.0, 4.0, 2.0]
    weight = np.tile([1.0, 1.0, 0.0], (4000, 1))
    found = Calibration.fit(noise, weight, np.arange(4000) // 10)
    assert found.scale == pytest.approx([1, 4, np.sqrt(17 / 2)], rel=0.05)
    assert found.conformal.half[0.9] == pytest.approx(1.645, rel=0.03)
    assert found.conformal.variance == pytest.approx(1, rel=0.03)


def test_missing_residuals_are_never_read() -> None:
    residuals, weight = np.ones((12, 2)), np.ones((12, 2))
    residuals[3, 1], weight[3, 1] = np.nan, 0
    residuals[5], weight[5] = np.nan, 0
    found = Calibration.fit(residuals, weight, np.arange(12))
    assert found.blocks == 11
    assert found.scale == pytest.approx([1, 1])
    assert np.isfinite(found.conformal.values).all()
