"""The time at which fields are valid, in UTC: from any axis of times, from dates as numbers or text."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..common.errors import EarthSSLError
from ..fields.splits import FIRST_YEAR
from ..fields.variables import resolve
from .metadata.calendars import gregorian, is_time, precision, rounded
from .metadata.forecasts import VALID_NAMES, without_leads

# ClimateNet's axis of time holds the name of the file: date, three-hourly part of the day from 01 on, run or labeller.
CLIMATENET = re.compile(r"data-(\d{4}-\d{2}-\d{2})-(\d{2})-\w+(\.nc)?$")
# What a field's cell_methods say of time, whatever its axis is called.
POINT = re.compile(r"time\w*:\s*(?:\w+:\s*)*point\b")
OVER_STEPS = re.compile(r"time\w*:\s*(?:\w+:\s*)*(?:mean|sum|maximum|minimum|median|mid_range)\b")
ENDS = "earthssl_times_were_ends"  # attribute: what the first time is taken for
WITHIN = "earthssl_times_within_ns"  # attribute: how far off the file's numbers may be
TIME_NAMES = (*VALID_NAMES, "time", "date", "datetime", "time_counter")


def with_time(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return the dataset with the time at which fields are valid as its dimension `time`, datetime64[ns], UTC.

    A forecast's start and lead make its valid time, whether or not the file says that itself; times that differ from
    regular ones by the rounding of the file's numbers are rounded to them.

    Raises:
        EarthSSLError: If there is no time, if it cannot be understood, or if several forecasts hold the same one.
    """
    ds = _with_absolute_times(ds, where)
    names = [name for name in _candidates(ds) if is_time(ds[name])]
    within = max([int(ds.attrs.get(WITHIN, 0)), *(precision(ds[name]) for name in names)])
    ds, names = without_leads(ds, names, where)
    flat = [name for name in names if ds[name].ndim <= 1]
    # valid_time first: in forecasts, `time` is when the run started
    flat.sort(key=lambda name: (ds[name].ndim == 0, TIME_NAMES.index(n) if (n := str(name)) in TIME_NAMES else 9))
    if not flat:
        raise EarthSSLError(f"{where}: expected a time axis, {_what_came(ds)}; static fields cannot be a source")
    values = rounded(gregorian(ds[flat[0]].values, where), within)
    ds = rename_axis(ds, flat[0], "time")
    if "climatology" in ds["time"].attrs:
        raise EarthSSLError(
            f"{where}: expected a series, got a climatology (its time has the attribute climatology): its steps stand "
            "for many years each; give the years themselves"
        )
    attrs = {key: value for key, value in ds["time"].attrs.items() if key == "bounds"}
    begins = _begins(ds, np.atleast_1d(values), where)
    if begins is not None:
        ds, values = ds.assign_attrs({ENDS: f"{values[0]!s:.10} is {begins[0]!s:.10}"}), begins
    ds = ds.assign_coords(time=("time", np.atleast_1d(values), attrs))
    # Kept: files of one step each are rounded when they are joined.
    return ds.assign_attrs({WITHIN: within}) if within else ds


def _begins(ds: xr.Dataset, values: np.ndarray, where: str) -> np.ndarray | None:
    """Return when days, months or years of the calendar begin that a file stamps with their ends; None for others.

    By the bounds of its times: CESM stamps January with 1 February, 00 UTC. Fields of single moments have bounds, too,
    in some files, so that days are of one only where a field's cell_methods say so, or its name, that of a sum.
    """
    bounds = ds.variables.get(str(ds["time"].attrs.get("bounds", "")))
    if bounds is None or bounds.shape != (len(values), 2) or not is_time(xr.DataArray(bounds)):
        return None
    fields = {str(name): var.attrs for name, var in ds.data_vars.items() if "time" in var.dims}
    methods = {name: str(attrs.get("cell_methods", "")) for name, attrs in fields.items()}
    if any(POINT.search(text) for text in methods.values()):
        return None
    try:
        begin, end = rounded(gregorian(bounds.values, where)).T
    except EarthSSLError:  # missing, or of a calendar of 360 days: they say nothing, and nobody needs them
        return None
    days = (end - begin) / np.timedelta64(1, "D")
    midnight = (begin == begin.astype("datetime64[D]")).all() and (end == end.astype("datetime64[D]")).all()
    months = (begin == begin.astype("datetime64[M]")).all() and (end == end.astype("datetime64[M]")).all()
    if (values != end).any() or not midnight:
        return None
    if not (months and (days > 1).all()):
        over = (OVER_STEPS.search(text) or (not text and _is_sum(name, fields[name])) for name, text in methods.items())
        if not (days == 1).all() or not any(over):
            return None
    return np.asarray(begin.astype("datetime64[ns]"))


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


def _with_absolute_times(ds: xr.Dataset, where: str) -> xr.Dataset:
    for name in _candidates(ds):
        axis = ds[name]
        if axis.ndim <= 1 and axis.size and axis.dtype.kind in "iufOSU" and not is_time(axis):
            try:
                found = absolute(axis.values)
            except EarthSSLError as error:
                raise EarthSSLError(f"{where}: {error}") from None
            if found is not None:
                ds = ds.assign_coords({name: (axis.dims, found.reshape(axis.shape), {"standard_name": "time"})})
    return ds


def _by_name(match: re.Match[str]) -> str:
    """Return the time in a ClimateNet name as ISO text: part 01 of the day is 00 UTC, 08 is 21 UTC."""
    part = int(match[2])
    try:
        np.datetime64(match[1], "D")
    except ValueError:
        raise EarthSSLError(f"expected a date in the time '{match[0]}', got {match[1]}; mend it") from None
    if not 1 <= part <= 8:
        raise EarthSSLError(
            f"expected a three-hourly part of the day from 01 (00 UTC) to 08 (21 UTC) after the date in the time "
            f"'{match[0]}', got {match[2]}: this set counts otherwise; write its times as ISO texts, such as "
            f"{match[1]}T00"
        )
    return f"{match[1]}T{3 * (part - 1):02d}"


def absolute(values: np.ndarray) -> np.ndarray | None:
    """Return dates written as YYYYMM, YYYYMMDD (with a fraction of the day), YYYYMMDDHH, or as ISO or ClimateNet texts.

    None where they are not.

    Raises:
        EarthSSLError: If a ClimateNet text has no part of the day from 01 to 08, or no date.
    """
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind in "OSU":
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in flat.tolist()]
        if not all(isinstance(text, str) for text in texts):
            return None
        named = [CLIMATENET.match(text.strip()) for text in texts]
        if all(named):
            texts = [_by_name(match) for match in named if match]
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
