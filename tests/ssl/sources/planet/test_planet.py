"""The synthetic planet: reproducible, canonical, plausible, and with a known best forecast."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources.planet import planet as planet_module
from earthssl.ssl.sources.planet.enso_oscillator import Oscillator
from earthssl.ssl.sources.planet.geography import COLUMNS, DENSITY, RADIUS, RESPONSES, ROTATION, WAVES, Geography
from earthssl.ssl.sources.planet.planet import Planet, PlanetConfig, open_planet
from earthssl.ssl.sources.planet.recorded import recorded_planet

LEADS = (1, 3, 6, 9, 12, 15, 18)


def anomalies(field: xr.DataArray) -> np.ndarray:
    """Monthly values minus the mean of their calendar month, (times, rows, columns)."""
    values = field.values.astype(np.float64)
    months = values.reshape(-1, 12, *values.shape[1:])
    return (months - months.mean(axis=0)).reshape(values.shape)


def skill(forecast: np.ndarray, truth: np.ndarray, months: np.ndarray) -> float:
    """Mean over the calendar months of Pearson r."""
    return float(np.mean([np.corrcoef(forecast[months == month], truth[months == month])[0, 1] for month in range(12)]))


@pytest.fixture(scope="module")
def planet() -> Planet:
    return Planet(PlanetConfig(years=120))


@pytest.fixture(scope="module")
def fields(planet: Planet) -> xr.Dataset:
    return planet.dataset()


@pytest.fixture(scope="module")
def hidden(planet: Planet) -> xr.Dataset:
    return planet.hidden()


@pytest.fixture(scope="module")
def nino34(planet: Planet, fields: xr.Dataset) -> np.ndarray:
    box = planet.grid.box(-5, 5, 190, 240)
    return np.average(anomalies(fields.sst)[:, box], axis=1, weights=planet.grid.area[box])


@pytest.fixture(scope="module")
def skills(planet: Planet, nino34: np.ndarray) -> dict[str, list[float]]:
    """Persistence and the best reachable forecast, all initial months that can be verified."""
    forecast = planet.nino34_forecast(planet.time[:-19], LEADS, members=60)
    seasons = np.convolve(nino34, np.ones(3) / 3, mode="same")
    rows: dict[str, list[float]] = {"best": [], "persistence": []}
    for row, lead in zip(forecast, LEADS, strict=True):
        at = np.arange(len(row)) + lead
        rows["best"].append(skill(row, seasons[at], at % 12))
        rows["persistence"].append(skill(nino34[at - lead], seasons[at], at % 12))
    return rows


def test_the_dataset_is_canonical(fields: xr.Dataset) -> None:
    grid = LatLonGrid(fields.lat.values, fields.lon.values)
    assert grid.shape == (32, 64)
    assert grid.lat[0] == 87.1875
    assert grid.lat[-1] == -87.1875
    assert grid.periodic
    assert grid.area.sum() == pytest.approx(1)
    assert set(fields.data_vars) == {"sst", "t2m", "u10", "v10", "msl"}
    for field in fields.values():
        assert field.dims == ("time", "lat", "lon")
        assert field.dtype == np.float32
        assert {"units", "long_name", "standard_name"} <= set(field.attrs)
    assert fields.time.dtype == "datetime64[ns]"
    assert fields.time.values[0] == np.datetime64("1900-01-01")
    assert fields.sizes["time"] == 120 * 12
    assert fields.attrs["source"] == "planet (synthetic)"
    assert fields.attrs["licence"] == "CC0"
    assert json.loads(fields.attrs["planet"])["seed"] == 0


def test_the_seed_decides_the_history_and_not_the_geography() -> None:
    first, again, other = (open_planet(years=2, seed=seed) for seed in (3, 3, 4))
    xr.testing.assert_identical(first, again)
    assert not np.allclose(first.msl, other.msl, atol=10)
    assert (first.sst.isnull() == other.sst.isnull()).all()


@pytest.mark.parametrize("step", ["monthly", "6-hourly"])
def test_a_longer_planet_begins_with_the_shorter_one(step: str) -> None:
    years = 10 if step == "monthly" else 1
    short, long = (open_planet(years=n, step=step, shape=(18, 36), seed=1) for n in (years, 2 * years))
    xr.testing.assert_equal(short, long.isel(time=slice(short.sizes["time"])))


def test_land_does_not_move_and_the_pacific_is_water(planet: Planet, fields: xr.Dataset) -> None:
    missing = fields.sst.isnull().values
    assert (missing == missing[0]).all()
    np.testing.assert_array_equal(missing[0], planet.geography.land)
    assert not planet.geography.land[planet.grid.box(-6, 6, 140, 280)].any()
    assert 0.2 < (planet.geography.land * planet.grid.area).sum() < 0.4
    on_equator = planet.geography.land[planet.grid.box(-3, 3, 0, 360).any(axis=1)]
    assert (on_equator.any(axis=1) & ~on_equator.all(axis=1)).all()
    # neither hemisphere nor half of the globe is the mirror of the other
    assert (planet.geography.land != planet.geography.land[::-1]).mean() > 0.2
    assert (planet.geography.land != planet.geography.land[:, ::-1]).mean() > 0.2
    assert not fields.drop_vars("sst").isnull().to_array().any()


def test_magnitudes_are_plausible(fields: xr.Dataset) -> None:
    for name, low, high in (("sst", 271, 309), ("t2m", 210, 325), ("msl", 9.5e4, 1.06e5)):
        assert low < float(fields[name].min()) < float(fields[name].max()) < high
    assert 15 < float(np.abs(fields.u10).max()) < 35
    sst = fields.sst.mean("time")
    assert 26 < float(sst.sel(lat=slice(5, -5)).mean()) - 273.15 < 30
    assert float(sst.sel(lat=0, lon=250, method="nearest")) < float(sst.sel(lat=0, lon=155, method="nearest"))
    winds = fields.u10.mean(("time", "lon"))
    assert float(winds.sel(lat=10, method="nearest")) < -3
    assert float(winds.sel(lat=-50, method="nearest")) > 3


def test_seasons_are_opposite_in_the_hemispheres_and_stronger_on_land(planet: Planet) -> None:
    year = planet.dataset().groupby("time.month").mean()
    north, south = (year.sst.sel(lat=lat, method="nearest").mean("lon").values for lat in (40, -40))
    assert north.argmax() + 1 in (8, 9)
    assert south.argmax() + 1 in (2, 3)
    assert np.corrcoef(north, south)[0, 1] < -0.95
    swing = (year.t2m.max("month") - year.t2m.min("month")).values
    belt = planet.grid.box(40, 60, 0, 360)
    land = planet.geography.land
    assert swing[belt & land].mean() > 1.8 * swing[belt & ~land].mean()


def test_warming_is_the_trend_asked_for() -> None:
    cold, warm = (Planet(PlanetConfig(years=50, trend_k_per_century=trend, shape=(18, 36))) for trend in (0.0, 2.0))
    difference = (warm.dataset() - cold.dataset()).isel(time=slice(-12, None)).mean("time")
    sst = difference.sst.sel(lat=slice(30, -30)).mean()
    assert float(sst) == pytest.approx(0.9 * 2.0 * 0.495, abs=0.01)
    assert float(difference.t2m.max()) > float(sst)
    np.testing.assert_allclose(difference.msl, 0, atol=0.1)


def test_the_month_is_the_mean_of_its_days() -> None:
    monthly, daily = (open_planet(years=2, step=step, shape=(18, 36)) for step in ("monthly", "daily"))
    assert daily.sizes["time"] == 730
    means = daily.resample(time="MS").mean()
    for name in monthly:
        scale = float(monthly[name].std())
        np.testing.assert_allclose(means[name], monthly[name], atol=3e-4 * scale)


def test_land_has_a_daily_cycle_at_six_hours() -> None:
    planet = Planet(PlanetConfig(years=1, step="6-hourly", shape=(18, 36)))
    fields = planet.dataset()
    assert fields.sizes["time"] == 365 * 4
    assert (np.diff(fields.time) == np.timedelta64(6, "h")).all()
    hours = fields.t2m.groupby("time.hour").mean().values
    swing = hours.max(axis=0) - hours.min(axis=0)
    tropics = planet.grid.box(-20, 20, 0, 360)
    assert swing[tropics & planet.geography.land].min() > 4
    assert swing[tropics & ~planet.geography.land].max() < 1
    noon_in_africa = hours[:, 9, 2]  # 20° E: 12 UTC is 13:20 there
    assert noon_in_africa.argmax() == 2


def test_large_planets_are_lazy_and_hold_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    planet = Planet(PlanetConfig(years=3, step="daily", shape=(10, 20)))
    eager = planet.dataset()
    monkeypatch.setattr(planet_module, "EAGER_BYTES", 0)
    lazy = planet.dataset()
    assert eager.t2m.chunks is None
    assert lazy.t2m.chunks is not None
    assert lazy.t2m.chunks[0] == (365, 365, 365)
    xr.testing.assert_identical(lazy.isel(time=slice(300, 800)).load(), eager.isel(time=slice(300, 800)))


def test_resolutions_show_one_planet() -> None:
    coarse, fine = (Planet(PlanetConfig(years=3, shape=shape)) for shape in ((18, 36), (54, 108)))
    # the centre of a coarse cell is the centre of a fine one in latitude, and in longitude
    a, b = (planet.dataset().msl.values for planet in (coarse, fine))
    np.testing.assert_allclose(a, b[:, 1::3, ::3], atol=0.1)
    np.testing.assert_array_equal(coarse.hidden().t_e, fine.hidden().t_e)


def test_nino34_has_the_spread_season_skewness_and_period_of_the_real_one(nino34: np.ndarray) -> None:
    assert 0.7 < nino34.std() < 1.0
    by_month = nino34.reshape(-1, 12).std(axis=0)
    assert by_month.argmax() + 1 in (11, 12, 1)
    assert by_month.argmin() + 1 in (4, 5, 6)
    assert (nino34**3).mean() / nino34.std() ** 3 > 0.1
    power = np.abs(np.fft.rfft(nino34 - nino34.mean())) ** 2
    power = np.convolve(power, np.ones(7) / 7, mode="same")
    frequency = np.fft.rfftfreq(len(nino34), 1 / 12)
    power[frequency < 0.1] = 0
    assert 2.5 < 1 / frequency[power.argmax()] < 6


def test_the_best_forecast_beats_persistence_and_fades(skills: dict[str, list[float]]) -> None:
    best, persistence = np.array(skills["best"]), np.array(skills["persistence"])
    np.testing.assert_allclose(persistence[:4], [0.97, 0.79, 0.48, 0.18], atol=0.12)
    assert (best > persistence).all()
    assert best[1] > 0.88
    assert 0.72 < best[2] < 0.92
    assert 0.3 < best[-1] < 0.7
    assert (np.diff(best) < 0).all()


def test_the_forecast_is_calibrated(planet: Planet, hidden: xr.Dataset) -> None:
    """An expectation has no bias, and the truth regressed on it has slope 1."""
    (row,) = planet.nino34_forecast(planet.time[:-19], [6], members=100)
    truth = np.convolve(hidden.nino34, np.ones(3) / 3, mode="same")[6 : 6 + len(row)]
    assert np.polyfit(row, truth, 1)[0] == pytest.approx(1, abs=0.1)
    assert (truth - row).mean() == pytest.approx(0, abs=0.1)


def test_the_forecast_at_lead_one_holds_the_known_month(planet: Planet, hidden: xr.Dataset) -> None:
    first, later = planet.nino34_forecast(planet.time[100:102], [1, 2], members=2000)
    still = planet.nino34_forecast(planet.time[100:102], [1, 2], members=2000, seed=1)
    np.testing.assert_allclose(still, [first, later], atol=0.05)
    truth = hidden.nino34.values
    np.testing.assert_allclose(first, [truth[at : at + 3].mean() for at in (100, 101)], atol=0.35)


def test_without_noise_the_forecast_is_the_future() -> None:
    still = Oscillator(wind_noise=0.0, heat_noise=0.0, damping=-0.02)  # grows to a cycle of its own
    planet = Planet(PlanetConfig(years=20, noise=0.0), still)
    index = planet.hidden().nino34.values
    assert index.std() > 0.2
    forecast = planet.nino34_forecast(planet.time[:200], [1, 6, 12], members=2)
    for row, lead in zip(forecast, (1, 6, 12), strict=True):
        truth = np.convolve(index, np.ones(3) / 3, mode="same")[lead : lead + 200]
        assert np.abs(row - truth).max() < 0.15 * index.std()


def test_the_hidden_states_explain_the_index(hidden: xr.Dataset, nino34: np.ndarray) -> None:
    table = np.stack([hidden[name].values for name in ("t_e", "h_w", "t_squared", "trend")], axis=1)
    table = np.column_stack([np.ones(len(table)), table])
    fit = table @ np.linalg.lstsq(table, nino34, rcond=None)[0]
    assert np.corrcoef(fit, nino34)[0, 1] > 0.95
    months = hidden.nino34.values.reshape(-1, 12)
    np.testing.assert_allclose((months - months.mean(axis=0)).ravel(), nino34, atol=0.02)
    # heat comes before warmth: h leads T by some months
    t, h = hidden.t_e.values, hidden.h_w.values
    assert np.corrcoef(h[:-9], t[9:])[0, 1] > 0.5
    assert np.corrcoef(h[9:], t[:-9])[0, 1] < -0.3


def test_far_regions_follow_with_a_delay(hidden: xr.Dataset, fields: xr.Dataset, planet: Planet) -> None:
    index = hidden.t_e.values
    north_pacific = anomalies(fields.sst)[:, planet.grid.box(35, 45, 175, 200)].mean(axis=1)
    lags = [
        np.corrcoef(index[12 - lag : -lag or None][: len(index) - 12], north_pacific[12:])[0, 1] for lag in range(9)
    ]
    assert 2 <= int(np.argmin(lags)) <= 6
    assert min(lags) < -0.25


def test_waves_travel_west(hidden: xr.Dataset, fields: xr.Dataset, planet: Planet) -> None:
    # the hidden amplitude turns as e^{+iωt}; with e^{ikλ} in the field this is westward
    wave = hidden.wave.values
    slow = [count for count, wave in enumerate(WAVES) if wave.period > 100]
    turn = np.angle((wave[1:, slow] * wave[:-1, slow].conj()).sum(axis=0))
    assert (turn > 0.3).all()
    row = anomalies(fields.msl)[:, np.abs(planet.grid.lat - 52).argmin()]
    row = row - row.mean(axis=1, keepdims=True)
    shifts = np.arange(-8, 9)
    lagged = [(row[:-1] * np.roll(row[1:], -shift, axis=1)).mean() for shift in shifts]
    assert shifts[int(np.argmax(lagged))] < 0
    east, west = np.sum(lagged[9:14]), np.sum(lagged[3:8])
    assert west > east


def test_wind_is_geostrophic_in_mid_latitudes(fields: xr.Dataset, planet: Planet) -> None:
    msl, u10, v10 = (fields[name].values.astype(np.float64)[::37] for name in ("msl", "u10", "v10"))
    lat = np.deg2rad(planet.grid.lat)
    coriolis = 2 * ROTATION * np.sin(lat)[:, None]
    northward = np.gradient(msl, lat * RADIUS, axis=1)
    spacing = 2 * np.deg2rad(360 / 64) * RADIUS * np.cos(lat)[:, None]
    eastward = (np.roll(msl, -1, axis=2) - np.roll(msl, 1, axis=2)) / spacing
    for belt in (slice(4, 9), slice(23, 28)):  # 36–64° of either hemisphere
        u = (-northward / (DENSITY * coriolis))[:, belt]
        v = (eastward / (DENSITY * coriolis))[:, belt]
        np.testing.assert_allclose(u10[:, belt], u, atol=0.25)
        np.testing.assert_allclose(v10[:, belt], v, atol=0.25)


def test_geostrophy_known_answer() -> None:
    """A pressure falling northwards blows from the west in the north and from the east in the south."""
    grid = LatLonGrid(np.array([50.0, 45.0, 40.0, -40.0, -45.0, -50.0]), np.arange(0, 360, 10.0))
    msl = np.broadcast_to(1e5 - 10 * grid.lat[:, None], grid.shape)
    u, v = Geography(grid).geostrophic(msl)
    slope = -10 / (np.pi / 180 * RADIUS)
    expected = -slope / (1.2 * 2 * 7.292e-5 * np.sin(np.pi / 4))
    assert u[1, 0] == pytest.approx(expected, rel=1e-6)
    assert u[4, 0] == pytest.approx(-expected, rel=1e-6)
    np.testing.assert_allclose(v, 0, atol=1e-12)


def test_oscillator_without_noise_and_nonlinearity_turns_at_its_known_period() -> None:
    linear = Oscillator(damping=0, season=0, leak=0, quadratic=0, cubic=0, quadratic_h=0, wind_noise=0, heat_noise=0)
    dt, period = 0.05, 2 * np.pi / np.sqrt(0.16 * 0.13)
    steps = round(3 * period / dt)
    path = linear.run(np.array([1.0, 0, 0, 0, 0]), np.zeros(steps), dt, np.zeros((steps, 2)))
    expected = np.cos(2 * np.pi * np.arange(1, steps + 1) * dt / period)
    np.testing.assert_allclose(path[:, 0], expected, atol=0.02)


def test_worlds_have_their_own_dynamics_and_stay_near_the_usual_one() -> None:
    assert Oscillator.of_world(0) == Oscillator()
    assert Oscillator.of_world(3) == Oscillator.of_world(3) != Oscillator.of_world(4)
    noise = np.random.default_rng(0).standard_normal((6000, 2))
    months = np.arange(6000) / 10
    spreads = [Oscillator.of_world(k).run(np.zeros(5), months, 0.1, noise)[:, 0].std() for k in range(1, 21)]
    assert 0.3 < min(spreads) < max(spreads) < 1.6  # K; none dies out, none runs away
    assert np.std(spreads) > 0.05


def test_a_store_says_its_world_only_where_it_is_not_the_usual_one() -> None:
    usual, other = (open_planet(years=1, seed=1, shape=(18, 36), world=world) for world in (0, 5))
    assert "world" not in json.loads(usual.attrs["planet"])  # as stores made before there were worlds
    assert recorded_planet(other.attrs).oscillator == Oscillator.of_world(5)
    assert (usual.sst.isnull() == other.sst.isnull()).all()
    assert not np.allclose(usual.msl, other.msl, atol=10)


def test_wind_noise_has_unit_variance_and_its_memory() -> None:
    rng, steps = np.random.default_rng(0), 60_000
    path = Oscillator().run(np.zeros(5), np.zeros(steps), 0.1, rng.standard_normal((steps, 2)))
    wind = path[:, 2]
    assert wind.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(wind[:-10], wind[10:])[0, 1] == pytest.approx(np.exp(-1), abs=0.05)


def test_only_the_ocean_and_the_oscillator_reach_the_index(planet: Planet) -> None:
    weights = dict(zip(COLUMNS, planet._index_weights, strict=True))
    assert weights["t_e"] == pytest.approx(1, abs=0.05)
    left = [value for name, value in weights.items() if name.startswith(("wave", "air")) or name in RESPONSES[2::2]]
    np.testing.assert_allclose(left, 0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sead": 1}, r"sead.*Did you mean 'seed'"),
        ({"step": "month"}, r"step.*Did you mean 'monthly'"),
        ({"years": 0}, "years"),
        ({"years": 500}, "1678…2261"),
        ({"start": "1900-02-01"}, "1 January"),
        ({"start": "soon"}, "date"),
        ({"seed": -1}, "seed"),
        ({"world": -1}, "world"),
        ({"shape": (4, 8)}, "shape"),
        ({"noise": -1.0}, "noise"),
        ({"variables": ["sts"]}, "Did you mean 'sst'"),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(options: dict[str, object], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message) as caught:
        open_planet(**options)
    assert "\n" not in str(caught.value)


def test_forecasts_outside_the_planet_are_refused(planet: Planet) -> None:
    with pytest.raises(EarthSSLError, match="init_times"):
        planet.nino34_forecast([np.datetime64("2020-01")], [1])
    with pytest.raises(EarthSSLError, match="leads"):
        planet.nino34_forecast([np.datetime64("1950-01")], [0])
    coarse = Planet(PlanetConfig(years=1, shape=(8, 16)))
    assert "nino34" not in coarse.hidden()
    with pytest.raises(EarthSSLError, match="5S–5N"):
        coarse.nino34_forecast([np.datetime64("1900-01")], [1])


def test_variables_can_be_chosen() -> None:
    assert list(open_planet(["msl", "sst"], years=1, shape=[16, 32])) == ["msl", "sst"]
