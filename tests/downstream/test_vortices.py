"""Centres of cyclonic rotation: found where they were put, in both hemispheres and across 0° E."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.vortices import followed, lowest_around, vorticity_maxima
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


def test_vortices_are_followed_across_the_date_line_and_the_nearer_takes_what_both_reach() -> None:
    """A crosses 180°; B and C reach for one centre, which C is nearer to; D's next is in the other hemisphere."""
    lines = [
        ("A", 0, 10.0, 177.5), ("A", 1, 10.0, -180.0), ("A", 2, 10.0, -177.5),
        ("B", 0, 20.0, 10.0), ("C", 0, 20.0, 14.0), ("C", 1, 20.0, 12.5),
        ("D", 0, 1.0, 50.0), ("E", 1, -1.0, 50.0),
        ("F", 0, -15.0, 90.0), ("G", 1, -15.0, 97.5), ("H", 4, 10.0, -175.0),
    ]  # fmt: skip
    table = pd.DataFrame(lines, columns=["name", "step", "lat", "lon"]).assign(time=lambda t: TIMES[t["step"]])
    found = followed(table.assign(lon=table["lon"] % 360), 5.0, np.timedelta64(6, "h"))
    assert found.groupby("storm")["name"].agg("".join).sort_values().tolist() == ["AAA", "B", "CC", *"DEFGH"]


def test_the_lowest_value_around_a_centre_is_within_the_arc() -> None:
    grid = LatLonGrid(np.array([80.0, 40.0, 0.0]), 10.0 * np.arange(36))
    values = np.zeros((4, 3, 36))
    values[:, 2, 35], values[:, 0, 18], values[:, 2, 2] = -1.0, -2.0, -9.0
    found = lowest_around(values, grid, np.array([0.0, 80.0, 0.0, 20.0]), np.array([0.0, 0.0, 180.0, 0.0]), 15.0)
    # over 0° E; 20° of arc over the pole are too far; nothing near; nothing at all
    np.testing.assert_array_equal(found, [-1, 0, 0, np.nan])
    across = lowest_around(values[:1], grid, np.array([80.0]), np.array([0.0]), 20.0)
    assert across[0] == -2.0
