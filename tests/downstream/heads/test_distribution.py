"""Distributions around a tuned network: temperature, weighted quantiles and conformal widths against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.downstream.heads.distribution import (
    COVERAGES,
    LEVELS,
    Spread,
    blocks_of,
    divide_logits,
    fewest_blocks,
    temperature,
    weighted_quantiles,
)
from scipy.special import softmax
from torch import nn


def days(count: int, first: str = "2000-01-01") -> np.ndarray:
    return np.datetime64(first) + np.arange(count).astype("timedelta64[D]")


def fitted(residuals: np.ndarray, times: np.ndarray) -> Spread:
    unit, block = blocks_of(times, fewest_blocks(max(COVERAGES)))
    return Spread.fit(residuals, block, unit)


def test_a_temperature_undoes_overconfidence_and_leaves_calibrated_chances() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 3))
    classes = (softmax(logits, 1).cumsum(1) > rng.random((20000, 1))).argmax(1)
    assert temperature(logits, classes) == pytest.approx(1, abs=0.03)
    assert temperature(3 * logits, classes) == pytest.approx(3, abs=0.1)
    assert temperature(logits / 2, classes) == pytest.approx(0.5, abs=0.02)
    linear, x = nn.Linear(4, 3), torch.randn(5, 4)
    before = linear(x)
    divide_logits(linear, 2.5)
    assert torch.allclose(linear(x), before / 2.5, atol=1e-6)


def test_few_labels_move_a_temperature_little() -> None:
    """Four right answers would have it fall to the bound by the log loss alone."""
    logits = np.eye(2)[[0, 1, 0, 1]]
    assert 0.3 < temperature(logits, np.array([0, 1, 0, 1])) < 1


def test_weighted_quantiles_by_hand() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])
    assert weighted_quantiles(values, weights, [0.25, 0.26, 0.75, 0.76, 1.0]).tolist() == [1, 2, 2, 3, 3]


def test_the_number_of_blocks_decides_unit_and_coverages() -> None:
    assert [fewest_blocks(one) for one in COVERAGES] == [1, 4, 9]
    rng = np.random.default_rng(1)
    assert fitted(rng.normal(size=(4000, 1)), days(4000)).unit == "year"
    monthly = fitted(rng.normal(size=(365, 1)), days(365))
    assert (monthly.unit, monthly.blocks, list(monthly.half_widths)) == ("month", 12, list(COVERAGES))
    few = fitted(rng.normal(size=(8, 1)), days(8))
    assert (few.unit, few.blocks, list(few.half_widths)) == ("day", 8, [0.5, 0.8])


def test_intervals_cover_what_they_promise_where_a_month_has_an_error_of_its_own() -> None:
    """Twelve months of validation, twelve new ones: the promise holds as a mean over many such worlds."""
    rng = np.random.default_rng(2)
    times = days(365)
    month = times.astype("datetime64[M]").astype(int)
    month -= month[0]
    hits = []
    for _ in range(150):
        errors, fresh = (rng.normal(size=12)[month] + 0.3 * rng.normal(size=365) for _ in range(2))
        hits.append(np.abs(fresh) <= fitted(errors[:, None], times).half_widths[0.9][0])
    assert 0.88 < np.mean(hits) < 0.97


def test_a_spread_is_scored_by_hand_and_survives_json() -> None:
    spread = Spread("year", 9, {0.5: [1.0], 0.9: [2.0]}, [np.linspace(-2, 2, len(LEVELS)).tolist()])
    assert Spread.from_json(spread.to_json()) == spread
    observed, said = np.array([[0.0], [1.5], [4.0]]), np.zeros((3, 1))
    past = np.zeros((3, 1, len(LEVELS)))
    found = spread.scores(["t"], observed, said, past).set_index("coverage")
    assert found["test_coverage"].tolist() == pytest.approx([1 / 3, 2 / 3])
    # Width 2 (4), and 2 / 0.5 (2 / 0.1) times how far outside: 0.5 and 3 (2).
    assert found["interval_score"].tolist() == pytest.approx([2 + 4 * 3.5 / 3, 4 + 20 * 2 / 3])
    assert found["crps_climatology"].tolist() == pytest.approx([5.5 / 3] * 2)  # of a point forecast: the error
