"""Climatological SST along tracks: months by hand, land filled, the circle closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.storms.sst_climatology import (
    SstClimatology,
    file_years,
    filled,
    month_position,
    potential_intensity_kt,
)
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.store.store import Store

GRID = LatLonGrid(np.array([67.5, 22.5, -22.5, -67.5]), np.arange(0.0, 360, 60))


def months(years: int = 2) -> xr.DataArray:
    """Month 1 … 12 plus the row, plus the number of the year."""
    time = np.arange("2001-01", 12 * years, dtype="datetime64[M]") if years else np.array([], "datetime64[M]")
    month = np.arange(len(time))
    values = 280 + (month % 12 + 1 + month // 12)[:, None, None] + np.arange(4)[:, None] + np.zeros(6)
    coords = {"time": time.astype("datetime64[ns]"), "lat": GRID.lat, "lon": GRID.lon}
    return xr.DataArray(values, coords, ("time", "lat", "lon"), "sst", {"units": "K"})


def test_the_mean_of_each_month_at_its_middle_and_between() -> None:
    found = SstClimatology.of(months())
    assert found.period == "2001–2002"
    assert SstClimatology.of(months()[:12]).period == "2001"
    at = np.array(["2010-01-16T12", "2010-07-16T12", "2010-08-01T00", "2010-01-01T00"], "datetime64[s]")
    sst = found.at(at, np.full(4, 67.5), np.zeros(4))
    np.testing.assert_allclose(sst, 280 + np.array([1.5, 7.5, 8, 7]))  # the last: between December and January


def test_linear_in_space_across_the_date_line_and_held_beyond_the_last_row() -> None:
    one = months()
    one.values[:, :, 0] += 6
    found = SstClimatology.of(one)
    at = np.full(5, np.datetime64("2010-01-16T12", "s"))
    sst = found.at(at, np.array([67.5, 0, 67.5, 67.5, 89]), np.array([330, 60, 350, -10, 60]))
    np.testing.assert_allclose(sst, 281.5 + np.array([3, 1.5, 5, 5, 0]))


def test_months_are_counted_from_middle_to_middle() -> None:
    at = np.array(["1970-01-16T12", "1970-02-15T00", "1971-01-16T12"], "datetime64[s]")
    np.testing.assert_allclose(month_position(at), [0, 1, 12])


def test_land_takes_the_nearest_sea_round_the_globe() -> None:
    one = np.full((4, 6), 1.0)
    one[:, 5] = 9
    one[1, 0] = np.nan
    assert filled(one, GRID)[1, 0] in (1.0, 9.0)
    one[:, 0] = np.nan
    one[:, 1] = np.nan
    np.testing.assert_array_equal(filled(one, GRID)[:, 0], 9)  # its neighbour to the west, across 0° E
    np.testing.assert_array_equal(filled(one, GRID)[:, 1], 1)
    with pytest.raises(EarthSSLError, match="expected sea in every month"):
        filled(np.full((4, 6), np.nan), GRID)


def test_a_file_gives_the_years_asked_for(tmp_path: Path) -> None:
    months(3).to_dataset().to_netcdf(tmp_path / "sst.nc")
    path = str(tmp_path / "sst.nc")
    assert file_years(path) == (2001, 2003)
    one = SstClimatology.from_file(path, (2002, 2003))
    assert one.period == "2002–2003"
    assert len(one.times) == 24
    assert one.months[0, 0, 0] == pytest.approx(280 + 1 + 1.5)
    with pytest.raises(EarthSSLError, match="2001"):
        SstClimatology.from_file(path, (1980, 1990))


def test_a_store_gives_the_climatology_of_its_training_block(small_store: Path) -> None:
    store = Store(small_store)
    found = SstClimatology.of_store(store)
    assert found.period == "1981–2000"
    sea = store.statistics.known[0]
    expected = store.statistics.climatology(np.array(["1999-03-10"], "datetime64[s]"))[0, 0]
    np.testing.assert_allclose(found.months[2][sea], expected[sea], rtol=1e-6)
    assert np.isfinite(found.months).all()


def test_potential_intensity() -> None:
    """84 m/s over 30 °C, and 28.2 m/s over cold water."""
    np.testing.assert_allclose(potential_intensity_kt(np.array([303.15])), 84.0 * 3600 / 1852)
    np.testing.assert_allclose(potential_intensity_kt(np.array([250.0])), 28.2 * 3600 / 1852, rtol=1e-3)
