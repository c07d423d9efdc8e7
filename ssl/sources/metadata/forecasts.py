"""Forecasts: when a field is valid, from when its forecast started and how long after that it is valid."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
import xarray as xr

from ...common.errors import EarthSSLError
from .calendars import gregorian, is_time

VALID_NAMES = ("valid_time", "verification_time", "verif_time", "validtime")
START_NAMES = ("forecast_reference_time", "init_time", "init", "initialization_time", "initial_time", "reftime",
               "start_time", "base_time", "analysis_time")  # fmt: skip
LEAD_NAMES = ("step", "lead", "lead_time", "leadtime", "forecast_period", "forecast_hour", "prediction_timedelta",
              "lead_hours", "lead_time_hours", "leadtime_hours", "forecast_hours", "fhour", "fcst_hour",
              "forecast_step", "forecast_lead", "forecast_lead_time")  # fmt: skip
SECONDS = {
    "second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "h": 3600, "day": 86400, "d": 86400,
    "week": 7 * 86400,
}  # fmt: skip
LONGEST = 1e9  # s, or of a longer unit
MONTHS = {"month": 1, "mon": 1, "season": 3, "year": 12, "yr": 12}


def without_leads(ds: xr.Dataset, names: list[Hashable], where: str) -> tuple[xr.Dataset, list[Hashable]]:
    """Return the dataset with forecasts laid along the time at which they are valid, and the names of its times.

    Args:
        ds: The file.
        names: Of its variables that are times.
        where: What it is called.

    Raises:
        EarthSSLError: If several forecasts hold the same time, or if a lead is in no unit that is understood.
    """
    flat_valid = [n for n in names if str(n).lower() in VALID_NAMES and ds[n].ndim <= 1]
    square = next((n for n in names if ds[n].ndim == 2), None)
    if square is not None and not flat_valid:
        return _along(ds, ds[square], where, [*names]), ["time"]
    found = _lead(ds)
    starts = [
        n for n, var in ds.variables.items()
        if var.attrs.get("standard_name") == "forecast_reference_time" or (str(n).lower() in START_NAMES)
    ]  # fmt: skip
    apart = [n for n in names if n not in starts]  # an axis of valid times beside the start: nothing to add
    start = next((n for n in [*names, *starts] if ds[n].ndim <= 1 and is_time(ds[n])), None)
    if found is None or start is None or flat_valid or (starts and apart):
        return ds, names
    if not starts and ds[found].ndim and ds[found].dims == ds[start].dims:  # a lead for each time: `time` may be either
        return ds, names
    if not ds[found].ndim and not starts and ds[start].attrs.get("standard_name") == "time":
        return ds, names
    if not _unit(ds[found]) and ds[found].size > 1 and ds[found].dtype.kind != "m":  # some other axis
        return ds, names
    begin = ds[start].copy(data=gregorian(ds[start].values, where))
    return _along(ds, _later(begin, ds[found], where), where, [start]), ["time"]


def _lead(ds: xr.Dataset) -> Hashable | None:
    """Return the name of what says how long after its start a forecast is valid; None where nothing does."""
    lower = {str(name).lower(): name for name in ds.variables}
    said = [n for n, var in ds.variables.items() if var.attrs.get("standard_name") == "forecast_period"]
    return next((n for n in [*said, *(lower[n] for n in LEAD_NAMES if n in lower)] if ds[n].ndim <= 1), None)


def _later(begin: xr.DataArray, lead: xr.DataArray, where: str) -> xr.DataArray:
    """Return times so much later, datetime64[ns]: months and years by the calendar, half a month as none."""
    unit = _unit(lead)
    if lead.dtype.kind == "m" and not np.isnat(lead.values).any():
        return begin + lead.astype("timedelta64[ns]")
    numbers = lead.values.astype(np.float64) if lead.dtype.kind in "iuf" else np.full(lead.shape, np.nan)
    if not (np.abs(numbers) < LONGEST).all():  # nan, too: what decoding makes of no time
        numbers = np.full(lead.shape, np.nan)
    if np.isfinite(numbers).all() and unit in SECONDS:
        seconds = np.round(numbers * SECONDS[unit]).astype("timedelta64[s]")
        return begin + lead.copy(data=seconds.astype("timedelta64[ns]"))
    if np.isfinite(numbers).all() and unit in MONTHS:
        months = lead.copy(data=np.floor(numbers * MONTHS[unit]).astype(np.int64))
        return xr.apply_ufunc(_months_later, begin, months).astype("datetime64[ns]")
    if lead.size and np.isfinite(numbers).all() and not numbers.any():
        return begin + lead.copy(data=np.zeros(lead.shape, "timedelta64[ns]"))
    raise EarthSSLError(
        f"{where}: expected the lead of forecasts, '{lead.name}', in hours, days, weeks, months or years, got "
        f"{lead.values.reshape(-1)[:3].tolist()} ({f'units {unit!r}' if unit else 'without units'}); write its "
        "attribute units, or the time at which fields are valid as valid_time"
    )


def _unit(lead: xr.DataArray) -> str:
    unit = str(lead.attrs.get("units", "")).lower().strip().removesuffix("s")
    return "hour" if not unit and str(lead.name).lower().endswith(("hour", "hours")) else unit


def _months_later(begin: np.ndarray, months: np.ndarray) -> np.ndarray:
    """Return the same day and hour so many months later, or the last day where that month has none."""
    first = begin.astype("datetime64[M]")
    target = first + months
    start = target.astype("datetime64[ns]")
    since = begin - first.astype("datetime64[ns]")
    day = np.timedelta64(1, "D").astype("timedelta64[ns]")
    last = (target + 1).astype("datetime64[ns]") - start - day
    return start + np.minimum(since // day * day, last) + since % day


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
