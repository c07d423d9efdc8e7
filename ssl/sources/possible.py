"""Refuse what no place on Earth has: every value of a source, as it is read, before anything is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr

from ..fields.plausible import Limits, check_possible
from ..fields.variables import Variable
from .selection import Selection


@dataclass(frozen=True)
class Screen:
    """What is needed to look at a piece of a field, and to say what is wrong with it."""

    variable: Variable
    units: str | None
    called: str
    masked: Sequence[float]
    where: str
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]  # times, latitudes, longitudes
    inside: tuple[np.ndarray, np.ndarray]  # rows and columns that are wanted
    limits: Limits

    def at(self, values: np.ndarray, places: Sequence[slice]) -> None:
        """Look at values (step, row, column) that lie at these places of the axes."""
        times, lat, lon = (axis[place] for axis, place in zip(self.axes, places, strict=True))
        rows, columns = (mask[place] for mask, place in zip(self.inside, places[1:], strict=True))
        if not rows.all():
            values, lat = values[:, rows], lat[rows]
        if not columns.all():
            values, lon = values[:, :, columns], lon[columns]
        check_possible(
            values, self.variable, times, (lat, lon), self.where, self.units, self.called, self.masked, self.limits
        )

    def block(self, values: np.ndarray, block_info: Any = None) -> np.ndarray:
        """Return a block of dask's as it is."""
        if block_info:
            self.at(values, [slice(*edges) for edges in block_info[0]["array-location"]])
        return values


def all_possible(
    data: xr.DataArray,
    variable: Variable,
    units: str | None,
    called: str,
    selection: Selection,
    where: str,
    limits: Limits = None,
) -> xr.DataArray:
    """Return a field as it is: impossible values are refused now or, where dask reads it, when they are read.

    Args:
        data: Canonical units, (time, lat, lon).
        variable: What it is.
        units: Those of the file.
        called: Its name in the file.
        selection: Cells that its region leaves out are not looked at.
        where: What the data are called: the file.
        limits: The lowest and highest possible value, where these are not the Earth's.

    Raises:
        ImpossibleValueError: Names file, variable, time, place, value and the options that mend it.
    """
    axes = (data["time"].values, data["lat"].values, data["lon"].values)
    masked = selection.missing_of(variable, called)
    screen = Screen(variable, units, called, masked, where, axes, _inside(axes[1], axes[2], selection), limits)
    if data.chunks is None:
        screen.at(data.values, [slice(0, size) for size in data.shape])
        return data
    blocks = da.map_blocks(
        screen.block, data.data, dtype=data.dtype, meta=data.data._meta, name=f"possible-{uuid4().hex}"
    )
    return data.copy(data=blocks)


def _inside(lat: np.ndarray, lon: np.ndarray, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the rows and columns that the region may take values from."""
    if selection.region is None:
        return np.ones(len(lat), bool), np.ones(len(lon), bool)
    south, north, west, east = selection.region
    around = selection.resolution or 0.0  # cells that reach into the region are averaged
    rows = (lat >= south - around) & (lat <= north + around)
    return rows, (lon - (west - around)) % 360 <= min(360.0, east - west + 2 * around)
