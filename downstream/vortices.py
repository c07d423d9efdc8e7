"""Vortices: centres of cyclonic rotation in fields that come without tracks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.ndimage import maximum_filter

from ..ssl.errors import EarthSSLError, nearest
from ..ssl.grid import LatLonGrid


def vorticity_maxima(
    dataset: xr.Dataset,
    variable: str = "vo850",
    latitudes: tuple[float, float] = (5.0, 25.0),
    threshold: float = 1.5e-4,
    separation_deg: float = 7.5,
) -> pd.DataFrame:
    """Return where fields turn most cyclonically: centres to crop around where there are no tracks.

    Args:
        dataset: Canonical, with the vorticity.
        variable: Its name.
        latitudes: Distance from the equator, degrees, in both hemispheres.
        threshold: Least cyclonic vorticity, s-1: some six centres a time in ERA5 at 2.5°, tropical lows among them.
        separation_deg: A centre is the largest value within so many degrees of latitude and longitude.

    Returns:
        Columns `storm` (a running number: centres are not joined to tracks), `time`, `lat`, `lon` and
        `vorticity` (cyclonic, s-1), by time.

    Raises:
        EarthSSLError: If the dataset has no such variable.
    """
    if variable not in dataset:
        names = [str(name) for name in dataset.data_vars]
        raise EarthSSLError(
            f"vorticity_maxima: expected the variable {variable}, got {', '.join(names)}." + nearest(variable, names)
        )
    grid = LatLonGrid(dataset["lat"].values, dataset["lon"].values)
    belt = (np.abs(grid.lat) >= latitudes[0]) & (np.abs(grid.lat) <= latitudes[1])
    cyclonic = dataset[variable].transpose("time", "lat", "lon").values * np.sign(grid.lat)[:, None]
    cyclonic = np.where(belt[:, None] & np.isfinite(cyclonic), cyclonic, -np.inf)
    cells = [int(separation_deg / abs(np.diff(axis).mean()) + 1e-9) for axis in (grid.lat, grid.lon)]
    size = (1, *(2 * count + 1 for count in cells))
    mode = ("nearest", "nearest", "wrap" if grid.periodic else "nearest")
    peak = (cyclonic == maximum_filter(cyclonic, size=size, mode=mode)) & (cyclonic >= threshold)
    step, row, column = np.nonzero(peak)
    return pd.DataFrame(
        {
            "storm": np.arange(len(step)),
            "time": dataset["time"].values[step],
            "lat": grid.lat[row],
            "lon": grid.lon[column],
            "vorticity": cyclonic[peak],
        }
    )
