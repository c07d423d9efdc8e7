"""What a meteorologist would ask of the planet: its jets, spectra, blocking. The settled climate takes minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from earthssl.ssl.sources.weather import history as history_module
from earthssl.ssl.sources.weather.climate import climate
from earthssl.ssl.sources.weather.forecast import doubling_time
from earthssl.ssl.sources.weather.labels import label_table
from earthssl.ssl.sources.weather.weather import Weather, WeatherConfig


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Weather:
    """Sixteen years in sixteen members, after the full spin-up: two minutes on a busy core."""
    return Weather(WeatherConfig(years=16, cache=str(tmp_path_factory.mktemp("cache"))))


def test_energy_by_scale_is_the_mean_square_of_the_wind(tmp_path: Path, monkeypatch) -> None:
    """Parseval: the sum over the scales at 200 hPa is half the area mean of u² + v²."""
    monkeypatch.setattr(history_module, "SPIN_UP", 2)
    monkeypatch.setattr(history_module, "BLOCK", 8)
    planet = Weather(WeatherConfig(years=1, members=1, cache=str(tmp_path)))
    planet.time = planet.time[:8]  # the first days are enough
    numbers = climate(planet, every=1)
    streams = planet.streams(planet.time[:7])
    square = planet.fields(streams, "u200") ** 2 + planet.fields(streams, "v200") ** 2
    mean = (square.mean(axis=(0, 2)) * planet.sphere.nodes[1]).sum() / 2
    assert numbers.energy[0].sum() == pytest.approx(mean, rel=1e-4)
    assert numbers.westerly.shape == (2, 32)
    assert np.isnan(numbers.westerly[1]).all()  # no summer in January
    assert numbers.blocking.shape == (64,)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_climate_is_that_of_an_atmosphere(settled: Weather) -> None:
    """Bounds about the numbers of twenty years: jets of 44 m/s in both winters, a day's strongest wind 82 m/s, z500 of
    the next day correlated .84, blocking at 3 % of longitudes and days."""
    numbers = climate(settled)
    north, south = numbers.lat > 15, numbers.lat < -15
    (winter_north, summer_north), (summer_south, winter_south) = (
        numbers.westerly[:, side].max(axis=1) for side in (north, south)
    )
    assert 35 < winter_north < 55
    assert 35 < winter_south < 55
    assert summer_north < winter_north - 5
    assert summer_south < winter_south - 5
    assert 35 < numbers.lat[north][numbers.westerly[0, north].argmax()] < 55
    assert -55 < numbers.lat[south][numbers.westerly[1, south].argmax()] < -35
    assert 60 < numbers.strongest < 110
    assert 0.78 < numbers.day_correlation < 0.90
    assert (numbers.height_spread > 60).all()
    assert (numbers.height_spread < 250).all()
    assert 0.015 < numbers.blocking.mean() < 0.06
    assert numbers.blocking.max() < 0.2
    n = np.arange(8, 18)
    slope = np.polyfit(np.log(n), np.log(numbers.energy[0, n]), 1)[0]
    assert -5 < slope < -2.5


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_small_errors_double_within_days(settled: Weather) -> None:
    days = settled.time[10::700][:8]
    assert 1.5 < doubling_time(settled, days) < 4


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_labels_of_a_settled_planet_are_worth_predicting(settled: Weather) -> None:
    """No label is constant, persistence fades, and rare events are rare."""
    table = label_table(settled)
    assert 0.02 < table["blocking_0d"].mean() < 0.35
    assert 0.005 < table["heat_0d"].mean() < 0.05
    assert 30 < table["jet_0d"].mean() < 65
    for name in ("height", "spread", "jet", "activity"):
        after = [table[f"{name}_0d"].corr(table[f"{name}_{lead}d"]) for lead in (0, 3, 10)]
        assert after[0] == pytest.approx(1)
        assert after[0] > after[1] > after[2] - 0.05
        assert after[1] < 0.9
