"""Centres of cyclonic rotation: found where they were put, in both hemispheres and across 0° E."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.vortices import vorticity_maxima
from earthssl.ssl.errors import EarthSSLError
from earthssl.ssl.grid import LatLonGrid

TIMES = np.datetime64("2001-01-01", "s") + np.timedelta64(6, "h") * np.arange(60)


def test_vorticity_maxima_are_found_in_both_hemispheres() -> None:
    grid = LatLonGrid(88.75 - 2.5 * np.arange(72), 2.5 * np.arange(144))
    y, x = np.meshgrid(grid.lat, grid.lon, indexing="ij")
    vo = np.zeros((2, *grid.shape))
    for lat, lon, value, step in (
        (16.25, 0.0, 8e-5, 0), (-11.25, 150.0, -9e-5, 1), (13.75, 200.0, -2e-4, 0), (41.25, 100.0, 3e-4, 0),
        (21.25, 300.0, 4e-5, 1), (16.25, 5.0, 6e-5, 0),
    ):  # fmt: skip
        vo[step] += value * np.exp(-((y - lat) ** 2 + ((x - lon + 180) % 360 - 180) ** 2) / 4)
    times = TIMES[:2].astype("datetime64[ns]")
    dataset = xr.Dataset({"vo850": (("time", "lat", "lon"), vo)}, {"time": times, "lat": grid.lat, "lon": grid.lon})
    found = vorticity_maxima(dataset, threshold=5e-5)
    assert found[["lat", "lon"]].to_numpy().tolist() == [[16.25, 0.0], [-11.25, 150.0]]
    np.testing.assert_array_equal(found.time, times)
    np.testing.assert_allclose(found.vorticity, [8e-5, 9e-5], rtol=0.02)
    assert found.storm.is_unique
    assert len(vorticity_maxima(dataset, threshold=3e-5)) == 3
    with pytest.raises(EarthSSLError, match="Did you mean 'vo850'"):
        vorticity_maxima(dataset, "vo800")
