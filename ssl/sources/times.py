"""The time at which fields are valid, in UTC: from any calendar, from forecasts, from dates as numbers or text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from typing import Any

import cftime
import numpy as np
import pandas as pd
import xarray as xr

from ..common.errors import EarthSSLError
from ..fields.variables import resolve

TIME_NAMES = ("valid_time", "time", "date", "datetime", "time_counter")
LEAD_NAMES = ("step", "lead", "lead_time", "leadtime", "forecast_period", "forecast_hour", "prediction_timedelta")
SECONDS = {
    "second": 1,
    "sec": 1,
    "minute": 60,
    "min": 60,
    "hour": 3600,
    "hr": 3600,
    "h": 3600,
    "day": 86400,
    "d": 86400,
}
# Every date of these exists in the Gregorian calendar (no-leap merely never names 29 February).
CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "noleap", "365_day")
MINUTE = 60 * 10**9  # ns
UNITS = (60 * MINUTE, 30 * MINUTE, 15 * MINUTE, 10 * MINUTE, 5 * MINUTE, MINUTE, 10**9)
NOISE = 10 * MINUTE  # days since 1800 in single precision are up to 6 minutes off
FIRST_YEAR, LAST_YEAR = 1678, 2261  # what nanoseconds hold


def with_time(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return the dataset with the time at which fields are valid as its dimension `time`, datetime64[ns], UTC.

    A forecast's start and lead make its valid time, whether or not the file says that itself; times that differ from
    regular ones by the rounding of the file's numbers are rounded to them.

    Raises:
        EarthSSLError: If there is no time, if it cannot be understood, or if several forecasts hold the same one.
    """
    ds = _with_absolute_times(ds)
    names = [name for name in _candidates(ds) if is_time(ds[name])]
    ds, names = _without_leads(ds, names, where)
    flat = [name for name in names if ds[name].ndim <= 1]
    # valid_time first: in forecasts, `time` is when the run started
    flat.sort(key=lambda name: (ds[name].ndim == 0, TIME_NAMES.index(n) if (n := str(name)) in TIME_NAMES else 9))
    if not flat:
        raise EarthSSLError(f"{where}: expected a time axis, {_what_came(ds)}; static fields cannot be a source")
    values = rounded(gregorian(ds[flat[0]].values, where))
    ds = rename_axis(ds, flat[0], "time")
    attrs = {key: value for key, value in ds["time"].attrs.items() if key == "bounds"}
    return ds.assign_coords(time=("time", np.atleast_1d(values), attrs))


def refuse_running_sums(ds: xr.Dataset, where: str) -> None:
    """Refuse sums that run on from the start of a forecast: by the bounds of their times, several begin at once.

    Raises:
        EarthSSLError: Names the variable and what to do.
    """
    bounds = ds.variables.get(str(ds["time"].attrs.get("bounds", "")))
    sums = [str(name) for name, var in ds.data_vars.items() if "time" in var.dims and _is_sum(str(name), var.attrs)]
    if bounds is None or not sums or bounds.ndim != 2 or bounds.dims[0] != "time" or bounds.shape[1] != 2:
        return
    begins = pd.Series(np.asarray(bounds.values)[:, 0])
    if begins.duplicated().any() and not pd.Series(np.asarray(bounds.values)[:, 1]).duplicated().any():
        first = begins[begins.duplicated()].iloc[0]
        raise EarthSSLError(
            f"{where}: expected sums over one step each, got '{sums[0]}' summed from {first} "
            "to several times (the bounds of its times); write the differences of successive steps of a forecast first"
        )


def _is_sum(name: str, attrs: Mapping[str, Any]) -> bool:
    try:
        return resolve(name, attrs).kind == "accumulation"
    except EarthSSLError:
        return False


def rename_axis(ds: xr.Dataset, name: Hashable, new: str) -> xr.Dataset:
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


def _candidates(ds: xr.Dataset) -> list[Hashable]:
    lower = {str(name).lower(): name for name in ds.variables}
    said = [name for name, var in ds.variables.items() if var.attrs.get("standard_name") == "time"]
    return list(dict.fromkeys([*said, *(lower[name] for name in TIME_NAMES if name in lower)]))


def is_time(axis: xr.DataArray) -> bool:
    """Whether the values are instants."""
    if axis.dtype.kind == "M":
        return True
    if axis.dtype.kind != "O" or not axis.size:
        return False
    return isinstance(axis.values.reshape(-1)[0], (cftime.datetime, datetime))


def _what_came(ds: xr.Dataset) -> str:
    for name in _candidates(ds):
        if ds[name].size:
            first, units = ds[name].values.reshape(-1)[0], ds[name].attrs.get("units")
            return (
                f"got '{name}' that begins with {first} ({f'units {units}' if units else 'without units'}); write "
                "units such as 'days since 1980-01-01', dates such as 198001 or 19800131, or ISO texts"
            )
    return f"found none among {', '.join(map(str, ds.variables))}"


# ---- dates written as numbers or text -------------------------------------------------------------------------------


def _with_absolute_times(ds: xr.Dataset) -> xr.Dataset:
    for name in _candidates(ds):
        axis = ds[name]
        if axis.ndim <= 1 and axis.size and axis.dtype.kind in "iufOSU" and not is_time(axis):
            found = absolute(axis.values)
            if found is not None:
                ds = ds.assign_coords({name: (axis.dims, found.reshape(axis.shape), {"standard_name": "time"})})
    return ds


def absolute(values: np.ndarray) -> np.ndarray | None:
    """Return dates written as YYYYMM, YYYYMMDD (with a fraction of the day), YYYYMMDDHH or ISO texts, or None."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind in "OSU":
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in flat.tolist()]
        if not all(isinstance(text, str) for text in texts):
            return None
        try:
            times = pd.to_datetime([text.strip().rstrip("\0") for text in texts], format="ISO8601", utc=True)
        except (ValueError, OverflowError):
            return None
        return times.tz_localize(None).to_numpy().astype("datetime64[ns]")
    if not np.isfinite(flat).all() or not ((flat >= 100_000) & (flat < 1e12)).all():
        return None
    whole = np.floor(flat.astype(np.float64)).astype(np.int64)
    day = flat.astype(np.float64) - whole
    digits = {len(str(number)) for number in whole.tolist()}
    if len(digits) > 1 or (day.any() and digits != {8}):
        return None
    form = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H"}.get(digits.pop())
    if form is None or not ((whole // 10 ** (len(str(whole[0])) - 4)) >= FIRST_YEAR).all():
        return None
    try:
        dates = pd.to_datetime(whole.astype(str), format=form).to_numpy()
    except (ValueError, OverflowError):
        return None
    seconds = np.round(day * 86400).astype("timedelta64[s]")
    return np.asarray(dates.astype("datetime64[ns]") + seconds)


# ---- forecasts ------------------------------------------------------------------------------------------------------


def _without_leads(ds: xr.Dataset, names: list[Hashable], where: str) -> tuple[xr.Dataset, list[Hashable]]:
    """Return the dataset with forecasts laid along the time at which they are valid, and the names of its times."""
    flat_valid = [n for n in names if str(n) == "valid_time" and ds[n].ndim <= 1]
    square = next((n for n in names if ds[n].ndim == 2), None)
    if square is not None and not flat_valid:
        return _along(ds, ds[square], where, [*names]), ["time"]
    lead = _lead(ds)
    starts = [n for n in ds.variables if ds[n].attrs.get("standard_name") == "forecast_reference_time"]
    apart = [n for n in names if n not in starts]  # an axis of valid times beside the start: nothing to add
    start = next((n for n in [*names, *starts] if ds[n].ndim <= 1 and is_time(ds[n])), None)
    if lead is None or start is None or flat_valid or (starts and apart):
        return ds, names
    if lead.ndim and lead.dims == ds[start].dims:  # a lead for each time: `time` may be either
        return (ds, names) if not starts else (_along(ds, ds[start] + lead, where, [start]), ["time"])
    if not lead.ndim and not starts and ds[start].attrs.get("standard_name") == "time":
        return ds, names
    valid = ds[start].copy(data=gregorian(ds[start].values, where)) + lead
    return _along(ds, valid, where, [start]), ["time"]


def _lead(ds: xr.Dataset) -> xr.DataArray | None:
    """Return how long after its start a forecast is valid, timedelta64[ns]; None where the file does not say."""
    lower = {str(name).lower(): name for name in ds.variables}
    said = [n for n, var in ds.variables.items() if var.attrs.get("standard_name") == "forecast_period"]
    for name in [*said, *(lower[n] for n in LEAD_NAMES if n in lower)]:
        lead = ds[name]
        if lead.ndim > 1:
            continue
        if lead.dtype.kind == "m":
            return lead.astype("timedelta64[ns]")
        unit = str(lead.attrs.get("units", "")).lower().removesuffix("s")
        if unit in SECONDS and lead.dtype.kind in "iuf":
            seconds = np.round(lead.values.astype(np.float64) * SECONDS[unit])
            return lead.copy(data=seconds.astype("timedelta64[s]").astype("timedelta64[ns]"))
    return None


def _along(ds: xr.Dataset, valid: xr.DataArray, where: str, used: list[Hashable]) -> xr.Dataset:
    """Return the dataset with the dimensions of `valid` made one, `time`."""
    own = [dim for dim in valid.dims if valid.sizes[dim] > 1] or list(valid.dims[:1])
    values = valid.transpose(*valid.dims).values.reshape(-1)
    again = pd.Index(values).duplicated()
    if again.any():
        raise EarthSSLError(
            f"{where}: several forecasts hold the same time, {values[again][0]!s:.19}, over the dimensions "
            f"{', '.join(map(str, valid.dims))}; take one lead first, as in ds.isel({valid.dims[0]}=[0])"
        )
    gone = [name for name in ds.variables if name in used or name in valid.dims or str(name).lower() in LEAD_NAMES]
    ds = ds.drop_vars([*gone, *(name for name in ("valid_time", "time") if name in ds.variables and name not in gone)])
    ds = ds.isel({dim: 0 for dim in valid.dims if dim not in own})
    if len(own) > 1:
        if ds.nbytes > 2**28 and not ds.chunks:  # stacking reads what is not chunked
            ds = ds.chunk("auto")
        ds = ds.stack({"valid": list(own)}, create_index=False).rename(valid="time")
    elif not own:
        ds = ds.expand_dims("time")
    elif own[0] != "time":
        ds = ds.rename({own[0]: "time"})
    return ds.assign_coords(time=("time", values))


# ---- calendars and rounding -----------------------------------------------------------------------------------------


def gregorian(times: np.ndarray, where: str) -> np.ndarray:
    """Return times as datetime64[ns] in UTC; those without a zone are UTC already.

    Takes datetime64, Python datetimes with or without a zone, and cftime dates of calendars whose dates all
    exist in the Gregorian one; of others, months that are stamped on one of their first 28 days.

    Raises:
        EarthSSLError: For another calendar, and for dates outside 1678…2261, which nanoseconds cannot hold.
    """
    times = np.asarray(times)
    if times.dtype.kind != "M":
        flat = times.reshape(-1)
        by_date = _months_by_date(flat)
        times = np.array([_one(time, where, by_date) for time in flat], "datetime64[us]").reshape(times.shape)
    if np.isnat(times).any():
        raise EarthSSLError(f"{where}: expected a time at every step, found missing ones; drop those steps first")
    years = times.astype("datetime64[Y]").astype(np.int64) + 1970
    if times.size and (years.min() < FIRST_YEAR or years.max() > LAST_YEAR):
        raise EarthSSLError(
            f"{where}: expected times of 1678…2261, got {times.min()} to {times.max()}; "
            "select the years you need into another file first"
        )
    return times.astype("datetime64[ns]")


def _months_by_date(times: np.ndarray) -> bool:
    """Whether dates stand for whole months, one each, by a day that every calendar has."""
    if len(times) < 2 or not all(isinstance(time, cftime.datetime) for time in times):
        return False
    return max(t.day for t in times) <= 28 and len({t.day for t in times}) == 1


def _one(time: Any, where: str, by_date: bool) -> np.datetime64:
    if isinstance(time, cftime.datetime):
        if time.calendar not in CALENDARS and not by_date:
            raise EarthSSLError(
                f"{where}: expected a calendar whose dates exist in the Gregorian one ({', '.join(CALENDARS)}), got "
                f"'{time.calendar}'; convert the file first, for example in Python: "
                f"""`xarray.open_dataset("{where}").convert_calendar("standard", align_on="year")"""
                """.to_netcdf("mended.nc")` (days that it has no data for stay gaps)"""
            )
        return np.datetime64(time.isoformat(), "us")
    if not isinstance(time, datetime):
        raise EarthSSLError(f"{where}: expected times, got {time!r} ({type(time).__name__})")
    stamp = pd.Timestamp(time)
    if stamp.tzinfo is not None:
        stamp = stamp.tz_convert(UTC).tz_localize(None)
    return stamp.to_datetime64().astype("datetime64[us]")


def rounded(times: np.ndarray) -> np.ndarray:
    """Return times without the noise of the numbers they were written as: 00:59:45 of hourly data is 01:00.

    Noise is what changes from step to step and is small beside the step; a constant offset is meant. Times go to
    whole hours if that explains them, or else to half hours, quarters, 10, 5 or 1 minutes, seconds.

    Args:
        times: datetime64[ns], any order.
    """
    flat = times.astype("datetime64[ns]").astype(np.int64).reshape(-1)
    ordered = np.unique(flat)
    if len(ordered) < 2:
        return times
    step = int(np.median(np.diff(ordered)))
    if step < MINUTE:
        return times
    for unit in UNITS:
        if unit > step:
            continue
        nearest = (flat + unit // 2) // unit * unit
        off = flat - nearest
        spread = int(off.max() - off.min())
        if not np.abs(off).max():
            return times
        if np.abs(off).max() <= min(step // 8, NOISE) and abs(off.mean()) <= 0.6 * spread:
            return nearest.reshape(times.shape).astype("datetime64[ns]")
    return times
