"""Squares around storms: where their points lie on the sphere when the motion points up, and what maps show there."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...ssl.fields.grid import LatLonGrid


def headings(tracks: pd.DataFrame) -> np.ndarray:
    """Return the direction of motion at every record of tracks, degrees clockwise from north, (records,).

    From the record before of the same storm; NaN where that is more than 12 hours ago, where there is
    none, or where the storm did not move.

    Args:
        tracks: Columns `storm`, `time`, `lat`, `lon`; in any order.
    """
    order = tracks[["storm", "time"]].reset_index(drop=True).sort_values(["storm", "time"], kind="stable").index
    sorted_ = tracks.iloc[order]
    before = sorted_.groupby("storm")[["time", "lat", "lon"]].shift()
    lat, lon, lat0, lon0 = (
        np.deg2rad(table[name].to_numpy(np.float64)) for table in (sorted_, before) for name in ("lat", "lon")
    )
    # the bearing at the end of the way, not at its beginning
    east = np.sin(lon - lon0) * np.cos(lat0)
    north = np.sin(lat) * np.cos(lat0) * np.cos(lon - lon0) - np.cos(lat) * np.sin(lat0)
    recent = (sorted_["time"] - before["time"]).to_numpy() <= np.timedelta64(12, "h")
    moved = recent & (np.hypot(east, north) > 1e-9)
    out = np.empty(len(tracks))
    out[order] = np.where(moved, np.rad2deg(np.arctan2(east, north)) % 360, np.nan)
    return out


def around(
    lat: np.ndarray, lon: np.ndarray, heading: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latitude, longitude and turning angle of squares around centres, each (centres, rows, columns).

    The point (x, y) lies hypot(x, y) degrees of arc from the centre, in the direction atan2(x, y) clockwise from
    the heading. The angle (radians) is by how much a wind there turns clockwise when it is carried along the great
    circle to the centre and seen from the heading.

    Args:
        lat, lon: Centres, degrees, (centres,).
        heading: Which direction becomes up, degrees clockwise from north.
        x, y: Of the columns, to the right, and of the rows, ahead; degrees.
    """
    y0, x0 = np.deg2rad(lat)[:, None, None], np.deg2rad(lon)[:, None, None]
    ahead, right = np.deg2rad(y)[:, None], np.deg2rad(x)[None, :]
    distance, direction = np.hypot(right, ahead), np.arctan2(right, ahead)
    bearing = direction + np.deg2rad(heading)[:, None, None]
    sine = np.sin(y0) * np.cos(distance) + np.cos(y0) * np.sin(distance) * np.cos(bearing)
    at_lat = np.arcsin(np.clip(sine, -1, 1))
    east = np.sin(bearing) * np.sin(distance) * np.cos(y0)
    difference = np.arctan2(east, np.cos(distance) - np.sin(y0) * sine)
    # the direction away from the centre, as it is at the point
    away = np.arctan2(
        np.sin(difference) * np.cos(y0), sine * np.cos(y0) * np.cos(difference) - np.cos(at_lat) * np.sin(y0)
    )
    angle = np.where(distance > 0, direction - away, -np.deg2rad(heading)[:, None, None])
    return np.rad2deg(at_lat), np.rad2deg(x0 + difference) % 360, angle


def turn_wind(u: np.ndarray, v: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the components of winds turned clockwise by an angle, radians."""
    return u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)


def interpolate(maps: np.ndarray, grid: LatLonGrid, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return maps at points, linear in latitude and longitude, float64 (samples, time, variable, …points).

    The mean of the valid ones of the four cells around, by weight; NaN where they weigh less than half, and
    beyond the edge of the grid.

    Args:
        maps: (samples, time, variable, row, column), NaN = missing.
        grid: Of the maps.
        lat, lon: Of each sample's points, degrees, (samples, …points).
    """
    rows, columns = grid.shape
    row = np.interp(-lat, -grid.lat, np.arange(rows))
    column = _column(grid, lon)
    inside = (lat <= grid.lat_bounds[0]) & (lat >= grid.lat_bounds[-1]) & np.isfinite(column)
    column = np.where(inside, column, 0.0)
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    shape = (*maps.shape[:3], *lat.shape[1:])
    total, share = np.zeros(shape), np.zeros(shape)
    sample = np.arange(len(maps)).reshape(-1, *(1,) * (lat.ndim - 1))
    for i in (top, top + 1):
        for j in (left, left + 1):
            weight = (1 - np.abs(row - i)) * (1 - np.abs(column - j)) * inside
            # advanced indices on both sides of a slice: the points come first
            there = np.moveaxis(maps[sample, :, :, np.minimum(i, rows - 1), j % columns], (-2, -1), (1, 2))
            valid = np.isfinite(there)
            total += np.where(valid, there, 0.0) * weight[:, None, None]
            share += valid * weight[:, None, None]
    return np.where(share >= 0.5, total / np.where(share > 0, share, 1.0), np.nan)


def _column(grid: LatLonGrid, lon: np.ndarray) -> np.ndarray:
    """Return longitudes as fractions of columns; NaN beyond the edge of a grid that does not go round."""
    east = (lon - grid.lon[0]) % 360
    if grid.periodic:
        return np.interp(east, np.append(grid.lon, grid.lon[0] + 360) - grid.lon[0], np.arange(len(grid.lon) + 1))
    half = (grid.lon_bounds[-1] - grid.lon_bounds[0] - (grid.lon[-1] - grid.lon[0])) / 2
    east = np.where(east > 360 - half, east - 360, east)
    column = np.interp(east, grid.lon - grid.lon[0], np.arange(len(grid.lon)))
    return np.where(east <= grid.lon[-1] - grid.lon[0] + half, column, np.nan)
