"""Vortices: centres of cyclonic rotation in fields that come without tracks, and the paths they take."""

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


def followed(centres: pd.DataFrame, radius_deg: float, step: np.timedelta64) -> pd.DataFrame:
    """Return the centres with those of one vortex under one number in `storm`, sorted by it and by time.

    A centre goes on as the nearest one of the next step, if it lies within the radius (great circle, so the date
    line is no edge) and in the same hemisphere; of two that would go on as the same, the nearer does, and the other
    ends. A step without fields ends every vortex.

    Args:
        centres: Columns `time`, `lat`, `lon`, and any more.
        radius_deg: Furthest way in a step, degrees of arc.
        step: Between two times of the fields.
    """
    table = centres.sort_values("time", kind="stable", ignore_index=True)
    y, x = np.deg2rad(table["lat"].to_numpy()), np.deg2rad(table["lon"].to_numpy())
    sphere = np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], 1)
    storm = np.arange(len(table))
    rows = {time: own.to_numpy() for time, own in pd.Series(np.arange(len(table))).groupby(table["time"])}
    for time, own in rows.items():
        after = rows.get(time + pd.Timedelta(step))
        if after is None:
            continue
        cosine = sphere[own] @ sphere[after].T
        cosine[np.sign(y[own])[:, None] != np.sign(y[after])[None]] = -1.0
        best = cosine.argmax(axis=1)
        # the nearest pairs first: what is taken is not taken again
        taken: set[int] = set()
        for k in np.argsort(-cosine.max(axis=1), kind="stable"):
            if cosine[k, best[k]] >= np.cos(np.deg2rad(radius_deg)) - 1e-12 and best[k] not in taken:
                taken.add(int(best[k]))
                storm[after[best[k]]] = storm[own[k]]
    return table.assign(storm=storm).sort_values(["storm", "time"], kind="stable", ignore_index=True)


def lowest_around(
    values: np.ndarray, grid: LatLonGrid, lat: np.ndarray, lon: np.ndarray, radius_deg: float
) -> np.ndarray:
    """Return the least value within a radius (great circle) of each centre, (centres,); NaN where none is there.

    Args:
        values: Map at the time of each centre, (centres, row, column).
        grid: Of the maps.
        lat, lon: Centres, degrees.
        radius_deg: Degrees of arc.
    """
    y, x = np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)[None, :]
    out = np.full(len(values), np.nan)
    for k, (y0, x0) in enumerate(zip(np.deg2rad(lat), np.deg2rad(lon), strict=True)):
        cosine = np.sin(y) * np.sin(y0) + np.cos(y) * np.cos(y0) * np.cos(x - x0)
        near = values[k][(cosine >= np.cos(np.deg2rad(radius_deg)) - 1e-12) & np.isfinite(values[k])]
        out[k] = near.min() if near.size else np.nan
    return out
