"""Persistence, damping and climatologies against what the stores were made of."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from earthssl.downstream.tasks.forecast.baselines import (
    Damped,
    anomaly_persistence,
    bases_of,
    calendar_climatology,
    mean_climatology,
    persistence,
    weekly_climatology,
)
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.store.store import Store


@pytest.fixture(scope="module")
def daily(daily_store: Path) -> ForecastSamples:
    return ForecastSamples.of(Store(daily_store), [1, 4], 1)


def test_persistence_is_the_present_anomaly(daily: ForecastSamples) -> None:
    inits = daily.inits("test", 4)
    forecast = anomaly_persistence(daily)(inits, 4)
    assert np.array_equal(forecast, daily.fields[inits])
    error = daily.squared_errors(forecast, inits, 4).mean()
    assert error == pytest.approx(2 * (1 - 0.8**4), rel=0.1)  # 2 σ² (1 - r)


def test_persistence_of_the_field_is_in_units_what_the_store_was_made_of(daily: ForecastSamples) -> None:
    inits = daily.inits("test", 4)[:40]
    field, climatology = daily.in_units(persistence(daily)(inits, 4), inits, 4)
    np.testing.assert_allclose(field[:, 0], daily.store.dataset(["t2m"])["t2m"].values[inits], atol=2e-3)
    # What it leaves out of the other persistence is the season's step between the two times.
    kept, _ = daily.in_units(anomaly_persistence(daily)(inits, 4), inits, 4)
    _, before = daily.in_units(daily.present(inits), inits - 4, 4)
    np.testing.assert_allclose(kept - field, climatology - before, atol=2e-3)


def test_damping_is_that_of_the_red_noise(daily: ForecastSamples) -> None:
    """Coefficient .8^lead for the variable, taken before the noisier ones of the cells; error 1 - r²."""
    damped = Damped.fit(daily)
    for lead in (1, 4):
        assert damped.coefficient[lead].mean() == pytest.approx(0.8**lead, abs=0.02)
        inits = daily.inits("test", lead)
        error = daily.squared_errors(damped(inits, lead), inits, lead).mean()
        assert error == pytest.approx(1 - 0.8 ** (2 * lead), rel=0.08)


def test_damping_of_each_cell_where_cells_differ(daily: ForecastSamples) -> None:
    """Half of the globe keeps its anomaly of each month for ever: coefficient 1 there, by choice on validation."""
    fields = daily.fields.copy()
    steps = np.arange(len(fields))
    fields[:, :, :, :3] = fields[steps // 40 * 40][:, :, :, :3]
    samples = ForecastSamples(daily.store, fields, daily.names, (1,), 1)
    damped = Damped.fit(samples)
    assert damped.chosen == {1: "cell"}
    assert damped.coefficient[1][0, :, :3] == pytest.approx(1, abs=0.08)
    assert damped.coefficient[1][0, :, 3:] == pytest.approx(0.8, abs=0.08)


def test_climatologies_in_units(daily: ForecastSamples) -> None:
    """The mean of all training days; of the same week of the training years; and the harmonic cycle."""
    inits = daily.inits("test", 1)[:30]
    data = daily.store.dataset(["t2m"])["t2m"]
    train = data.sel(time=slice("2001", "2006"))
    mean, _ = daily.in_units(mean_climatology(daily)(inits, 1), inits, 1)
    np.testing.assert_allclose(mean[:, 0], np.broadcast_to(train.mean("time"), mean[:, 0].shape), atol=2e-3)
    weekly = weekly_climatology(daily)
    assert weekly is not None
    found, _ = daily.in_units(weekly(inits, 1), inits, 1)
    third = train[(train["time"].dt.dayofyear >= 15) & (train["time"].dt.dayofyear <= 21)].mean("time").values
    assert str(daily.times[inits[16] + 1])[:10] == "2008-01-17"
    np.testing.assert_allclose(found[16, 0], third, atol=2e-3)
    assert not calendar_climatology(daily)(inits, 1).any()


def test_no_weekly_climatology_of_months_or_of_weeks_never_seen(daily: ForecastSamples, small_store: Path) -> None:
    assert weekly_climatology(ForecastSamples.of(Store(small_store), [1], 1)) is None
    store = copy.copy(daily.store)
    store.splits = SplitsConfig(("2001-01", "2001-06"), ("2001-08", "2001-09"), ("2002-01", "2002-12"), 14).build()
    assert weekly_climatology(ForecastSamples.of(store, [1], 1)) is None


def test_bases_by_name(daily: ForecastSamples) -> None:
    inits = daily.inits("val", 1)[:3]
    made = bases_of(daily)
    assert not made["anomaly"](inits, 1).any()
    assert np.array_equal(made["change"](inits, 1), daily.present(inits))
    assert np.array_equal(made["departure"](inits, 1), Damped.fit(daily)(inits, 1))
    with pytest.raises(EarthSSLError, match="Did you mean 'change'"):
        bases_of(daily, ["chance"])
    with pytest.raises(EarthSSLError, match="got none"):
        bases_of(daily, [])
