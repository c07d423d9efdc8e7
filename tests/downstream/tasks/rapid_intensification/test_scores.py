"""Brier skill against the basins' own frequencies: by hand, and a draw by weights is the drawn sample."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.tasks.rapid_intensification.scores import AP, AUC, BSS, ranked


def test_skill_by_hand() -> None:
    """Two basins with one event of two each: the reference errs by 4 × .25 = 1, the forecasts by .1 and by 2."""
    event, basin = np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.9, 0.2], [0.0, 0.0, 0.0, 0.0]])
    found = ranked(p, event, basin)[BSS](np.ones(4))
    assert found == pytest.approx([1 - (0.04 + 0.01 + 0.01 + 0.04), 1 - 2])


def test_weights_are_repetitions() -> None:
    """Every score under weights is that of the repeated samples, whose reference is their own frequency by basin."""
    rng = np.random.default_rng(0)
    p, event, basin = rng.random((2, 80)), rng.integers(0, 2, 80), rng.integers(0, 3, 80)
    weight = rng.poisson(1.0, 80)
    again = [np.repeat(one, weight, axis=-1) for one in (p, event, basin)]
    for name in (BSS, AUC, AP):
        one, two = ranked(p, event, basin)[name](weight.astype(float)), ranked(*again)[name](np.ones(weight.sum()))
        assert one == pytest.approx(two)
    rate = np.array([again[1][again[2] == k].mean() for k in range(3)])[again[2]]
    expected = 1 - ((again[0] - again[1]) ** 2).sum(1) / ((rate - again[1]) ** 2).sum()
    assert ranked(p, event, basin)[BSS](weight.astype(float)) == pytest.approx(expected)


def test_one_class_only_has_no_skill_to_speak_of() -> None:
    """NaN, which the bootstrap leaves out, not a number."""
    assert np.isnan(ranked(np.full((1, 3), 0.2), np.zeros(3, int), np.zeros(3, int))[BSS](np.ones(3))).all()
