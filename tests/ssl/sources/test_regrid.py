"""Averaging onto cells of any size: conservation, brute force on a finer grid, missing cells, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.canonical import canonicalise
from earthssl.ssl.sources.regrid import regridded


def globe(step: float, seed: int = 0, offset: float = 0.0) -> xr.Dataset:
    """Two steps of random sst on a whole globe with cells of `step` degrees, the first centred at `offset`°E."""
    lat, lon = np.arange(90 - step / 2, -90, -step), np.arange(0, 360, step) + offset
    values = 280 + np.random.default_rng(seed).normal(size=(2, len(lat), len(lon)))
    times = np.array(["2000-01-01", "2000-02-01"], "datetime64[ns]")
    arrays = {"sst": (("time", "lat", "lon"), values.astype(np.float32), {"units": "K"})}
    return xr.Dataset(arrays, {"time": times, "lat": lat, "lon": lon})


def area(ds: xr.Dataset) -> np.ndarray:
    return LatLonGrid(ds["lat"].values, ds["lon"].values).area


@pytest.mark.parametrize(("fine", "coarse", "offset"), [(2.0, 5.0, 0.0), (2.0, 5.0, 1.0), (1.5, 4.0, 0.0)])
def test_the_global_mean_stays(fine: float, coarse: float, offset: float) -> None:
    """Whatever the two grids are, nothing is lost or counted twice, across 0°E neither."""
    ds = globe(fine, offset=offset)
    made = regridded(ds, coarse, "x")
    assert made["sst"].shape == (2, round(180 / coarse), round(360 / coarse))
    before, after = (ds["sst"].values * area(ds)).sum((1, 2)), (made["sst"].values * area(made)).sum((1, 2))
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_a_cell_by_brute_force() -> None:
    """Each 5° cell is the mean of what a 0.1° sampling of the 2° cells finds in it, weighted by area."""
    ds = globe(2.0, offset=0.0)
    made = regridded(ds, 5.0, "x")
    lat, lon = 90 - (np.arange(1800) + 0.5) / 10, (np.arange(3600) + 0.5) / 10
    row, column = ((90 - lat) // 2).astype(int), ((lon + 1) // 2).astype(int) % 180
    fine = ds["sst"].values[0][row[:, None], column[None]]
    weight = np.sin(np.deg2rad(lat + 0.05)) - np.sin(np.deg2rad(lat - 0.05))
    blocks = (fine * weight[:, None]).reshape(36, 50, 72, 50).sum((1, 3))
    brute = blocks / (weight.reshape(36, 50).sum(1)[:, None] * 50)
    np.testing.assert_allclose(made["sst"].values[0], brute, rtol=1e-6)
    assert made["lat"].values[[0, -1]].tolist() == [87.5, -87.5]
    assert made["lon"].values[[0, -1]].tolist() == [2.5, 357.5]


def test_whole_blocks_agree_with_the_mean_of_blocks() -> None:
    """2° from 1°, both ways of averaging."""
    ds = globe(1.0, offset=0.5)
    blocks = canonicalise(ds, coarsen=2)
    made = canonicalise(ds, resolution=2.0)
    xr.testing.assert_allclose(made, blocks, rtol=1e-6)


def test_only_valid_cells_count() -> None:
    """A constant field with holes stays constant; a cell is missing below the least valid share, kept at it."""
    ds = globe(1.0, offset=0.5)
    ds["sst"][:] = 281.5
    ds["sst"][:, :4, :4] = np.nan  # all of the first 4° cell
    ds["sst"][:, :4, 4:6] = np.nan  # half of the second
    ds["sst"][:, :4, 8:11] = np.nan  # three quarters of the third
    half = regridded(ds, 4.0, "x")["sst"].values[0]
    assert np.isnan(half[0, [0, 2]]).all()
    assert np.isnan(half).sum() == 2
    np.testing.assert_allclose(half[np.isfinite(half)], 281.5)
    assert np.isnan(regridded(ds, 4.0, "x", 0.01)["sst"].values[0]).sum() == 1
    assert np.isnan(regridded(ds, 4.0, "x", 1.0)["sst"].values[0]).sum() == 3


def test_rows_and_columns_that_are_hardly_covered_are_left_out() -> None:
    """ERSST's rows end at 89°: the last 5° row is covered by four fifths and stays; a region's rest goes."""
    ds = globe(2.0).isel(lat=slice(1, None))  # to 88°N: three fifths
    assert regridded(ds, 5.0, "x").sizes["lat"] == 36
    ds = globe(2.0).isel(lat=slice(2, None), lon=slice(3, 20))  # to 86°N, 5…39°E
    made = regridded(ds, 5.0, "x")
    assert made["lat"].values[0] == 82.5
    assert made["lon"].values.tolist() == [7.5, 12.5, 17.5, 22.5, 27.5, 32.5, 37.5]


def test_it_works_on_lazy_data() -> None:
    """Chunks in time give the same numbers."""
    ds = globe(2.0)
    lazy = regridded(ds.chunk({"time": 1}), 5.0, "x")
    assert lazy["sst"].chunks is not None
    xr.testing.assert_equal(lazy.compute(), regridded(ds, 5.0, "x"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resolution": 7.0}, "of which whole cells make 180"),
        ({"resolution": 0.0}, "option resolution"),
        ({"resolution": 2.0}, "it averages and cannot refine"),
        ({"resolution": 5.0, "least_valid": 0.0}, "option least_valid"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], match: str) -> None:
    """One line with the remedy."""
    with pytest.raises(EarthSSLError, match=match):
        canonicalise(globe(2.0), **options)


def test_the_ocean_of_ersst_at_5_degrees(shared_data: Path) -> None:
    """Between 70S and 70N, 1671 cells have some ocean: the reference's 1670 and one that never varies."""
    file = shared_data / "ersstv5_global_2deg_monthly_2010-2020.nc"
    options = {"variables": ["sst"], "resolution": 5.0, "least_valid": 0.01, "region": [-70, 70, 0, 360]}
    ds = open_source("files", path=str(file), **options)
    values = ds["sst"].values
    assert values.shape == (128, 28, 72)
    known = np.isfinite(values).all(0)
    assert known.sum() == np.isfinite(values).any(0).sum() == 1671
    assert (values.std(0)[known] > 1e-3).sum() == 1670
