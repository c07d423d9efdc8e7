"""The source: canonical, deterministic, cached, gone on with where it stopped, and with a known best forecast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.planet.recorded import recorded_planet, recorded_seed
from earthssl.ssl.sources.weather import history as history_module
from earthssl.ssl.sources.weather.forecast import forecast, natural_spread
from earthssl.ssl.sources.weather.labels import label_table
from earthssl.ssl.sources.weather.reachable import REACHABLE, forecast_labels
from earthssl.ssl.sources.weather.recorded import recorded_weather
from earthssl.ssl.sources.weather.weather import Weather, WeatherConfig, open_weather


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def short() -> None:
    """A spin-up of a few days and short files: what these tests ask does not need a settled climate."""
    patch = pytest.MonkeyPatch()
    patch.setattr(history_module, "SPIN_UP", 5)
    patch.setattr(history_module, "BLOCK", 25)
    yield
    patch.undo()


def made(cache: str, **options: object) -> Weather:
    return Weather(WeatherConfig(**{"years": 2, "members": 2, "cache": cache, **options}))


@pytest.fixture(scope="module")
def planet(cache: str) -> Weather:
    return made(cache)


@pytest.fixture(scope="module")
def fields(planet: Weather) -> xr.Dataset:
    return planet.dataset()


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("states-*.npy"))


def test_the_dataset_is_canonical(planet: Weather, fields: xr.Dataset) -> None:
    assert set(fields.data_vars) == set(planet.variables)
    assert fields.sizes == {"time": 730, "lat": 32, "lon": 64}
    assert (np.diff(fields.lat) < 0).all()
    assert fields.time.dtype == "datetime64[ns]"
    for field in fields.values():
        assert field.dims == ("time", "lat", "lon")
        assert field.dtype == np.float32
        assert np.isfinite(field).all()
        assert {"units", "long_name", "standard_name"} <= set(field.attrs)
    assert "synthetic" in fields.attrs["source"]
    assert "not observations" in fields.attrs["citation"]
    record = json.loads(fields.attrs["planet"])
    assert record.pop("parameters")["drag"] == planet.world.drag
    assert record == {
        "dynamics": "quasi-geostrophic",
        "years": 2, "start": "1900-01-01", "step": "daily", "seed": 0, "world": 0, "truncation": 21, "members": 2,
    }  # fmt: skip
    assert json.loads(fields.attrs["seams"]) == ["1901-01-01"]


def test_the_seed_and_the_world_decide(planet: Weather, tmp_path: Path) -> None:
    day = planet.time[:1]
    again, other_seed, other_world = (made(str(tmp_path), **o) for o in ({}, {"seed": 1}, {"world": 1}))
    np.testing.assert_array_equal(planet.states(day), again.states(day))
    for other in (other_seed, other_world):
        assert np.abs(planet.states(day) - other.states(day)).max() > 1e-3
    assert other_world.world.drag != planet.world.drag


def test_an_interrupted_history_goes_on_bit_for_bit(planet: Weather, tmp_path: Path, monkeypatch) -> None:
    other = made(str(tmp_path))
    write, blocks = history_module.History._write, []

    def broken(self: history_module.History, block: int, values: np.ndarray) -> None:
        if block == 2 and not blocks:
            blocks.append(block)
            raise KeyboardInterrupt
        write(self, block, values)

    monkeypatch.setattr(history_module.History, "_write", broken)
    with pytest.raises(KeyboardInterrupt):
        other.states(other.time[80])
    assert len(files(tmp_path)) == 2
    resumed = made(str(tmp_path))  # as another process would
    times = resumed.time[:90]
    np.testing.assert_array_equal(resumed.states(times), planet.states(times))
    assert torch.get_num_threads() >= 1


def test_only_what_is_read_is_made_and_only_once(tmp_path: Path, monkeypatch) -> None:
    planet = made(str(tmp_path))
    planet.states(planet.time[[3, 365 + 49]])
    assert len(files(tmp_path)) == 2  # steps 0…49 of both members
    monkeypatch.setattr(history_module.History, "_run", None)  # making more would fail
    made(str(tmp_path)).states(planet.time[40:50])
    assert len(files(tmp_path)) == 2


def test_pieces_are_those_of_the_whole(planet: Weather, fields: xr.Dataset) -> None:
    times = planet.time[[0, 17, 364, 365, 729]]
    streams = planet.streams(times)
    for name in ("z500", "u200", "t850"):
        np.testing.assert_allclose(planet.fields(streams, name), fields[name].sel(time=times), rtol=1e-5, atol=1e-2)


def test_large_planets_are_lazy(planet: Weather, monkeypatch) -> None:
    from earthssl.ssl.sources.weather import weather as weather_module

    eager = planet.dataset(["z500"])
    monkeypatch.setattr(weather_module, "EAGER_BYTES", 0)
    lazy = planet.dataset(["z500"])
    assert lazy.z500.chunks is not None
    xr.testing.assert_identical(eager, lazy.compute())


def test_leap_years_and_two_steps_a_day(cache: str) -> None:
    """Members of 365 and 366 days; every second step of the 12-hourly planet is the daily one, to the bit."""
    twice = made(cache, start="1903-01-01", step="12-hourly")
    daily = made(cache, start="1903-01-01")
    assert len(twice.time) == 2 * (365 + 366)
    assert twice.time[-1] == np.datetime64("1904-12-31T12")
    at = daily.time[[0, 30, 365, 385]]
    np.testing.assert_array_equal(twice.states(at), daily.states(at))


def test_a_region_and_some_variables(cache: str, fields: xr.Dataset) -> None:
    part = open_weather(variables=["z500", "u850"], region=[20, 70, 180, 300], years=2, members=2, cache=cache)
    assert list(part.data_vars) == ["z500", "u850"]
    assert part.lat.min() >= 20
    xr.testing.assert_equal(part.z500, fields.z500.sel(lat=part.lat, lon=part.lon))


def test_without_noise_the_forecast_is_the_truth(planet: Weather) -> None:
    times = planet.time[[10, 40, 400]]
    found = forecast(planet, times, [0, 1, 5])
    assert found.shape == (1, 3, 3, 3, 484)
    truth = np.stack([planet.streams(times + np.timedelta64(day, "D")) for day in (0, 1, 5)], axis=1)
    np.testing.assert_array_equal(found[0, :, 0], truth[:, 0])
    np.testing.assert_allclose(found[0], truth, atol=1e-5 * np.abs(truth).max())


def test_noise_makes_an_ensemble_around_an_observed_state(planet: Weather) -> None:
    """At lead 0, errors of the members' mean have the size of the noise, and so has the spread about it."""
    times = planet.time[[10, 60, 120, 400]]
    found = forecast(planet, times, [0], members=12, noise=0.1, seed=3)[:, :, 0]
    again = forecast(planet, times, [0], members=12, noise=0.1, seed=3)[:, :, 0]
    np.testing.assert_array_equal(found, again)
    truth = planet.streams(times)
    scale = np.sqrt(((found - found.mean(0)) ** 2).sum((-1, -2)).mean())
    error = np.sqrt(((found.mean(0) - truth) ** 2).sum((-1, -2)).mean())
    assert error == pytest.approx(scale * np.sqrt(12 / 11 * 13 / 12), rel=0.15)
    assert (natural_spread(planet)[:, 1:] > 0).all()


def test_labels_forecast_without_noise_are_the_labels_of_those_days(planet: Weather) -> None:
    times, leads = planet.time[[10, 60, 400]], [0, 3, 5]
    found = forecast_labels(planet, times, leads)
    table = label_table(planet, leads)
    for name in REACHABLE:
        wanted = table.loc[times, [f"{name}_{lead}d" for lead in leads]].to_numpy().copy()
        if name == "activity":
            wanted[:, 0] = np.nan
        np.testing.assert_allclose(found[name], wanted, rtol=2e-4, atol=0.02)


def test_the_hidden_truth_is_labelled(planet: Weather) -> None:
    hidden = planet.hidden()
    field = hidden.potential_vorticity
    assert field.dims == ("time", "level", "coefficient")
    assert field.shape == (730, 3, 484)
    assert (hidden.wavenumber >= (hidden.component + 1) // 2).all()
    sample = field.isel(time=[400]).values / 7.292e-5
    np.testing.assert_allclose(sample, planet.states(planet.time[400]), rtol=1e-5)


def test_the_attributes_lead_back_to_the_planet(planet: Weather, fields: xr.Dataset, cache: str) -> None:
    assert recorded_weather(fields.attrs, cache).config == planet.config
    with pytest.raises(EarthSSLError, match="source: weather"):
        recorded_weather({"source": "ERA5"})
    with pytest.raises(EarthSSLError, match="store of the synthetic planet"):
        recorded_planet(fields.attrs)  # it has no tropical storms and no ENSO


def test_histories_are_told_apart(fields: xr.Dataset) -> None:
    """By seed and world, and from the planet of the same seed; not by length, as a longer one may share its days."""

    def number(**options: object) -> int | None:
        record = json.loads(fields.attrs["planet"])
        return recorded_seed({"planet": json.dumps({**record, **options})})

    assert number() == number(years=40) != number(seed=1)
    assert len({number(), number(world=1), number(world=2), number(seed=1), 0, 1}) == 6
    assert recorded_seed({"planet": json.dumps({"seed": 0})}) == 0
    assert recorded_seed({"source": "ERA5"}) is None


def test_it_is_a_source(cache: str, fields: xr.Dataset) -> None:
    xr.testing.assert_identical(open_source("weather", years=2, members=2, cache=cache), fields)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"years": 0}, "years"),
        ({"step": "dayly"}, "Did you mean 'daily'"),
        ({"truncation": 31}, "21 or 42"),
        ({"start": "1900-02-01"}, "1 January"),
        ({"start": "2200-01-01", "years": 100}, "1678…2262"[:4]),
        ({"seed": -1}, "seed"),
        ({"wrld": 1}, "Did you mean 'world'"),
        ({"variables": ["z300"]}, "z500"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], words: str, cache: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        open_weather(**{"years": 2, "members": 2, "cache": cache, **options})


def test_forecasts_refuse_what_makes_no_sense(planet: Weather) -> None:
    day = planet.time[:1]
    with pytest.raises(EarthSSLError, match="whole days"):
        forecast(planet, day, [0.5])
    with pytest.raises(EarthSSLError, match="noise above 0"):
        forecast(planet, day, [1], members=4)
    with pytest.raises(EarthSSLError, match="steps within"):
        forecast(planet, np.datetime64("1950-01-01"), [1])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    planet = made(str(tmp_path))
    planet.states(planet.time[0])
    file = next(tmp_path.rglob("states-*.npy"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EarthSSLError, match="remove"):
        made(str(tmp_path)).states(planet.time[0])
