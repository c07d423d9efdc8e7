"""Labels from NetCDF: a series (time), a series with a place for each time, or fields (time, lat, lon)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.fields.grid import LatLonGrid
from .labels import FIRST_YEAR, LAST_YEAR, LAT, LON, Labels, class_words, ordered, refuse_marks

SPELLINGS = {"latitude": LAT, "longitude": LON}


def read_netcdf(file: Path, targets: Sequence[str], kind: str, time: str, missing: str) -> Labels:
    """Return the labels in a NetCDF file; fields are turned to the order of canonical data, north first.

    Raises:
        EarthSSLError: If the file cannot be read, or variables, dimensions, times or values are not clear.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # times out of range are refused below
            with xr.open_dataset(file) as opened:
                data = opened.load()
    except (OSError, ValueError) as error:
        raise EarthSSLError(f"{file}: expected NetCDF, but it cannot be read ({error}); write it anew") from None
    data = data.rename({old: new for old, new in SPELLINGS.items() if old in data.variables or old in data.dims})
    for name in targets:
        if name not in data.data_vars:
            known = [str(found) for found in data.data_vars]
            raise EarthSSLError(
                f"{file}: expected the variable '{name}', got {', '.join(known)}." + nearest(name, known)
            )
    times = _times(file, data, time)
    wanted = (time, LAT, LON) if kind == "field" else (time,)
    for name in targets:
        if set(data[name].dims) != set(wanted):
            raise EarthSSLError(
                f"{file}: expected '{name}' with dimensions ({', '.join(wanted)}) for kind {kind}, got "
                f"({', '.join(map(str, data[name].dims))})"
            )
    units = tuple(str(data[name].attrs.get("units", "")) for name in targets)
    if kind == "field":
        return _fields(file, data, targets[0], times, units, time)
    if kind == "classification":
        raw = [word.decode() if isinstance(word, bytes) else str(word) for word in data[targets[0]].values]
        lost = np.asarray([word.lower() in ("nan", "") for word in raw])
        values = np.asarray(raw, dtype=object)
    else:
        values = np.stack([_floats(file, data[name]) for name in targets], 1)
        lost = ~np.isfinite(values).all(1)
        for k, name in enumerate(targets):
            refuse_marks(values[:, k], name, lambda j: f"{file}, time {times[j]}")
    if lost.any() and missing == "refuse":
        raise EarthSSLError(
            f"{file}: expected a finite value at every time, got none at {times[lost][0]} ({int(lost.sum())} in all); "
            "leave these times out, or set missing: drop"
        )
    kept = np.flatnonzero(~lost)
    if not len(kept):
        raise EarthSSLError(f"{file}: expected labels, got none with a value")
    values = values[kept]
    if kind == "classification":
        values = class_words(file, targets[0], values, [0] * len(kept))
    places = _places(file, data, time)
    made = Labels(
        kind, tuple(targets), units, times[kept], values, None if places is None else places[kept],
        np.zeros(len(kept), int), str(file), dropped=int(lost.sum()),
    )  # fmt: skip
    return ordered(made)


def _times(file: Path, data: xr.Dataset, name: str) -> np.ndarray:
    if name not in data.coords or data[name].dims != (name,):
        known = [str(found) for found in data.coords]
        raise EarthSSLError(f"{file}: expected a coordinate '{name}' of time, got {', '.join(known) or 'none'}")
    values = data[name].values
    if not np.issubdtype(values.dtype, np.datetime64):
        kind = type(values.flat[0]).__name__ if values.size else "nothing"
        raise EarthSSLError(
            f"{file}: expected times in the Gregorian calendar with units such as 'days since 1900-01-01', got "
            f"{kind}; convert the calendar"
        )
    if not values.size or np.isnat(values).any():
        raise EarthSSLError(f"{file}: expected a time for every label, got {'some without' if values.size else 'none'}")
    years = values.astype("datetime64[Y]").astype(int) + 1970
    if years.min() < FIRST_YEAR or years.max() > LAST_YEAR:
        raise EarthSSLError(f"{file}: expected years within {FIRST_YEAR}…{LAST_YEAR}, got {years.min()}…{years.max()}")
    return values.astype("datetime64[s]")


def _floats(file: Path, values: xr.DataArray) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        raise EarthSSLError(
            f"{file}: expected numbers of '{values.name}', got {values.dtype}; for words set kind: classification"
        )
    return values.values.astype(np.float64)


def _places(file: Path, data: xr.Dataset, time: str) -> np.ndarray | None:
    """Return lat(time) and lon(time), if the file has them."""
    found = [name for name in (LAT, LON) if name in data.variables and data[name].dims == (time,)]
    if not found:
        return None
    if len(found) == 1:
        raise EarthSSLError(f"{file}: expected both lat({time}) and lon({time}), or neither, got only {found[0]}")
    lat, lon = (data[name].values.astype(np.float64) for name in (LAT, LON))
    if not ((np.abs(lat) <= 90) & (lon >= -180) & (lon <= 360)).all():
        raise EarthSSLError(f"{file}: expected latitudes within ±90° and longitudes within -180°…360°, got others")
    return np.stack([lat, lon % 360], 1)


def _fields(file: Path, data: xr.Dataset, name: str, times: np.ndarray, units: tuple[str, ...], time: str) -> Labels:
    for axis in (LAT, LON):
        if axis not in data.coords or data[axis].dims != (axis,):
            raise EarthSSLError(f"{file}: expected a coordinate {axis} of its own dimension, got none")
    turned = data[name].transpose(time, LAT, LON)
    turned = turned.assign_coords({LON: turned[LON].values.astype(np.float64) % 360})
    turned = turned.sortby(LAT, ascending=False).sortby(LON)
    values = _floats(file, turned).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    empty = ~np.isfinite(values).any((1, 2))
    if empty.all():
        raise EarthSSLError(f"{file}: expected fields of '{name}' with values, got none that is finite")
    grid = LatLonGrid(turned[LAT].values.astype(np.float64), turned[LON].values)
    kept = np.flatnonzero(~empty)
    made = Labels(
        "field", (name,), units, times[kept], values[kept], None, np.zeros(len(kept), int), str(file), grid,
        dropped=int(empty.sum()),
    )  # fmt: skip
    return ordered(made)
