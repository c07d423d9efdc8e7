"""Calendars and the rounding of times: instants as datetime64[ns], in UTC, of the Gregorian calendar."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import cftime
import numpy as np
import pandas as pd
import xarray as xr

from ...common.errors import EarthSSLError
from ...fields.splits import FIRST_YEAR, LAST_YEAR

# Every date of these exists in the Gregorian calendar (no-leap merely never names 29 February).
CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "noleap", "365_day")
MINUTE = 60 * 10**9  # ns
SECOND = 10**9
UNITS = (60 * MINUTE, 30 * MINUTE, 15 * MINUTE, 10 * MINUTE, 5 * MINUTE, MINUTE, SECOND)
COUNTED = re.compile(r"(months?|years?)\s+since\s+(\d{4}-\d{1,2}-\d{1,2}\b.*)", re.IGNORECASE)
NANOSECONDS = {
    "second": SECOND, "sec": SECOND, "minute": MINUTE, "min": MINUTE, "hour": 60 * MINUTE, "hr": 60 * MINUTE,
    "h": 60 * MINUTE, "day": 24 * 60 * MINUTE, "d": 24 * 60 * MINUTE,
}  # fmt: skip
NOISE = 10 * MINUTE  # days since 1800 in single precision are up to 6 minutes off


def is_time(axis: xr.DataArray) -> bool:
    """Whether the values are instants."""
    if axis.dtype.kind == "M":
        return True
    if axis.dtype.kind != "O" or not axis.size:
        return False
    return isinstance(axis.values.reshape(-1)[0], (cftime.datetime, datetime))


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


def counted_in_months(ds: xr.Dataset) -> xr.Dataset:
    """Return the dataset with times that count months or years since a date as dates, those of others as they are.

    UDUNITS takes a month for the twelfth of a year; whoever writes the unit means calendar months. Half of one is its
    middle: the month is meant.
    """
    for name, var in ds.variables.items():
        match = COUNTED.match(str(var.attrs.get("units", "")).strip())
        if match is None or var.dtype.kind not in "iuf" or not np.isfinite(var.values).all():
            continue
        try:
            begin = pd.Timestamp(match[2]).tz_localize(None)
        except (ValueError, TypeError):
            continue
        months = var.values.astype(np.float64) * (12 if match[1].lower().startswith("y") else 1)
        part = (months + 1e-3) % 1
        if not ((part < 2e-3) | (np.abs(part - 0.5) < 0.05)).all():
            continue
        first = np.datetime64(begin, "M")
        day = begin.to_datetime64().astype("datetime64[s]") - first.astype("datetime64[s]")
        which = first + np.floor(months + 1e-3).astype(np.int64)
        years = which.astype("datetime64[Y]").astype(np.int64) + 1970
        if years.size and (years.min() < FIRST_YEAR or years.max() > LAST_YEAR):
            continue  # nanoseconds would wrap around to other dates
        dates = which.astype("datetime64[s]") + day
        attrs = {key: value for key, value in var.attrs.items() if key not in ("units", "calendar", "bounds")}
        ds = ds.assign({name: (var.dims, dates.astype("datetime64[ns]"), {"standard_name": "time", **attrs})})
    return ds


def precision(axis: xr.DataArray) -> int:
    """Return how far off times may be, ns, by the numbers that the file holds: half the last digit; 0 where unknown."""
    kind, words = np.dtype(axis.encoding.get("dtype", "i8")), str(axis.encoding.get("units", "")).split(" since ")
    unit = NANOSECONDS.get(words[0].strip().lower().removesuffix("s"))
    if kind != np.float32 or unit is None or len(words) < 2 or axis.dtype.kind != "M" or not axis.size:
        return 0
    try:
        begin = pd.Timestamp(words[1]).tz_localize(None)
    except (ValueError, TypeError):
        return 0
    far = float(np.abs((axis.values.astype("datetime64[ns]") - begin.to_datetime64()) / np.timedelta64(1, "ns")).max())
    return int(np.spacing(np.float32(far / unit)) / 2 * unit)


def rounded(times: np.ndarray, within: int = 0) -> np.ndarray:
    """Return times without the noise of the numbers they were written as: 00:59:45 of hourly data is 01:00.

    Noise is what changes from step to step and is small beside the step, or a second at most; a constant offset is
    meant. Times go to
    whole hours if that explains them, or else to half hours, quarters, 10, 5 or 1 minutes, seconds.

    Args:
        times: datetime64[ns], any order.
        within: How far off the numbers of the file may be, ns (`precision`): a constant offset that is no larger is
            noise, too.
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
        noise = np.abs(off).max() <= min(step // 8, NOISE) and abs(off.mean()) <= 0.6 * spread
        if noise or np.abs(off).max() <= max(SECOND, min(within, step // 8)):  # or the seconds were cut off
            return nearest.reshape(times.shape).astype("datetime64[ns]")
    return times
