"""The kernel head and the kernel forecast of fields: brute force, and worlds whose future is not linear."""

from __future__ import annotations

import numpy as np
from earthssl.downstream.evaluation.kernel_forecast import kernel_forecasts
from earthssl.downstream.heads.base import Samples, choose
from earthssl.downstream.heads.kernel import KernelHead
from earthssl.downstream.heads.linear import RidgeHead


def test_it_is_kernel_ridge_with_an_unpenalised_intercept() -> None:
    rng = np.random.default_rng(0)
    x, z, y = rng.normal(size=(40, 3)) * [1, 5, 0.2] + 7, rng.normal(size=(9, 3)) + 7, rng.normal(size=(40, 2))
    width, penalty = 0.6, 0.01
    for standardise in (True, False):
        scale = x.std(axis=0) if standardise else (x - x.mean(axis=0)).std()

        def kernel(a: np.ndarray, b: np.ndarray, scale: np.ndarray = scale) -> np.ndarray:
            return np.exp(-width / 3 * (((a[:, None] - b[None]) / scale) ** 2).sum(axis=2))

        # Dual: [K + penalty n 1, e; eᵀ, 0] [alpha; intercept] = [y; 0].
        system = np.block([[kernel(x, x) + penalty * 40 * np.eye(40), np.ones((40, 1))], [np.ones((1, 40)), 0.0]])
        found = np.linalg.solve(system, np.vstack([y, np.zeros((1, 2))]))
        head = KernelHead((width,), (penalty,), standardise=standardise)
        told = head.predict(Samples(x, y, np.arange(40)), Samples(z, y[:9], np.arange(9)), [(width, penalty)])
        np.testing.assert_allclose(told[0], kernel(z, x) @ found[:-1] + found[-1], atol=1e-7)


def test_it_learns_what_ridge_cannot() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(900, 2))
    y = (x[:, :1] * x[:, 1:]) + 0.1 * rng.normal(size=(900, 1))
    train, val = (Samples(x[k], y[k], k) for k in (np.arange(300), np.arange(300, 900)))
    few = KernelHead(landmarks=100)
    assert choose(few, {"x": train}, {"x": val}).error < 0.1
    assert choose(RidgeHead(), {"x": train}, {"x": val}).error > 0.8


def test_the_forecast_tells_a_chaotic_map_and_no_more_than_it_is_asked() -> None:
    """The logistic map: the next value has no linear relation with this one, and is a parabola of it."""
    x = np.empty((1200, 1))
    x[0] = 0.3
    for k in range(1, len(x)):
        x[k] = 1 - 2 * x[k - 1] ** 2  # on (-1, 1), mean 0
    wanted = np.arange(1000, 1190)
    found = kernel_forecasts(x, np.arange(600), np.arange(650, 900), [1], wanted)
    forecast, both = found.values()
    assert forecast.shape == (1200, 1)
    assert both.shape == (1200, 2)
    assert np.isnan(forecast[:1000]).all()
    assert abs(np.corrcoef(x[wanted, 0], x[wanted + 1, 0])[0, 1]) < 0.2
    assert np.corrcoef(forecast[wanted, 0], x[wanted + 1, 0])[0, 1] > 0.99
    assert kernel_forecasts(x, np.arange(5), np.arange(650, 900), [1], wanted) == {}
