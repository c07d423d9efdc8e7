"""Stores whose forecasts have known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare

DIMS = ("time", "lat", "lon")
DAMPING = 0.8


@pytest.fixture(scope="session")
def wave_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Months of a wave without noise that travels west, two wavelengths round an 8×16 globe, period nine months.

    u10 (m/s) and, a quarter ahead, vo850 (1/s): the future is a linear function of the present, of the globe and of
    every 4×4 patch alike. Train 1981–2001 (a whole number of periods and years, so that the climatology is 0), val
    2003–2005, test 2007–2012.
    """
    times = np.arange("1981-01", "2013-01", dtype="datetime64[M]").astype("datetime64[ns]")
    lat, lon = 90 - (np.arange(8) + 0.5) * 22.5, np.arange(16) * 22.5
    phase = 2 * np.deg2rad(lon)[None, None, :] + 2 * np.pi * np.arange(len(times))[:, None, None] / 9
    phase = np.broadcast_to(phase, (len(times), 8, 16))
    arrays = {
        "u10": (DIMS, (3 * np.cos(phase)).astype(np.float32), {"units": "m s-1"}),
        "vo850": (DIMS, (3e-5 * np.sin(phase)).astype(np.float32), {"units": "s-1"}),
    }
    folder = tmp_path_factory.mktemp("wave")
    xr.Dataset(arrays, {"time": times, "lat": lat, "lon": lon}, {"title": "wave"}).to_netcdf(folder / "wave.nc")
    splits = SplitsConfig(("1981", "2001"), ("2003", "2005"), ("2007", "2012"), 365)
    options = {"path": str(folder / "wave.nc"), "variables": ["u10", "vo850"]}
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, StatisticsConfig(scale="variable")))


@pytest.fixture(scope="session")
def daily_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Days of t2m on a 4×6 globe: a cycle of the year and, at each cell, red noise of damping 0.8 a day and 2 K.

    Train 2001–2006, val 2007-01-15 … 2007-12-10, test 2008–2009.
    """
    times = np.arange("2001-01-01", "2010-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    noise = np.random.default_rng(5).normal(size=(len(times), 4, 6))
    red = np.empty_like(noise)
    red[0] = noise[0]
    for k in range(1, len(times)):
        red[k] = DAMPING * red[k - 1] + np.sqrt(1 - DAMPING**2) * noise[k]
    season = 10 * np.cos(2 * np.pi * np.arange(len(times)) / 365.2425)[:, None, None]
    t2m = (280 + season + 2 * red).astype(np.float32)
    coords = {"time": times, "lat": [67.5, 22.5, -22.5, -67.5], "lon": np.arange(0.0, 360, 60)}
    folder = tmp_path_factory.mktemp("daily")
    xr.Dataset({"t2m": (DIMS, t2m, {"units": "K"})}, coords, {"title": "daily"}).to_netcdf(folder / "daily.nc")
    splits = SplitsConfig(("2001", "2006"), ("2007-01-15", "2007-12-10"), ("2008", "2009"), 14)
    options = {"path": str(folder / "daily.nc"), "variables": ["t2m"]}
    statistics = StatisticsConfig(scale="variable", harmonics=1)
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, statistics))
