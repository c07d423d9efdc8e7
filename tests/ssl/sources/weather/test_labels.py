"""Labels: answers worked out by hand on made-up fields, and their way into a table and a file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources.weather import labels
from earthssl.ssl.sources.weather.output import GRAVITY
from earthssl.ssl.sources.weather.sphere import Sphere

SPHERE = Sphere(21)
GRID = LatLonGrid(SPHERE.lat, SPHERE.lon)
FINE = LatLonGrid(np.arange(88, -89, -4.0), np.arange(0, 360, 3.75))  # rows at 36, 40, 44, 56, 60, 64, 76, 80, 84


def profile(of_lat: dict[float, float], grid: LatLonGrid = FINE) -> np.ndarray:
    """Heights that depend on latitude alone, linear between the given places, (row, column)."""
    lat = sorted(of_lat)
    return np.repeat(np.interp(grid.lat, lat, [of_lat[k] for k in lat])[:, None], grid.shape[1], axis=1)


def test_area_mean_and_spread_by_hand() -> None:
    """Half of the area at 2 and half at 6: mean 4, spread 2."""
    box = (-45.0, 45.0, 0.0, 179.0)
    field = np.where(GRID.lon < 90, 2.0, 6.0) * np.ones((32, 1))
    assert labels.area_mean(field, GRID, box) == pytest.approx(4)
    assert labels.area_spread(field, GRID, box) == pytest.approx(2)


def test_the_jet_lies_where_its_parabola_has_its_top() -> None:
    lat = FINE.lat[:, None]
    wind = np.broadcast_to(30 - 0.05 * (lat - 47.3) ** 2, FINE.shape)
    assert labels.jet_latitude(wind, FINE) == pytest.approx(47.3, abs=1e-6)
    both = np.stack([wind, np.broadcast_to(-((lat - 33.0) ** 2), FINE.shape)])
    np.testing.assert_allclose(labels.jet_latitude(both, FINE), [47.3, 33.0], atol=1e-6)


def test_storm_activity_is_the_change_within_a_day() -> None:
    """A uniform rise of 3 m a step is 3 at daily and 6 at 12-hourly steps; standing waves do not count."""
    standing = 100 * np.cos(3 * np.deg2rad(GRID.lon)) * np.ones((32, 1))
    height = standing + 3 * np.arange(5)[:, None, None]
    np.testing.assert_allclose(labels.storm_activity(height, GRID, 1), [np.nan, 3, 3, 3, 3])
    np.testing.assert_allclose(labels.storm_activity(height, GRID, 2), [np.nan, np.nan, 6, 6, 6])
    assert np.isnan(labels.storm_activity(height[:1], GRID, 1)).all()


def test_tibaldi_and_molteni_by_hand() -> None:
    """A ridge at 60°N: +5 m a degree to its south and -15 to its north is blocking; -8 to its north is none."""
    ridge = profile({36: 5480, 40: 5500, 60: 5600, 80: 5300, 88: 5180})
    weak = profile({36: 5480, 40: 5500, 60: 5600, 80: 5440, 88: 5376})
    zonal = profile({36: 5700, 40: 5650, 60: 5400, 80: 5150, 88: 5100})
    assert labels.blocked(ridge, FINE).all()
    assert not labels.blocked(weak, FINE).any()
    assert not labels.blocked(zonal, FINE).any()
    shifted = profile({36: 5500, 40: 5502, 56: 5580, 60: 5490, 76: 5360, 80: 5320, 88: 5300})
    # at 60, 40, 80: south 5502 < 5490 fails by -0.6 m a degree; moved to 56, 36, 76: +4 and -11
    assert labels.blocked(shifted, FINE).all()


def test_only_the_blocked_longitudes_are_blocked() -> None:
    height = profile({36: 5700, 60: 5400, 88: 5100})
    height[:, 10:13] = profile({36: 5480, 60: 5600, 88: 5180})[:, 10:13]
    found = labels.blocked(np.stack([height, height[:, ::-1]]), FINE)
    assert np.flatnonzero(found[0]).tolist() == [10, 11, 12]
    assert found.sum() == 6
    with pytest.raises(EarthSSLError, match="36°N to 76°N"):
        labels.blocked(height[:20, :], LatLonGrid(FINE.lat[10:30], FINE.lon))


def test_a_sector_is_blocked_by_neighbours_only() -> None:
    """At 3.75° three columns make 11.25°; the sector runs across 0°E, from 330 to 45."""
    columns = np.zeros((5, len(FINE.lon)), bool)
    columns[0, [94, 95, 0]] = True  # 352.5, 356.25, 0
    columns[1, [94, 0, 2]] = True  # not side by side
    columns[2, 40:50] = True  # elsewhere
    columns[3, [11, 12, 13]] = True  # 41.25, 45 and one outside
    columns[4, [10, 11, 12]] = True
    np.testing.assert_array_equal(labels.sector_blocked(columns, FINE), [True, False, False, False, True])


def test_heat_lasts_three_days_at_least() -> None:
    hot = np.array([1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1], bool)
    expected = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1], bool)
    np.testing.assert_array_equal(labels.in_long_runs(hot, 3), expected)


def test_the_season_goes_and_the_weather_stays() -> None:
    time = np.arange("1900-01-01", "1904-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    day = (time - time.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    season = 10 + 5 * np.cos(2 * np.pi * (day - 20) / 365.2425) - np.sin(4 * np.pi * day / 365.2425)
    weather = np.random.default_rng(0).normal(size=len(time))
    found = labels.without_season((season + weather)[:, None] * [1, 2], time)
    np.testing.assert_allclose(labels.without_season(season, time), 0, atol=1e-9)
    assert np.corrcoef(found[:, 0], weather)[0, 1] > 0.995
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0], atol=1e-9)


@pytest.fixture
def planet() -> SimpleNamespace:
    """Two years of a made-up planet with a seam between: the mean height is the number of the day."""
    time = np.arange("1900-01-01", "1902-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    rng = np.random.default_rng(1)
    number = np.arange(730.0)[:, None, None]
    z = (5000 + number) * GRAVITY * np.ones(GRID.shape)
    wind = np.broadcast_to(20 - 0.01 * (GRID.lat[:, None] - 45) ** 2, (730, *GRID.shape))
    warmth = 280 + rng.normal(size=(730, 1, 1)) * np.ones(GRID.shape)
    warmth[100:105] += 50
    warmth[363:367] += 50  # across the seam: two days on either side
    fields = {
        name: (("time", "lat", "lon"), values.astype(np.float32))
        for name, values in {"z500": z, "u850": wind, "t850": warmth}.items()
    }
    data = xr.Dataset(fields, {"time": time, "lat": GRID.lat, "lon": GRID.lon})
    plan = SimpleNamespace(per_day=1)
    return SimpleNamespace(
        dataset=lambda names: data[names], grid=GRID, time=time, history=SimpleNamespace(plan=plan),
        seams=np.array(["1901-01-01"], "datetime64[ns]"),
    )  # fmt: skip


def test_the_table_looks_ahead_and_not_over_the_seam(planet: SimpleNamespace) -> None:
    table = labels.label_table(planet)
    assert list(table.columns[:4]) == ["height_0d", "height_3d", "height_5d", "height_10d"]
    assert len(table) == 730
    np.testing.assert_allclose(table["height_0d"], 5000 + np.arange(730), atol=1e-2)
    np.testing.assert_allclose(table["height_3d"].iloc[[0, 361, 365]], [5003, 5364, 5368], atol=1e-2)
    assert table["height_3d"].iloc[362:365].isna().all()
    assert table["height_3d"].iloc[-3:].isna().all()
    assert table["height_10d"].isna().sum() == 20
    assert table["activity_0d"].isna().sum() == 2
    np.testing.assert_allclose(table["activity_0d"].dropna(), 1, atol=1e-2)
    assert (table["blocking_0d"] == 0).all()
    assert table["heat_0d"].iloc[100:105].all()
    assert not table["heat_0d"].iloc[360:370].any()
    np.testing.assert_array_equal(table["heat_5d"].iloc[95:100], 1)
    np.testing.assert_allclose(table["jet_0d"], 45, atol=0.5)


def test_the_file_is_what_fine_tuning_reads(planet: SimpleNamespace, tmp_path: Path) -> None:
    from earthssl.downstream.finetune.read_labels import read_labels

    file = labels.write_labels(planet, tmp_path / "labels" / "world-0.csv")
    table = pd.read_csv(file, index_col="time", parse_dates=True)
    made = labels.label_table(planet)
    np.testing.assert_allclose(table.to_numpy(float), made.to_numpy(), rtol=1e-5)
    assert (table.index == made.index).all()
    assert list(table) == list(made)
    read = read_labels(str(file), ["height_3d", "blocking_3d"], "regression", missing="drop")
    assert len(read) == 724
    assert read.dropped == 6
    assert read.times[0] == np.datetime64("1900-01-01")
