"""Scores of class probabilities: by hand and by copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from earthssl.downstream.metrics.classes import FLOOR, frequencies, statistics
from earthssl.ssl.common.errors import EarthSSLError

LABELS = np.array([0, 0, 0, 1, 2])
RIGHT = np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [1.0, 0.0, 0.0]])
CLIM = np.tile([0.6, 0.2, 0.2], (5, 1))
ONES = np.ones(5)


def scores(weights: np.ndarray = ONES) -> dict[str, float]:
    return {name: float(one(weights)[0]) for name, one in statistics(RIGHT[None], LABELS, CLIM).items()}


def test_every_metric_by_hand() -> None:
    found = scores()
    error = 2 * (0.04 + 0.01 + 0.01) + (0.81 + 0.64 + 0.01) + (0.04 + 0.16 + 0.04) + (1 + 0 + 1)
    reference = 3 * (0.16 + 0.04 + 0.04) + 2 * (0.36 + 0.64 + 0.04)
    assert found["brier_skill"] == pytest.approx(1 - error / reference)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    expected = -(2 * math.log(0.8) + math.log(0.1) + math.log(0.6) + math.log(FLOOR)) / 5
    assert found["log_loss"] == pytest.approx(expected)


def test_perfect_and_climatological_probabilities_score_one_and_zero() -> None:
    both = np.stack([np.eye(3)[LABELS], CLIM])
    found = {name: one(ONES) for name, one in statistics(both, LABELS, CLIM).items()}
    assert found["brier_skill"] == pytest.approx([1, 0])
    assert found["accuracy"] == pytest.approx([1, 0.6])
    assert found["balanced_accuracy"] == pytest.approx([1, 1 / 3])  # one class called always: chance
    assert found["log_loss"][0] == pytest.approx(0)


def test_weights_count_as_copies() -> None:
    weights = np.array([2.0, 0, 1, 3, 1])
    rows = np.repeat(np.arange(5), weights.astype(int))
    copies = statistics(RIGHT[None, rows], LABELS[rows], CLIM[rows])
    for name, value in scores(weights).items():
        assert value == pytest.approx(float(copies[name](np.ones(len(rows)))[0])), name


def test_a_draw_without_a_class_leaves_it_out_of_the_balance() -> None:
    assert scores(np.array([1.0, 1, 1, 1, 0]))["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_frequencies_follow_laplaces_rule() -> None:
    assert frequencies(LABELS, 3)[0] == pytest.approx([4 / 8, 2 / 8, 2 / 8])
    grouped = frequencies(LABELS, 3, np.array([0, 0, 1, 1, 1]), 3)
    assert grouped[0] == pytest.approx([3 / 5, 1 / 5, 1 / 5])
    assert grouped[2] == pytest.approx([1 / 3] * 3)  # a group without samples


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(EarthSSLError, match="sum to 1"):
        statistics(2 * RIGHT[None], LABELS, CLIM)
    with pytest.raises(EarthSSLError, match=r"labels \(5,\) and climatology \(5, 3\)"):
        statistics(RIGHT[None], LABELS[:4], CLIM)
