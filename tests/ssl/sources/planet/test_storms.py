"""The planet's storms: a published intensity model, tracks that follow the air, marks in the fields, known chances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources.planet.geography import DENSITY, RADIUS, ROTATION
from earthssl.ssl.sources.planet.planet import Planet, PlanetConfig, open_planet
from earthssl.ssl.sources.planet.storm_intensity import KNOT, NOISES, SUBSTEPS, Fast, potential_intensity
from earthssl.ssl.sources.planet.storms import FAREST, WEAKEST, basins, categories, surroundings, vortex
from earthssl.ssl.sources.planet.upper_air import VARIABLES as ALOFT

YEARS = 5
STILL = np.zeros((SUBSTEPS, NOISES))


def storms_planet(years: int = 1, **options: object) -> Planet:
    return Planet(PlanetConfig(**{"years": years, "step": "6-hourly", "storms": 80, "shape": (18, 36), **options}))


@pytest.fixture(scope="module")
def planet() -> Planet:
    return storms_planet(YEARS, shape=(32, 64))


@pytest.fixture(scope="module")
def tracks(planet: Planet) -> pd.DataFrame:
    return planet.tracks()


def samples_of(tracks: pd.DataFrame) -> pd.DataFrame:
    """Records of 25 kt and more, over water from the record to 24 h later, with the change of wind."""
    storm = tracks.groupby("storm")
    water = tracks.over_water
    for later in range(1, 5):
        water = water & storm.over_water.shift(-later, fill_value=False)
    change = storm.wind_kt.shift(-4) - tracks.wind_kt
    return tracks.assign(change=change)[water & (tracks.wind_kt >= 25) & change.notna()]


# ---- intensity -------------------------------------------------------------------------------------------------


def test_without_shear_the_steady_storm_has_the_potential_intensity() -> None:
    """m = 1 and V = Vp are the published equilibrium of dry and moist balance: β Vp² = (1 − γ) V²."""
    dv, dm = Fast().tendency(65.0, 1.0, 65.0, 0.0)
    assert dv == pytest.approx(0, abs=1e-12)
    assert dm == 0
    state = (20.0, 0.5, 0.0)
    for _ in range(80):
        state = Fast().advance(state, (65.0, 0.0), (65.0, 0.0), STILL)
    assert state[0] == pytest.approx(65, abs=0.01)
    assert state[1] == pytest.approx(1, abs=1e-4)


def test_with_shear_the_steady_storm_solves_both_balances() -> None:
    """m = V / (V + χ S), and V²(1 − γ m³) = β Vp² m³, solved by bisection here."""
    fast, potential, ventilation = Fast(), 70.0, 5.0
    state = (50.0, 0.9, 0.0)
    for _ in range(200):
        state = fast.advance(state, (potential, ventilation), (potential, ventilation), STILL)
    low, high = 30.0, 70.0
    for _ in range(60):
        v = (low + high) / 2
        cubed = (v / (v + ventilation)) ** 3
        grows = (1 - 0.43) * potential**2 * cubed > (1 - 0.43 * cubed) * v**2
        low, high = (v, high) if grows else (low, v)
    assert state[0] == pytest.approx(v, abs=0.01)
    assert state[1] == pytest.approx(v / (v + ventilation), abs=1e-3)
    assert state[0] < 60  # shear weakens


def test_over_land_a_dry_storm_decays_by_friction_alone() -> None:
    """dV/dt = −k V² has the solution V / (1 + k V t)."""
    fast, v = Fast(), 60.0
    rate = 0.5 * fast.exchange / fast.depth
    assert fast.tendency(v, 0.0, 0.0, 5.0)[0] == pytest.approx(-rate * v * v)
    state = (v, 0.0, 0.0)
    for _ in range(4):
        # strong ventilation keeps the core dry, so that nothing is gained from what is left of the moisture
        state = fast.advance(state, (0.0, 1e4), (0.0, 1e4), STILL)
    assert state[0] == pytest.approx(v / (1 + rate * v * 86400), rel=0.05)  # steps of an hour


def test_the_noise_of_the_ventilation_has_its_spread_and_memory() -> None:
    fast, rng = Fast(), np.random.default_rng(0)
    x, kept = np.zeros(2000), []
    for _ in range(12):
        noise = rng.standard_normal((SUBSTEPS, NOISES, 2000))
        _, _, x = fast.advance((np.full(2000, 30.0), np.full(2000, 0.5), x), (60.0, 5.0), (60.0, 5.0), noise)
        kept.append(x)
    assert x.std() == pytest.approx(fast.ventilation_noise, rel=0.05)
    assert np.corrcoef(kept[-3], kept[-1])[0, 1] == pytest.approx(np.exp(-12 / fast.ventilation_memory), abs=0.06)


def test_potential_intensity_known_answers() -> None:
    assert potential_intensity(303.15) == pytest.approx(84.0)
    assert potential_intensity(303.15 - np.log(2) / 0.1813) == pytest.approx(28.2 + 27.9)


# ---- tracks ----------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_storms() -> None:
    first, again, other = (storms_planet(seed=seed).tracks() for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert len(first) != len(other)


def test_a_longer_planet_begins_with_the_same_storms_and_fields() -> None:
    short, long = storms_planet(1, seed=3), storms_planet(2, seed=3)
    tracks = long.tracks()
    end = short.time[-1]
    pd.testing.assert_frame_equal(short.tracks(), tracks[tracks.time <= end].reset_index(drop=True))
    xr.testing.assert_equal(short.dataset(), long.dataset().isel(time=slice(len(short.time))))
    assert (tracks.time > end).any()
    # the storms at the turn of the year go on into the next
    over = tracks[(tracks.storm < 1901000) & (tracks.time > end)]
    assert len(over)


def test_without_storms_nothing_changes() -> None:
    with_storms, without = (storms_planet(storms=rate, seed=2) for rate in (80, 0))
    fields, plain = with_storms.dataset(), without.dataset()
    assert set(plain) == {"sst", "t2m", "u10", "v10", "msl"}
    assert set(fields) == {*plain, *ALOFT}
    xr.testing.assert_equal(fields[["sst", "t2m"]], plain[["sst", "t2m"]])
    xr.testing.assert_identical(with_storms.hidden(), without.hidden())
    # far from every storm the marked fields are the same bit for bit
    tracks = with_storms.tracks()
    quiet = ~np.isin(with_storms.time, tracks.time)
    assert quiet.any()
    xr.testing.assert_equal(fields.isel(time=quiet)[list(plain)], plain.isel(time=quiet))
    assert (fields.msl <= plain.msl).all()
    assert float((plain.msl - fields.msl).max()) > 200


def test_resolutions_see_the_same_storms(tracks: pd.DataFrame) -> None:
    coarse = storms_planet(1).tracks()
    first = tracks[tracks.time <= coarse.time.max()].reset_index(drop=True)
    pd.testing.assert_frame_equal(coarse, first)


def test_the_table_is_what_it_says(planet: Planet, tracks: pd.DataFrame) -> None:
    assert not tracks.isna().any().any()
    assert tracks.time.dtype == planet.time.dtype
    assert np.isin(tracks.time, planet.time).all()
    assert not tracks.duplicated(["storm", "time"]).any()
    pd.testing.assert_frame_equal(tracks, tracks.sort_values(["storm", "time"], kind="stable"))
    steps = tracks.groupby("storm").time.diff().dropna()
    assert (steps == np.timedelta64(6, "h")).all()
    assert tracks.lon.between(0, 360, inclusive="left").all()
    assert tracks.lat.abs().between(2, FAREST).all()
    assert (tracks.wind_kt >= WEAKEST / KNOT - 1e-9).all()
    assert (tracks.category == categories(tracks.wind_kt.to_numpy())).all()
    np.testing.assert_array_equal(categories(np.array([33.9, 34, 64, 83, 96, 113, 137])), range(-1, 6))
    assert (tracks.potential_intensity[~tracks.over_water] == 0).all()
    assert (tracks.potential_intensity[tracks.over_water] > 28.2).all()
    assert tracks.m.between(0, 1).all()
    assert (tracks.groupby("storm").basin.nunique() == 1).all()


def test_storms_are_as_many_and_as_rare_as_asked(tracks: pd.DataFrame) -> None:
    storms = tracks.groupby("storm")
    born = storms.first()
    assert len(born) / YEARS == pytest.approx(80, rel=0.2)
    assert {"NA", "EP", "WP", "NI", "SI", "SP"} <= set(born.basin)
    assert born.lat.abs().between(4, 28).all()
    assert born.over_water.all()
    # the season of either hemisphere is its late summer
    north, south = (born[side].time.dt.month for side in (born.lat > 0, born.lat < 0))
    assert north.between(6, 11).mean() > 0.75
    assert (south.ge(11) | south.le(4)).mean() > 0.75
    # young storms go west and polewards
    move = storms.lon.shift(-1) - tracks.lon
    young = (storms.cumcount() < 8) & (move.abs() < 180)
    assert move[young].mean() < -0.5
    assert (storms.lat.shift(-1) * np.sign(tracks.lat) - tracks.lat.abs())[young].mean() > 0.2


def test_rapid_intensification_is_rare_and_follows_the_air(tracks: pd.DataFrame) -> None:
    samples = samples_of(tracks)
    rapid = samples.change >= 30
    assert 0.05 < rapid.mean() < 0.10
    assert 0.25 < samples[rapid].storm.nunique() / samples.storm.nunique() < 0.6
    ventilation = samples.shear * samples.chi
    assert rapid[ventilation < ventilation.quantile(0.3)].mean() > 3 * rapid[ventilation > ventilation.median()].mean()
    assert samples.potential_intensity[rapid].mean() > samples.potential_intensity[~rapid].mean() + 3


def test_land_weakens(tracks: pd.DataFrame) -> None:
    storm = tracks.groupby("storm")
    ashore = ~tracks.over_water & ~storm.over_water.shift(-4, fill_value=True) & (tracks.wind_kt > 60)
    change = (storm.wind_kt.shift(-4) - tracks.wind_kt)[ashore].dropna()
    assert len(change) > 20
    assert (change < -10).all()


def test_basins_follow_the_coasts() -> None:
    lat = np.array([15, 15, 15, 15, 12, 25, -15, -15, -15, -15])
    lon = np.array([320, 250, 150, 65, 300, 268, 60, 170, 240, 340.0])
    assert basins(lat, lon).tolist() == ["NA", "EP", "WP", "NI", "NA", "NA", "SI", "SP", "SP", "SA"]


# ---- the mark in the fields ------------------------------------------------------------------------------------


def test_the_vortex_is_cyclonic_without_divergence_and_in_balance() -> None:
    """On a fine grid around one storm, by finite differences."""
    for centre in (18.0, -18.0):
        lat = centre + np.linspace(8, -8, 161)
        lon = 100 + np.linspace(-8, 8, 161)
        y, x = np.meshgrid(lat, lon, indexing="ij")
        cosine = np.sin(np.deg2rad(y)) * np.sin(np.deg2rad(centre))
        cosine += np.cos(np.deg2rad(y)) * np.cos(np.deg2rad(centre)) * np.cos(np.deg2rad(x - 100))
        distance = np.arccos(np.clip(cosine, -1, 1)) * RADIUS
        u, v, msl = (vortex(name, y, x, centre, 100.0, distance, 50.0) for name in ("u10", "v10", "msl"))
        north, east = np.deg2rad(lat) * RADIUS, np.deg2rad(lon) * RADIUS
        across = np.cos(np.deg2rad(y))
        spin = np.gradient(v, east, axis=1) / across - np.gradient(u * across, north, axis=0) / across
        outflow = np.gradient(u, east, axis=1) / across + np.gradient(v * across, north, axis=0) / across
        middle = (slice(2, -2), slice(2, -2))
        assert np.sign(centre) * spin[80, 80] > 4e-5
        assert np.abs(outflow[middle]).max() < 0.01 * np.abs(spin).max()
        speed = np.hypot(u, v)
        assert speed.max() == pytest.approx(10, rel=0.01)  # 0.2 V
        assert distance[np.unravel_index(speed.argmax(), speed.shape)] == pytest.approx(4e5, rel=0.05)
        # gradient wind along the row through the centre: dp/dr = ρ (v²/r + |f| v)
        row = np.s_[80, 90:150]
        r, wind = distance[row], speed[row]
        coriolis = 2 * ROTATION * np.sin(np.deg2rad(18))
        slope = np.gradient(msl[80], distance[80] * np.sign(x[80] - 100))[90:150]
        np.testing.assert_allclose(slope, DENSITY * (wind**2 / r + coriolis * wind), rtol=0.02, atol=1e-7)


def test_fields_show_the_storms(planet: Planet, tracks: pd.DataFrame) -> None:
    """Against the planet without storms: lower pressure at the storm, wind round it, next to nothing elsewhere."""
    year = tracks[tracks.time < "1901"]
    strong = year[year.wind_kt > 80].iloc[::5]
    times = np.searchsorted(planet.time, strong.time.to_numpy())
    plain = storms_planet(1, storms=0, shape=(32, 64))
    mark = planet._block("msl", 0) - plain._block("msl", 0)
    lowest = mark[times].reshape(len(times), -1).argmin(axis=1)
    row, column = np.divmod(lowest, 64)
    others = year.groupby("time").storm.transform("size").loc[strong.index].to_numpy()
    alone = others == 1
    assert alone.sum() > 5
    near = np.abs(planet.grid.lat[row] - strong.lat.to_numpy()) < 3
    assert near[alone].all()
    wide = np.abs((planet.grid.lon[column] - strong.lon.to_numpy() + 180) % 360 - 180)
    assert (wide[alone] < 4).all()
    assert (mark[times, row, column] < -100).all()
    assert np.mean(mark < -1) < 0.05
    # a fine grid around the storm: the minimum of the whole field lies by it
    fine = storms_planet(1, shape=(60, 120))
    whole = fine._block("msl", 0)
    found = []
    for _, storm in strong[strong.wind_kt > 100].iterrows():
        box = fine.grid.box(storm.lat - 7, storm.lat + 7, storm.lon - 7, storm.lon + 7)
        field = np.where(box, whole[np.searchsorted(fine.time, storm.time.to_datetime64())], np.inf)
        i, j = np.unravel_index(field.argmin(), field.shape)
        found.append(np.hypot(fine.grid.lat[i] - storm.lat, (fine.grid.lon[j] - storm.lon + 180) % 360 - 180))
    assert len(found) > 5
    assert np.median(found) < 3


def test_the_air_of_the_fields_is_that_of_the_storms(planet: Planet, tracks: pd.DataFrame) -> None:
    """Shear and humidity of the nearest cell, without the vortex's own 850 hPa wind, are the hidden ones."""
    year = tracks[tracks.time < "1901"]
    at = np.searchsorted(planet.time, year.time.to_numpy())
    row = np.abs(planet.grid.lat[None] - year.lat.to_numpy()[:, None]).argmin(1)
    column = np.rint(year.lon.to_numpy() / 5.625).astype(int) % 64
    field = {name: planet._block(name, 0)[at, row, column] for name in ALOFT}
    chi = 2 * (1 - field["r700"] / 100)
    assert np.corrcoef(chi, year.chi)[0, 1] > 0.9
    east, north = field["u200"] - field["u850"], field["v200"] - field["v850"]
    assert np.corrcoef(np.hypot(east, north), year.shear)[0, 1] > 0.6


def test_the_new_fields_are_plausible(planet: Planet) -> None:
    blocks = {name: planet._block(name, 1) for name in ALOFT}
    lat = planet.grid.lat
    assert 2 <= blocks["r700"].min() < blocks["r700"].max() <= 100
    winds = blocks["u200"].mean((0, 2))
    assert 15 < winds[np.abs(lat - 36).argmin()] < 40
    assert winds[np.abs(lat).argmin()] < 0
    assert blocks["r700"].mean((0, 2))[np.abs(lat).argmin()] > blocks["r700"].mean((0, 2))[np.abs(lat - 26).argmin()]
    assert all(np.abs(blocks[name]).max() < 110 for name in ("u200", "v200", "u850", "v850"))
    dataset = open_planet(["u200", "r700"], years=1, step="6-hourly", storms=10, shape=(8, 16))
    assert dataset.u200.attrs["units"] == "m s-1"


# ---- the best reachable forecast ------------------------------------------------------------------------------


def test_the_chances_are_reliable_and_beat_the_base_rate(planet: Planet, tracks: pd.DataFrame) -> None:
    samples = samples_of(tracks)
    chance = planet.intensification_forecast(samples, 30, members=60)
    rapid = (samples.change >= 30).to_numpy(float)
    base = rapid.mean()
    assert chance.mean() == pytest.approx(base, abs=0.012)
    skill = 1 - ((chance - rapid) ** 2).mean() / (base * (1 - base))
    assert 0.3 < skill < 0.75
    for low, high in ((0.02, 0.15), (0.15, 0.35), (0.35, 0.65), (0.65, 1.01)):
        inside = (chance >= low) & (chance < high)
        assert inside.sum() > 100
        assert rapid[inside].mean() == pytest.approx(chance[inside].mean(), abs=0.08)


def test_chances_do_not_depend_on_what_else_is_asked(planet: Planet, tracks: pd.DataFrame) -> None:
    samples = samples_of(tracks).iloc[100:400:30]
    every = planet.intensification_forecast(samples, 20, members=50)
    some = planet.intensification_forecast(samples.iloc[[7, 2]], 20, members=50)
    np.testing.assert_array_equal(some, every[[7, 2]])
    easier = planet.intensification_forecast(samples, 10, members=50)
    assert (easier >= every).all()
    assert (planet.intensification_forecast(samples, -300, members=50) == 1).all()


def test_a_planet_of_few_storms_may_have_none() -> None:
    few = storms_planet(storms=0.001, shape=(8, 16))
    tracks = few.tracks()
    assert len(tracks) == 0
    assert len(few.intensification_forecast(tracks)) == 0
    xr.testing.assert_equal(few.dataset().msl, storms_planet(storms=0, shape=(8, 16)).dataset().msl)


def test_a_block_that_is_kept_is_not_shared() -> None:
    few = storms_planet(storms=5, shape=(8, 16))
    first = few._block("msl", 0)
    first += 1
    np.testing.assert_array_equal(few._block("msl", 0) + 1, first)
    np.testing.assert_array_equal(few._made("msl", 0) + 1, first)


def test_mistakes_are_one_line(planet: Planet, tracks: pd.DataFrame) -> None:
    with pytest.raises(EarthSSLError, match="6-hourly with storms"):
        PlanetConfig(storms=10)
    with pytest.raises(EarthSSLError, match="0 \\(none\\) to 900"):
        PlanetConfig(step="6-hourly", storms=-1)
    with pytest.raises(EarthSSLError, match="It comes with storms"):
        open_planet(["u200"], years=1, step="6-hourly", shape=(8, 16))
    with pytest.raises(EarthSSLError, match="above 0 for tracks"):
        storms_planet(storms=0).tracks()
    ends = tracks.groupby("storm").tail(1)
    with pytest.raises(EarthSSLError, match="that last 24 h more"):
        planet.intensification_forecast(ends.head(1))
    with pytest.raises(EarthSSLError, match="records of the tracks"):
        planet.intensification_forecast(ends.assign(storm=1).head(1))
    with pytest.raises(EarthSSLError, match="a table with storm and time"):
        planet.intensification_forecast(ends[["storm"]])
    with pytest.raises(EarthSSLError, match="multiple of 6"):
        planet.intensification_forecast(ends, hours=10)


def test_the_grid_of_the_surroundings_covers_the_tropics() -> None:
    around = surroundings()
    assert around.grid.lat[0] > FAREST
    columns = np.zeros((3, around._patterns.shape[-1]))
    columns[:, 0] = 1
    # at a centre of its grid the air is the pattern itself, across 0° E it is the mean of both sides
    air = around.at(columns, np.array([11.25, 11.25, 11.25]), np.array([0.0, 357.5, 358.75]))
    assert air.sst[2] == pytest.approx((air.sst[0] + air.sst[1]) / 2, rel=1e-6)
    assert air.sst[0] == pytest.approx(around._patterns[15, 0, 0, 0], rel=1e-6)
