"""Sums over bins of chance: hand answers, Murphy's identity, and chances that are too bold."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.metrics.calibration import brier, calibration_error, chance_sums, reliability, resolution


def test_by_hand() -> None:
    """Four chances in two bins: .25 twice (one came), .75 twice (both came)."""
    sums = chance_sums(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0, 1, 1, 1])).sum(1)
    assert brier(sums) == pytest.approx((0.0625 + 0.5625 + 2 * 0.0625) / 4)
    assert calibration_error(sums) == pytest.approx(0.25)
    assert reliability(sums) == pytest.approx(0.0625)
    assert resolution(sums) == pytest.approx(0.0625)


def test_brier_is_reliability_less_resolution_plus_uncertainty_where_bins_hold_one_chance() -> None:
    rng = np.random.default_rng(0)
    p = rng.choice([0.05, 0.35, 0.95], size=500)
    o = (rng.random(500) < 0.2 + p / 2).astype(int)
    sums = chance_sums(p, o).sum(1)
    assert brier(sums) == pytest.approx(reliability(sums) - resolution(sums) + o.mean() * (1 - o.mean()))


def test_bold_chances_are_found_and_weights_count() -> None:
    rng = np.random.default_rng(1)
    p = rng.random((20_000, 2))
    o = (rng.random(p.shape) < p).astype(int)
    right = chance_sums(p, o).sum(1)
    bold = chance_sums(np.clip(2 * p - 0.5, 0, 1), o).sum(1)
    assert calibration_error(right) < 0.015
    assert calibration_error(bold) == pytest.approx(0.125, abs=0.015)  # mean of |p - clip(2p - ½)|
    half = chance_sums(p, o, np.tile([1.0, 0.0], (20_000, 1)))
    assert half.sum(1) == pytest.approx(chance_sums(p[:, 0], o[:, 0]).sum(1))
