"""Find latitude, longitude, time, level and ensemble member in any dataset, and give them one name each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from datetime import UTC, datetime
from typing import Any

import cftime
import numpy as np
import pandas as pd
import xarray as xr

from ..common.errors import EarthSSLError

LAT_NAMES = ("lat", "latitude", "lats", "nav_lat", "ylat")
LON_NAMES = ("lon", "longitude", "lons", "nav_lon", "xlong", "long")
TIME_NAMES = ("valid_time", "time", "date", "datetime", "time_counter")
LEVEL_NAMES = (
    "level",
    "pressure_level",
    "isobaricinhpa",
    "isobaricinpa",
    "plev",
    "pressure",
    "pres",
    "lev",
    "plevel",
)
MEMBER_NAMES = ("number", "member", "realization", "realisation", "ensemble", "ens", "ensemble_member")

PRESSURE_UNITS = {
    "pa": 0.01, "pascal": 0.01, "pascals": 0.01,
    "hpa": 1.0, "mbar": 1.0, "mb": 1.0, "millibar": 1.0, "millibars": 1.0,
}  # fmt: skip
# Every date of these exists in the Gregorian calendar (no-leap merely never names 29 February).
CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "noleap", "365_day")


def canonical_axes(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return the dataset with its axes named time, lat, lon and, where present, level (hPa) and member.

    Variables without latitude and longitude are left out; time is datetime64[ns], UTC; nothing is sorted.

    Raises:
        EarthSSLError: If there is no rectilinear latitude-longitude grid, no time, or a calendar whose
            dates do not exist in the Gregorian one.
    """
    lat, lon = _horizontal(ds, where)
    ds = _rename_axis(_rename_axis(ds, lat, "lat"), lon, "lon")
    ds = _with_time(ds, where)
    ds = _with_level(ds, where)
    member = _first(ds, MEMBER_NAMES, dims_only=True)
    if member is not None:
        ds = _rename_axis(ds, member, "member")
    return ds.drop_vars([name for name, var in ds.data_vars.items() if not {"lat", "lon"} <= set(var.dims)])


def _candidates(ds: xr.Dataset, names: tuple[str, ...], standard_name: str, units: str) -> Iterator[Hashable]:
    """Yield the variables that may be the axis, the most certain first."""
    lower = {str(name).lower(): name for name in ds.variables}
    for name, var in ds.variables.items():
        if var.attrs.get("standard_name") == standard_name or (
            units and str(var.attrs.get("units", "")).lower().startswith(units)
        ):
            yield name
    yield from (lower[name] for name in names if name in lower)


def _first(ds: xr.Dataset, names: tuple[str, ...], *, dims_only: bool = False) -> Hashable | None:
    pool = ds.dims if dims_only else [*ds.dims, *ds.variables]
    lower = {str(name).lower(): name for name in pool}
    return next((lower[name] for name in names if name in lower), None)


def _horizontal(ds: xr.Dataset, where: str) -> tuple[Hashable, Hashable]:
    found: list[Hashable] = []
    curvilinear = False
    for names, standard_name, units in (
        (LAT_NAMES, "latitude", "degrees_north"),
        (LON_NAMES, "longitude", "degrees_east"),
    ):
        options = list(dict.fromkeys(_candidates(ds, names, standard_name, units)))
        flat = [name for name in options if ds[name].ndim == 1]
        curvilinear |= not flat and any(ds[name].ndim == 2 for name in options)
        # an axis proper (a dimension coordinate) goes before a mere label
        found += sorted(flat, key=lambda name: ds[name].dims != (name,))[:1]
    dims = ", ".join(str(dim) for dim in ds.dims) or "none"
    if curvilinear:
        raise EarthSSLError(
            f"{where}: expected a rectilinear latitude-longitude grid (1-D lat and lon), got 2-D latitude and "
            f"longitude over ({dims}); regrid first, for example with `cdo remapcon`"
        )
    if len(found) < 2 or ds[found[0]].dims == ds[found[1]].dims:
        raise EarthSSLError(
            f"{where}: not gridded data: expected the dimensions latitude and longitude, got ({dims}); "
            "give a file with fields on a latitude-longitude grid"
        )
    return found[0], found[1]


def _rename_axis(ds: xr.Dataset, name: Hashable, new: str) -> xr.Dataset:
    """Make `name` (a dimension, or a 1-D or scalar label) the dimension coordinate `new`."""
    if name not in ds.dims:
        if name not in ds.coords:
            ds = ds.set_coords(name)
        if ds[name].ndim == 0:
            ds = ds.expand_dims(name)
        else:
            dim = ds[name].dims[0]
            if dim in ds.coords:
                ds = ds.drop_vars([dim])
            ds = ds.swap_dims({dim: name})
    if name == new:
        return ds
    if new in ds.variables or new in ds.dims:
        ds = ds.drop_vars(new, errors="ignore")
    return ds.rename({name: new})


def _with_time(ds: xr.Dataset, where: str) -> xr.Dataset:
    names = [name for name in _candidates(ds, TIME_NAMES, "time", "") if ds[name].ndim <= 1]
    names = [name for name in dict.fromkeys(names) if _is_time(ds[name])]
    # valid_time first: in forecasts, `time` is when the run started
    names.sort(key=lambda name: (ds[name].ndim == 0, TIME_NAMES.index(n) if (n := str(name)) in TIME_NAMES else 9))
    if not names:
        raise EarthSSLError(
            f"{where}: expected a time axis, found none among {', '.join(map(str, ds.variables))}; "
            "static fields cannot be a source"
        )
    values = gregorian(ds[names[0]].values, where)
    ds = _rename_axis(ds, names[0], "time")
    return ds.assign_coords(time=("time", np.atleast_1d(values)))


def _is_time(axis: xr.DataArray) -> bool:
    if axis.dtype.kind == "M":
        return True
    if axis.dtype.kind != "O" or not axis.size:
        return False
    return isinstance(axis.values.reshape(-1)[0], (cftime.datetime, datetime))


def gregorian(times: np.ndarray, where: str) -> np.ndarray:
    """Return times as datetime64[ns] in UTC; those without a zone are UTC already.

    Takes datetime64, Python datetimes with or without a zone, and cftime dates of calendars whose dates all
    exist in the Gregorian one.

    Raises:
        EarthSSLError: For another calendar, and for dates outside 1678…2261, which nanoseconds cannot hold.
    """
    times = np.asarray(times)
    if times.dtype.kind != "M":
        times = np.array([_one(time, where) for time in times.reshape(-1)], "datetime64[us]").reshape(times.shape)
    if np.isnat(times).any():
        raise EarthSSLError(f"{where}: expected a time at every step, found missing ones; drop those steps first")
    years = times.astype("datetime64[Y]").astype(np.int64) + 1970
    if times.size and (years.min() < 1678 or years.max() > 2261):
        raise EarthSSLError(
            f"{where}: expected times of 1678…2261, got {times.min()} to {times.max()}; "
            "select the years you need into another file first"
        )
    return times.astype("datetime64[ns]")


def _one(time: Any, where: str) -> np.datetime64:
    if isinstance(time, cftime.datetime):
        if time.calendar not in CALENDARS:
            raise EarthSSLError(
                f"{where}: expected a calendar whose dates exist in the Gregorian one ({', '.join(CALENDARS)}), "
                f"got '{time.calendar}'; convert the file first, for example with `cdo setcalendar,standard`"
            )
        return np.datetime64(time.isoformat(), "us")
    if not isinstance(time, datetime):
        raise EarthSSLError(f"{where}: expected times, got {time!r} ({type(time).__name__})")
    stamp = pd.Timestamp(time)
    if stamp.tzinfo is not None:
        stamp = stamp.tz_convert(UTC).tz_localize(None)
    return stamp.to_datetime64().astype("datetime64[us]")


def _with_level(ds: xr.Dataset, where: str) -> xr.Dataset:
    name = next((name for name in _pressure_axes(ds) if ds[name].ndim <= 1), None)
    if name is None:
        return ds
    axis = ds[name]
    values = np.atleast_1d(axis.values).astype(np.float64)
    scale = PRESSURE_UNITS.get(str(axis.attrs.get("units", "")).lower())
    if scale is None:  # no units: nothing on Earth is above 1100 hPa, so larger numbers are pascal
        scale = 0.01 if np.abs(values).max(initial=0) > 1100 else 1.0
    hpa = values * scale
    if not np.allclose(hpa, np.round(hpa), atol=1e-3):
        raise EarthSSLError(f"{where}: expected pressure levels in whole hPa, got {hpa.tolist()}")
    ds = _rename_axis(ds, name, "level") if axis.ndim else ds.drop_vars([name])
    whole = np.round(hpa).astype(np.int64)
    return ds.assign_coords(level=("level", whole) if axis.ndim else whole[0])


def _pressure_axes(ds: xr.Dataset) -> list[Hashable]:
    """Return the axes that are pressure: by CF name, by units, or by name where nothing else is said."""
    found = []
    for name in dict.fromkeys(_candidates(ds, LEVEL_NAMES, "air_pressure", "")):
        if name in ds.data_vars and name not in ds.dims:
            continue
        units = str(ds[name].attrs.get("units", "")).lower()
        if units in PRESSURE_UNITS or (not units and str(name).lower() in LEVEL_NAMES and name in ds.coords):
            found.append(name)
    return sorted(found, key=lambda name: name not in ds.dims)
