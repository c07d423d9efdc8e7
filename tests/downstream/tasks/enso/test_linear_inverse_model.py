"""LIMs recover propagators that are known."""

import numpy as np
import pytest
from earthssl.downstream.tasks.enso.baselines import Lim
from earthssl.ssl.common.errors import EarthSSLError


def turn(angle: float, growth: float = 1.0) -> np.ndarray:
    return growth * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def simulate(propagators: np.ndarray, n: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    states = np.zeros((n, 2))
    states[0] = 1.0, 0.5
    for t in range(n - 1):
        states[t + 1] = propagators[t % 12] @ states[t] + noise * rng.normal(size=2)
    return states


def test_a_noiseless_rotation_is_recovered_exactly() -> None:
    rotation = turn(0.3)
    lim = Lim.stationary(simulate(np.stack([rotation] * 12), 50, 0.0))
    np.testing.assert_allclose(lim.propagators, np.stack([rotation] * 12), atol=1e-10)


def test_a_noisy_propagator_is_recovered_from_a_long_record() -> None:
    truth = turn(0.2, 0.9)
    lim = Lim.stationary(simulate(np.stack([truth] * 12), 40_000, 1.0))
    np.testing.assert_allclose(lim.propagators[0], truth, atol=0.02)


def test_stationary_is_lagged_over_simultaneous_covariance() -> None:
    states = simulate(np.stack([turn(0.2, 0.9)] * 12), 300, 1.0)
    c1, c0 = states[1:].T @ states[:-1], states[:-1].T @ states[:-1]
    np.testing.assert_allclose(Lim.stationary(states).propagators[3], c1 @ np.linalg.inv(c0))


def test_each_calendar_month_gets_its_own_propagator() -> None:
    truth = np.stack([turn(0.1 + 0.05 * m, 0.9) for m in range(12)])
    month = np.arange(36_000) % 12
    states = simulate(truth, 36_000, 1.0)
    lim = Lim.cyclostationary(states, month, window=1, ridge=0.0)
    np.testing.assert_allclose(lim.propagators, truth, atol=0.06)
    # A window of three averages the neighbours, December and February for January among them.
    wide = Lim.cyclostationary(states, month, window=3, ridge=0.0)
    np.testing.assert_allclose(wide.propagators[0], truth[[11, 0, 1]].mean(axis=0), atol=0.06)


def test_without_a_cycle_both_models_agree() -> None:
    states = simulate(np.stack([turn(0.2, 0.9)] * 12), 36_000, 1.0)
    lim = Lim.cyclostationary(states, np.arange(36_000) % 12)
    np.testing.assert_allclose(lim.propagators, Lim.stationary(states).propagators, atol=0.05)


def test_ridge_equals_the_penalised_normal_equations() -> None:
    states, month = simulate(np.stack([turn(0.2, 0.9)] * 12), 240, 1.0), np.arange(240) % 12
    near = np.isin(month[:-1], (4, 5, 6))
    x, y = states[:-1][near], states[1:][near]
    expected = y.T @ x @ np.linalg.inv(x.T @ x + 0.1 * len(x) * np.eye(2))
    lim = Lim.cyclostationary(states, month, ridge=0.1)
    np.testing.assert_allclose(lim.propagators[5], expected)


def test_forecast_applies_the_months_in_order() -> None:
    truth = np.stack([turn(0.1 * m, 1.0 + 0.01 * m) for m in range(12)])
    start = np.array([[1.0, 2.0], [0.5, -1.0]])
    path = Lim(truth).forecast(start, np.array([10, 3]), 3)
    np.testing.assert_allclose(path[0], start)
    np.testing.assert_allclose(path[3, 0], truth[0] @ truth[11] @ truth[10] @ start[0])
    np.testing.assert_allclose(path[3, 1], truth[5] @ truth[4] @ truth[3] @ start[1])


def test_a_missing_month_drops_its_two_pairs_only() -> None:
    rotation = turn(0.3)
    states = simulate(np.stack([rotation] * 12), 50, 0.0)
    states[20] = np.nan
    np.testing.assert_allclose(Lim.stationary(states).propagators[0], rotation, atol=1e-10)


def test_too_few_months_and_even_windows_are_refused() -> None:
    with pytest.raises(EarthSSLError, match=r"components \(2\), got 1"):
        Lim.stationary(np.ones((2, 2)))
    with pytest.raises(EarthSSLError, match="odd window"):
        Lim.cyclostationary(np.ones((48, 2)), np.arange(48) % 12, window=2)
