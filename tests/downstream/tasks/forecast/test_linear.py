"""Linear forecasts: exact on linear dynamics, brute force of the validation error, no look at later blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from earthssl.downstream.heads.ridge_path import RidgePath
from earthssl.downstream.tasks.forecast.baselines import Damped, bases_of
from earthssl.downstream.tasks.forecast.linear import (
    States,
    feature_ridge,
    linear_direct,
    linear_iterative,
    path_errors,
    window_states,
)
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.ssl.store.store import Store


@pytest.fixture(scope="module")
def wave(wave_store: Path) -> ForecastSamples:
    return ForecastSamples.of(Store(wave_store), [1, 4, 9], 2)


@pytest.fixture(scope="module")
def small(small_store: Path) -> ForecastSamples:
    return ForecastSamples.of(Store(small_store), [1, 3], 2, ["u10", "sst"])


def skill(samples: ForecastSamples, forecast: object, lead: int) -> float:
    inits = samples.inits("test", lead)
    error = samples.squared_errors(forecast(inits, lead), inits, lead)  # type: ignore[operator]
    power = samples.squared_errors(np.zeros_like(samples.present(inits)), inits, lead)
    return 1 - float(error.mean() / power.mean())


def test_a_travelling_wave_is_forecast_exactly(wave: ForecastSamples) -> None:
    """Two components carry it; after one, four and nine steps (its period) direct and iterative have it."""
    states = States.of(wave)
    assert 2 <= states.components.shape[1] <= 4
    bases = bases_of(wave, ["anomaly", "change"])
    rows = (
        linear_direct(wave, states, bases),
        linear_iterative(wave, states, [2]),
        feature_ridge(wave, window_states(states, [2], 2), bases),
    )
    for row in rows:
        for lead in wave.leads:
            assert skill(wave, row, lead) > 0.9999, (type(row), lead)
    damped = Damped.fit(wave)
    assert skill(wave, damped, 4) == pytest.approx(np.cos(2 * np.pi * 4 / 9) ** 2, abs=0.02)


def test_an_iteration_of_one_step_is_the_direct_regression(small: ForecastSamples) -> None:
    """On all components with the same penalty; and two iterations are the square of the matrix."""
    states = States.of(small)
    z, train = states.scaled, small.inits("train", 1)
    iterative = linear_iterative(small, states, [5])
    count, base, penalty = iterative.chosen
    past = z[train, :count] if base == "change" else 0.0
    path = RidgePath.fit(z[train, :count], z[train + 1, :count] - past, standardise=False)
    inits = small.inits("test", 1)[:6]
    now = z[inits, :count]
    expected = path.predict(now, [penalty])[0] + (now if base == "change" else 0.0)
    full = np.zeros((6, states.components.shape[1]))
    full[:, :count] = expected * np.sqrt((states.eof.std**2).sum())
    np.testing.assert_allclose(iterative(inits, 1), states.fields(full, small), atol=1e-5)
    matrix, constant = iterative.step
    twice = (now @ matrix + constant) @ matrix + constant
    full[:, :count] = twice * np.sqrt((states.eof.std**2).sum())
    np.testing.assert_allclose(iterative(inits, 2), states.fields(full, small), atol=1e-5)


def test_states_give_the_fields_back(wave: ForecastSamples) -> None:
    states = States.of(wave)
    np.testing.assert_allclose(states.fields(states.components[:7], wave), wave.fields[:7], atol=1e-4)


@pytest.mark.parametrize(("n", "width"), [(40, 6), (12, 30)])
@pytest.mark.parametrize("standardise", [True, False])
def test_path_errors_are_those_of_the_predictions(n: int, width: int, standardise: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, width)), rng.normal(size=(n, 7))
    others, truth, weight = rng.normal(size=(9, width)), rng.normal(size=(9, 7)), rng.uniform(size=7)
    path = RidgePath.fit(x, y, standardise=standardise)
    penalties = [1e-3, 0.1, 10.0]
    brute = [((truth - p) ** 2 * weight).sum() for p in path.predict(others, penalties)]
    np.testing.assert_allclose(path_errors(path, others, truth, weight, penalties), brute)


def test_choices_and_fits_do_not_see_the_test_block(small: ForecastSamples) -> None:
    fields = small.fields.copy()
    fields[305:] += 50  # after the last validation target
    poisoned = ForecastSamples(small.store, fields, small.names, small.leads, small.window)
    inits = small.inits("val", 3)
    for make in (
        lambda s: linear_direct(s, States.of(s), bases_of(s)),
        lambda s: linear_iterative(s, States.of(s), [4, 8]),
        lambda s: feature_ridge(s, window_states(States.of(s), [4, 8], 2), bases_of(s)),
    ):
        own, other = make(small), make(poisoned)
        assert own.settings == other.settings
        np.testing.assert_array_equal(own(inits, 3), other(inits, 3))


def test_forecasts_beat_the_climatology_beside_land(small: ForecastSamples) -> None:
    states = States.of(small)
    direct = linear_direct(small, states, bases_of(small))
    assert skill(small, direct, 1) > 0.3
    assert np.isfinite(direct(small.inits("test", 1), 1)).all()
    assert set(direct.settings) == {"u10 1 mo", "sst 1 mo", "u10 3 mo", "sst 3 mo"}


def test_components_over_the_window(small: ForecastSamples) -> None:
    states = States.of(small)
    found = window_states(states, [2, 4, 10**6], 3)
    assert list(found) == ["2 PCs × 3 steps", "4 PCs × 3 steps"]
    np.testing.assert_array_equal(found["2 PCs × 3 steps"][10], states.components[[10, 9, 8], :2].ravel())
    most = states.components.shape[1]
    assert list(window_states(states, [10**6], 1)) == [f"{most} PCs × 1 steps"]
