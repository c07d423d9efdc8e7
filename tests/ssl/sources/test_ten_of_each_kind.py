"""Ten files of each kind of fault: refused, said by `check`, or read right. docs/ten-of-each-kind.md is their table."""

# One line a case, however long.
# ruff: noqa: E501

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import follows
from earthssl.ssl.prepare.check import check_source
from earthssl.ssl.sources import open_source

LAT, LON = np.arange(60.0, -61, -20), np.arange(0.0, 360, 30)
NAME = "t2m"
HOURS = np.arange(100)
Made = Any  # a dataset, several, or a path; or these and options


def field(
    value: float = 280.0, name: str = NAME, units: str | None = "K", *, spread: float = 1.0, n: int = 24,
    freq: str = "MS", start: str = "1980-01-01", lat: np.ndarray = LAT, lon: np.ndarray = LON, **attrs: Any,
) -> xr.Dataset:  # fmt: skip
    """Return a series of one variable that differs everywhere."""
    noise = np.random.default_rng(0).normal(size=(n, len(lat), len(lon)))
    said = attrs if units is None else {"units": units, **attrs}
    data = (("time", "lat", "lon"), (value + spread * noise).astype("f4"), said)
    return xr.Dataset({name: data}, {"time": pd.date_range(start, periods=n, freq=freq), "lat": lat, "lon": lon})


def wrong(ds: xr.Dataset, value: Any, at: Any = (7, 2, 3)) -> xr.Dataset:
    """Put a value into the only variable."""
    next(iter(ds.data_vars.values())).values[at] = value
    return ds


def said(ds: xr.Dataset, name: str, **attrs: Any) -> xr.Dataset:
    """Return the dataset with attributes of one variable."""
    ds[name].attrs.update(attrs)
    return ds


def raw(name: str = NAME, **attrs: Any) -> Path:
    """Write a file whose attributes are set past xarray."""
    field().to_netcdf("raw.nc")
    with netCDF4.Dataset("raw.nc", "a") as handle:
        handle[name].setncatts(attrs)
    return Path("raw.nc")


def two(name: str, a: str | None, b: str | None, first: float, second: float, **attrs: Any) -> list[xr.Dataset]:
    """Return two files of a variable in the units a and b."""
    spread = [0.01 * abs(value) for value in (first, second)]
    return [
        field(first, name, a, spread=spread[0]),
        field(second, name, b, spread=spread[1], start="1982-01-01", **attrs),
    ]


def level(values: Any, name: str = "level", short: str = "t", **attrs: Any) -> xr.Dataset:
    """Return a field on such levels, or with a single label."""
    ds = field(270, short)
    if np.ndim(values) == 0:
        return ds.assign_coords({name: ((), values, attrs)})
    many = xr.concat([ds] * len(values), name).assign_coords({name: (name, np.asarray(values), attrs)})
    return many.transpose("time", name, "lat", "lon")


def lead(name: str, value: Any, *, time: str = "time", freq: str = "6h", **attrs: Any) -> xr.Dataset:
    """Return a forecast: its start and one lead."""
    ds = field(n=4, freq=freq).rename(time=time).expand_dims({name: [value]})
    return said(ds, name, **attrs)


def store(values: np.ndarray, fill: Any, kind: str = "f4", form: int = 2, **attrs: Any) -> Path:
    """Write a Zarr store whose arrays all have such a fill value, the axes with zeros in them."""
    group = zarr.open_group("a.zarr", mode="w", zarr_format=form)
    arrays = {"time": np.arange(24) * 30, "lat": LAT, "lon": LON, "siconc": values.astype(kind)}
    for name, array in arrays.items():
        dims = [name] if array.ndim == 1 else ["time", "lat", "lon"]
        more: dict[str, Any] = {"dimension_names": dims} if form == 3 else {}
        mark = fill if name == "siconc" or fill is None else 0
        made = group.create_array(name, shape=array.shape, dtype=array.dtype, fill_value=mark, **more)
        made[...] = array
        units = {"time": "days since 1980-01-01", "siconc": "1"}.get(name)
        made.attrs.update({"_ARRAY_DIMENSIONS": dims} | ({"units": units} if units else {}))
        if name == "siconc":
            made.attrs.update(attrs)
    return Path("a.zarr")


def ice(n: int = 24) -> np.ndarray:
    """Return a share of ice with true zeros that moves in time."""
    found = np.zeros((n, len(LAT), len(LON)))
    found[:, 0] = np.linspace(0.1, 0.9, n)[:, None] * np.linspace(0.5, 1, len(LON))
    return found


def marked(name: str, units: str, **encoding: Any) -> Path:
    """Write a file of zeros and others whose own words say that zeros are missing."""
    ds = field(0, name, units, spread=0)
    ds[name].values[:] = ice() * (1 if units == "1" else 10)
    ds.to_netcdf("marked.nc", encoding={name: encoding})
    return Path("marked.nc")


def timed(values: Any, units: str, kind: str = "f4", **attrs: Any) -> Path:
    """Write a file whose times are such numbers."""
    values = np.asarray(values)
    ds = field(n=len(values)).drop_vars("time")
    ds = ds.assign_coords(time=("time", values.astype(kind), {"standard_name": "time", **attrs}))
    if units:
        ds.time.attrs["units"] = units
    ds.to_netcdf("timed.nc", encoding={"time": {"_FillValue": None}})
    return Path("timed.nc")


def dated(times: Any) -> xr.Dataset:
    """Return a series at such times."""
    times = pd.DatetimeIndex(times)
    return field(n=len(times)).assign_coords(time=times)


def years(parts: Callable[[int], list[Any]]) -> xr.Dataset:
    """Return a series of three years, one of them a leap year, at the dates that each has."""
    return dated([date for year in (1999, 2000, 2001) for date in parts(year)])


def same(truth: xr.Dataset | float = 280.0, name: str = NAME) -> Callable[[xr.Dataset], bool]:
    """Return a check that a variable is near such values in canonical units, without a gap."""
    middle = truth if isinstance(truth, float) else float(truth[name].mean())
    return lambda got: bool(np.isclose(got[name].mean(), middle, rtol=0.003) and got[name].notnull().all())


def starts(first: str, step: str = "") -> Callable[[xr.Dataset], bool]:
    """Return a check of the first time, and of the step."""

    def check(got: xr.Dataset) -> bool:
        times = got["time"].values
        whole = not step or bool((np.diff(times) == pd.Timedelta(step).to_timedelta64()).all())
        return bool(times[0] == np.datetime64(first)) and whole

    return check  # fmt: skip


def zeros(share: float) -> Callable[[xr.Dataset], bool]:
    """Return a check of the share of zeros."""
    return lambda got: bool(np.isclose((got.siconc == 0).mean(), share))


def named(*names: str) -> Callable[[xr.Dataset], bool]:
    """Return a check of the variables' names."""
    return lambda got: sorted(map(str, got.data_vars)) == sorted(names)


def unbroken(got: xr.Dataset) -> bool:
    """Whether all steps follow each other."""
    return bool(follows(got["time"].values).all())


def ends(freq: str) -> xr.Dataset:
    """Return means over months or days that are stamped with the end of their bounds."""
    begin = R("1980-01-01", periods=24, freq=freq)
    end = R("1980-01-01", periods=25, freq=freq)[1:]
    number = [(one - pd.Timestamp("1980-01-01")).days.to_numpy() for one in (begin, end)]
    attrs = {"units": "days since 1980-01-01", "bounds": "time_bnds"}
    ds = field().assign_coords(time=("time", number[1], attrs))
    ds["t2m"].attrs["cell_methods"] = "time: mean"
    return ds.assign(time_bnds=(("time", "nbnd"), np.stack(number, 1)))


def bent(dims: int) -> xr.Dataset:
    """Return a field whose latitude and longitude vary along both axes, and perhaps in time."""
    ds = field().drop_vars(["lat", "lon"]).rename(lat="y", lon="x")
    names, shape = ("time", "y", "x")[-dims:], (24, 7, 12)[-dims:]
    return ds.assign(
        XLAT=(names, np.ones(shape), {"units": "degree_north"}), XLONG=(names, np.ones(shape), {"units": "degree_east"})
    )


def counted(unit: str, numbers: Any, lon: np.ndarray = LON) -> xr.Dataset:
    """Return a field whose times count from a date."""
    since = {"months": "2004-01-01 00:00:00", "years": "2004-01-01", "hours": "1800-01-01"}[unit]
    return field(lon=lon).assign_coords(time=("time", np.asarray(numbers), {"units": f"{unit} since {since}"}))


def sent(start: bytes) -> Path:
    """Write what a server sends in place of a file."""
    Path("sent.nc").write_bytes(start + bytes(100))
    return Path("sent.nc")


R = pd.date_range

# Kind -> inputs: words, what makes it, and what must come: a pattern of the refusal, "said " and a pattern of what
# `check` finds, or a check of what is read.
CASES: dict[str, list[tuple[str, Callable[[], Made], Any]]] = {
    "Plausibility of every value": [
        ("1e6 K in one cell, read piece by piece", lambda: (wrong(field(), 1e6), {"eager_bytes": 1}), "got 1e.06 at 1980-08-01.*20°N 90°E"),
        ("a step of zeros in pressure", lambda: wrong(field(101300, "msl", "Pa", spread=300), 0, 7), "got 0 at"),
        ("-999 mm of rain", lambda: wrong(field(4, "tp", "mm"), -999), "-999 means missing"),
        ("127 for land in sea ice", lambda: wrong(field(0.5, "siconc", "1", spread=0.05), 127), "127 means missing"),
        ("9999 gpm at 500 hPa", lambda: wrong(field(5500, "z500", "gpm", spread=50), 9999), "9999 means missing"),
        ("-1 in humidity", lambda: wrong(field(0.005, "q850", "kg kg-1", spread=5e-4), -1), "-1 means missing"),
        ("99 m/s in one cell of a wind, possible", lambda: wrong(field(3, "u10", "m s-1", spread=5), 99), "said highest value stands out .99"),
        ("-99.9 m/s over land at all steps, possible", lambda: wrong(field(3, "u10", "m s-1", spread=5), -99.9, (slice(None), 2, slice(4))), "said lowest value is -99.9 .* always the same"),
        ("9.999 m of rain in one cell, possible", lambda: wrong(field(0.004, "tp", "m", spread=1e-3), 9.999), "said highest value stands out"),
        ("half a year that repeats one month", lambda: wrong(field(), field().t2m.values[5], slice(6, 12)), "said equal to the one before"),
    ],
    "Metadata when files are joined": [
        ("°F and K", lambda: two(NAME, "degF", "K", 44.33, 280), same()),
        ("km/h and m/s", lambda: two("u10", "km/h", "m s-1", 18, 5), same(5.0, "u10")),
        ("gpm and m2 s-2", lambda: two("z500", "gpm", "m2 s-2", 5500, 53936.6), same(53936.6, "z500")),
        ("% and 1", lambda: two("siconc", "%", "1", 50, 0.5), same(0.5, "siconc")),
        ("kg m-2 and m of rain", lambda: two("tp", "kg m-2", "m", 4, 0.004), same(0.004, "tp")),
        ("units in one of them alone", lambda: two(NAME, "K", None, 280, 280), "1.nc: units of 't2m'.*found none"),
        ("levels of 500 hPa and 50000 Pa", lambda: [level([500], units="hPa"), level([50000.0], units="Pa").assign_coords(time=R("1982-01-01", periods=24, freq="MS"))], named("t500")),
        ("labels of 500 and 850 hPa", lambda: [level(500, units="hPa"), level(850, units="hPa").assign_coords(time=R("1982-01-01", periods=24, freq="MS"))], "expected 'level' to be 500"),
        ("an anomaly in the second", lambda: two("sst", "degC", "degC", 15, 0.3, long_name="SST anomaly"), "got 'ssta' by its attributes"),
        ("0…360°E and 180°W…180°E in one order", lambda: [field(), field(start="1982-01-01", lon=np.where(LON > 180, LON - 360, LON))], same()),
    ],
    "What a dimension is called": [
        ("level in m", lambda: level([5.0, 500.0], units="m"), "no pressure by units"),
        ("lev of hybrid levels", lambda: level([100.0, 850.0], "lev", standard_name="atmosphere_hybrid_sigma_pressure_coordinate"), "no pressure by units"),
        ("level counted 1, 2", lambda: level([1, 2]), "no pressure by units"),
        ("level of 300, 315, 330 without units", lambda: level([300, 315, 330]), "no pressure by units"),
        ("a single level of 320 K", lambda: level(320, units="K"), "expected a pressure level"),
        ("pressure in bar", lambda: level([1.0, 0.85], "pressure", units="bar"), "no pressure by units"),
        ("t850 whose level is 500 hPa", lambda: level([500], units="hPa", short="t850"), "its level is 500 hPa"),
        ("850 hPa twice", lambda: level([850, 850], units="hPa"), "every pressure level once"),
        ("plev of 100000, 50000 without units", lambda: level([1e5, 5e4], "plev"), named("t1000", "t500")),
        ("kPa", lambda: level([85.0, 50.0], units="kPa"), named("t850", "t500")),
    ],
    "When a forecast is valid": [
        ("init_time, lead_time in hours", lambda: lead("lead_time", 18, time="init_time", units="hours"), starts("1980-01-01T18", "6h")),
        ("lead of 3 months", lambda: lead("lead", 3, freq="MS", units="months"), starts("1980-04-01")),
        ("lead of 2 weeks", lambda: lead("lead", 2, units="weeks"), starts("1980-01-15", "6h")),
        ("lead of 1 year", lambda: lead("lead", 1, freq="YS", units="years"), starts("1981-01-01")),
        ("leadtime_hours without units", lambda: lead("leadtime_hours", 18), starts("1980-01-01T18", "6h")),
        ("step of 18 without units", lambda: lead("step", 18), "lead of forecasts, 'step'.*without units"),
        ("step as the text 18h", lambda: lead("step", "18h"), "lead of forecasts, 'step'"),
        ("a lead that is no number", lambda: lead("step", np.nan, units="hours"), "lead of forecasts, 'step'"),
        ("verification_time beside the start", lambda: field(n=4, freq="6h").assign_coords(verification_time=("time", R("1980-01-01T18", periods=4, freq="6h"))), starts("1980-01-01T18", "6h")),
        ("three leads that overlap", lambda: xr.concat([field(n=4, freq="6h")] * 3, "prediction_timedelta").assign_coords(prediction_timedelta=np.array([0, 6, 12], "m8[h]").astype("m8[ns]")), "several forecasts hold the same time"),
    ],
    "Values that a reader's default eats": [
        ("Zarr 2, fill 0, axes with zeros", lambda: store(ice(), 0), zeros(6 / 7)),
        ("Zarr 3, fill 0", lambda: store(ice(), 0, form=3), zeros(6 / 7)),
        ("Zarr 2, fill null", lambda: store(ice(), None), zeros(6 / 7)),
        ("Zarr 2, fill NaN", lambda: store(ice(), np.nan), zeros(6 / 7)),
        ("Zarr 2, packed, fill 0", lambda: store(100 * ice(), 0, "i2", scale_factor=0.01), zeros(6 / 7)),
        ("Zarr 2, whole numbers, fill 0", lambda: store(ice() > 0.3, 0, "i1"), lambda got: bool(got.siconc.notnull().all())),
        ("Zarr 2, fill 1 beside true ones", lambda: store((ice() > 0.3).astype("f4"), 1.0), "said 1 means missing .* may be a value"),
        ("rain whose _FillValue is 0", lambda: marked("tp", "mm", _FillValue=np.float32(0)), "said 0 means missing .* may be a value"),
        ("ice whose missing_value is 0", lambda: marked("siconc", "1", missing_value=np.float32(0)), "said 0 means missing .* may be a value"),
        ("255 for land in bytes, undeclared", lambda: wrong(field(50, "siconc", "%", spread=9), 255), "255 means missing"),
    ],
    "Times that are cut": [
        ("hourly, days since 1900 in single precision", lambda: timed(44000 + HOURS / 24, "days since 1900-01-01"), starts("2020-06-20", "1h")),
        ("6-hourly, days since 1800", lambda: timed(66000 + HOURS / 4, "days since 1800-01-01"), starts("1980-09-14", "6h")),
        ("3-hourly at half past one", lambda: timed(66000 + HOURS / 8 + 1 / 16, "days since 1800-01-01"), starts("1980-09-14T01:30", "3h")),
        ("every 10 minutes", lambda: timed(40 + HOURS / 144, "days since 1980-01-01"), starts("1980-02-10", "10min")),
        ("a millisecond short everywhere", lambda: timed(HOURS * 3600 - 0.001, "seconds since 1980-01-01", "f8"), starts("1980-01-01", "1h")),
        ("a second to and fro", lambda: timed(HOURS * 10800 + HOURS % 3 - 1, "seconds since 1980-01-01", "i4"), starts("1980-01-01", "3h")),
        ("days with two digits", lambda: timed(np.round(HOURS / 24, 2), "days since 1980-01-01", "f8"), starts("1980-01-01", "1h")),
        ("half past, meant", lambda: timed(HOURS + 0.5, "hours since 1980-01-01"), starts("1980-01-01T00:30", "1h")),
        ("every: 6h of hourly ones in single precision", lambda: (timed(44000 + HOURS / 24, "days since 1900-01-01"), {"every": "6h"}), starts("2020-06-20", "6h")),
        ("%Y%m%d.%f in single precision", lambda: timed(19800101 + HOURS / 200, "day as %Y%m%d.%f"), "expected a time axis"),
    ],
    "CF metadata": [
        ("valid_max alone", lambda: wrong(said(field(), NAME, valid_max=np.float32(300)), 320), lambda got: int(got.t2m.isnull().sum()) == 1),
        ("a standard error", lambda: said(field(), NAME, standard_name="air_temperature standard_error"), "its standard_name is"),
        ("t2m of the soil by its standard name", lambda: said(field(), NAME, standard_name="soil_temperature"), "its standard_name is"),
        ("a current under the name of a wind", lambda: field(0.1, "u10", "m s-1", standard_name="eastward_sea_water_velocity", spread=0.01), "its standard_name is"),
        ("the maximum of each day by its cell_methods", lambda: said(field(), NAME, cell_methods="time: maximum within days time: mean over days"), "its cell_methods are"),
        ("a wind at 100 m by its height", lambda: field(5, "uas", "m s-1").assign_coords(height=((), 100.0, {"units": "m"})), "its height is 100 m"),
        ("axes in radians that do not say so", lambda: field(lat=np.deg2rad(LAT), lon=np.deg2rad(LON)), "as in radians"),
        ("latitude in gon", lambda: said(field(), "lat", units="gon"), "to be latitude in degrees"),
        ("a rotated pole that no field names", lambda: field().assign(rotated_pole=((), 0, {"grid_mapping_name": "rotated_latitude_longitude"})), "true latitude and longitude"),
        ("a climatology", lambda: said(field(n=12), "time", climatology="climatology_bounds"), "got a climatology"),
    ],
    "The range at each level": [
        ("metres as m2 s-2 at 700 hPa", lambda: field(3000, "z700", "m2 s-2", spread=50), "expected 'z700' within"),
        ("metres as m2 s-2 at 850 hPa", lambda: field(1500, "z850", "m2 s-2", spread=50), "expected 'z850' within"),
        ("metres as m2 s-2 at 925 hPa", lambda: field(760, "z925", "m2 s-2", spread=50), "said its mean, .* is unusual"),
        ("500 hPa under the name of 10", lambda: field(54000, "z10", "m2 s-2", spread=600), "expected 'z10' within"),
        ("°C as K at 850 hPa", lambda: field(10, "t850", "K", spread=5), "expected 't850' within"),
        ("g/kg as kg/kg at 300 hPa", lambda: field(0.2, "q300", "kg kg-1", spread=0.05), "expected 'q300' within"),
        ("kg/kg as g/kg at 850 hPa", lambda: field(0.005, "q850", "g kg-1", spread=1e-3), "said its highest value is"),
        ("a share as % of humidity", lambda: field(0.5, "r500", "%", spread=0.1), "said its highest value is"),
        ("metres of rain as mm", lambda: field(0.004, "tp", "mm", spread=1e-3), "said unusual"),
        ("surface pressure as that at sea level", lambda: field(85000, "msl", "Pa"), "said its mean, .* is unusual"),
    ],
    "Steps of the calendar": [
        ("weeks", lambda: dated(R("1980-01-03", periods=60, freq="7D")), unbroken),
        ("five-day means of the year, without 29 February", lambda: years(lambda y: [pd.Timestamp(y, 1, 1) + pd.Timedelta(5 * k + (k > 11 and y == 2000), "D") for k in range(73)]), unbroken),
        ("eight-day means that begin anew each year", lambda: years(lambda y: [pd.Timestamp(y, 1, 1) + pd.Timedelta(8 * k, "D") for k in range(46)]), unbroken),
        ("half months", lambda: years(lambda y: [pd.Timestamp(y, m, d) for m in range(1, 13) for d in (1, 16)]), unbroken),
        ("ten-day periods by their last day", lambda: years(lambda y: [pd.Timestamp(y, m, d) if d else pd.Timestamp(y, m, 1) + pd.offsets.MonthEnd(0) for m in range(1, 13) for d in (10, 20, 0)]), unbroken),
        ("seasons in their middle", lambda: dated(R("1980-01-16", periods=40, freq="3MS") + pd.Timedelta(15, "D")), unbroken),
        ("years in their middle", lambda: dated(R("1980-01-01", periods=40, freq="YS") + pd.Timedelta(182, "D")), unbroken),
        ("months by their last day", lambda: dated(R("1980-01-31", periods=40, freq="ME")), unbroken),
        ("every second month", lambda: dated(R("1980-01-01", periods=40, freq="2MS")), unbroken),
        ("decades", lambda: dated(R("1700-01-01", periods=30, freq="10YS")), unbroken),
    ],
    "Twice the same place or time": [
        ("a cyclic column at 360.00002", lambda: field(lon=np.append(LON, 360.00002)), lambda got: got.sizes["lon"] == 12),
        ("180°W and 180°E", lambda: field(lon=np.arange(-180.0, 181, 30)), lambda got: got.sizes["lon"] == 12),
        ("359.9°E beside 0°E on a grid of 30°", lambda: field(lon=np.append(LON, 359.9)), "every longitude once"),
        ("a column twice inside", lambda: field(lon=np.sort(np.append(LON, 60.0))), "every longitude once"),
        ("20.00001°N beside 20°N", lambda: field(lat=np.insert(LAT, 2, 20.00001)), "every latitude once"),
        ("a day at 0 and at 12 h where sources meet", lambda: dated([*R("1980-01-01", periods=12, freq="D"), *R("1980-01-12T12", periods=12, freq="D")]), "every day once"),
        ("a year in January and in July", lambda: dated([*R("1980-01-01", periods=12, freq="YS"), *(R("1991-01-01", periods=12, freq="YS") + pd.Timedelta(182, "D"))]), "every year once"),
        ("an hour and half past", lambda: dated([*R("1980-01-01", periods=24, freq="h"), *R("1980-01-01T23:30", periods=24, freq="h")]), "every hour once"),
        ("files that overlap by a year", lambda: [field(), field(start="1981-01-01")], "every time once"),
        ("a member twice", lambda: (xr.concat([field()] * 2, "number").assign_coords(number=[1, 1]), {"member": 1}), "every ensemble member once"),
    ],
    "Crashes": [
        ("units as a list", lambda: raw(units=["K", "K"]), "got 'K; K'"),
        ("coordinates as a number", lambda: raw(coordinates=np.int32(1)), "cannot be understood"),
        ("scale_factor as a text", lambda: raw(scale_factor="a"), "cannot be understood"),
        ("scale_factor of two numbers", lambda: raw(scale_factor=np.array([1.0, 2.0])), "cannot be understood"),
        ("bounds as a list", lambda: raw("time", bounds=["a", "b"]), "cannot be understood"),
        ("a standard name that is a number", lambda: raw(standard_name=np.int32(3)), same()),
        ("values that are texts", lambda: field().assign(t2m=(("time", "lat", "lon"), np.full((24, 7, 12), "280", object), {"units": "K"})), "cannot be understood"),
        ("no row at all", lambda: field().isel(lat=slice(0)), "at least 2×2 cells, got 0×12"),
        ("a link to nothing", lambda: (Path("a.nc").symlink_to("gone"), Path("a.nc"))[1], "a link to a file that is not there"),
        ("variables: [null]", lambda: (field(), {"variables": [None]}), "option variables: expected names"),
    ],
    "Files of models and reanalyses": [
        ("CESM: January stamped with 1 February", lambda: ends("MS"), "said 1980-02-01 is 1980-01-01"),
        ("means of days stamped with the next day", lambda: ends("D"), "said 1980-01-02 is 1980-01-01"),
        ("CESM: U10, the speed", lambda: field(6, "U10", "m/s", long_name="10m wind speed"), "its long_name is '10m wind speed'"),
        ("CMIP6: pr, a flux", lambda: field(3e-5, "pr", "kg m-2 s-1", spread=1e-6, standard_name="precipitation_flux"), "rename: {pr: rain_rate}"),
        ("CMIP6: a bent ocean grid", lambda: bent(2), "rectilinear latitude-longitude grid"),
        ("WRF: XLAT at each step", lambda: bent(3), "rectilinear latitude-longitude grid"),
        ("MERRA-2: lev in layers", lambda: level([1.0, 2.0, 3.0], "lev", units="layer"), "no pressure by units"),
        ("ERA5: monthly means of daily rain", lambda: field(0.004, "tp", "m", spread=1e-4, GRIB_stepType="avgad"), "its step type is 'avgad', a mean of sums.*tp24h"),
        ("monthly means of hourly rain", lambda: field(0.0002, "tp", "m", spread=1e-5, cell_methods="time: mean"), "a mean of sums"),
        ("ERA5: expver along the time, as text", lambda: field().rename(time="valid_time").assign_coords(number=0, expver=("valid_time", np.array(["0001", "0005"] * 12, object))), same()),
    ],
    "Files of observations and of servers": [
        ("Argo: half months since 2004, 20°E to 379°E", lambda: counted("months", np.arange(24) + 0.5, lon=np.arange(20.5, 380, 30)), starts("2004-01-01")),
        ("years since 2004", lambda: counted("years", np.arange(24)), starts("2004-01-01")),
        ("degreesN and degreesE", lambda: said(said(field(), "lat", units="degreesN"), "lon", units="degreesE"), same()),
        ("rows and columns counted", lambda: field(lat=np.arange(7.0), lon=np.arange(12.0)), "axes that count rows and columns from 0"),
        ("land filled with 0 °C", lambda: wrong(field(15, "sst", "degC", spread=8), 0, (slice(None), slice(2, 4), slice(4))), "said 8 of 84 cells hold one value, 273.15 K, at all steps"),
        ("HadISST: -1000 for ice", lambda: wrong(field(15, "sst", "degC"), -1000, (slice(None), 0)), "-1000 means missing"),
        ("IMERG: a rate, said to be rain", lambda: (field(0.2, "precipitation", "mm/hr", spread=0.01), {"rename": {"precipitation": "tp"}}), "'mm/hr', a rate; write sums"),
        ("hours since, of days", lambda: counted("hours", (R("1980-01-01", periods=24, freq="MS") - pd.Timestamp("1800-01-01")).days), "said steps do not come one step"),
        ("a ZIP archive of the CDS", lambda: sent(b"PK\x03\x04"), "got a ZIP archive.*`unzip`"),
        ("a web page in place of a file", lambda: sent(b"<!DOCTYPE html>"), "got a web page"),
    ],
}  # fmt: skip
EVERY = [(kind, *case) for kind, cases in CASES.items() for case in cases]


def opened(made: Made) -> tuple[xr.Dataset, pd.DataFrame]:
    """Return what comes of the files, and what `check` says of it."""
    made, options = made if isinstance(made, tuple) else (made, {})
    paths = []
    for k, one in enumerate(made if isinstance(made, list) else [made]):
        if isinstance(one, xr.Dataset):
            one.to_netcdf(f"{k}.nc")
        paths.append(str(one) if isinstance(one, Path) else f"{k}.nc")
    options = {**options, "path": paths if len(paths) > 1 else paths[0]}
    return open_source("files", **options).load(), check_source("files", options)


@pytest.mark.parametrize(("kind", "words", "make", "expected"), EVERY, ids=[f"{case[0]}: {case[1]}" for case in EVERY])
def test_ten_of_each_kind(kind, words, make, expected, tmp_path, monkeypatch):
    """Nothing is taken in silence, and nothing ends in a traceback."""
    monkeypatch.chdir(tmp_path)
    made = make()
    if isinstance(expected, str) and not expected.startswith("said "):
        with pytest.raises(EarthSSLError, match=expected) as refused:
            opened(made)
        assert "\n" not in str(refused.value)
        return
    got, table = opened(made)
    if isinstance(expected, str):
        assert re.search(expected.removeprefix("said "), "; ".join(table["odd"])), list(table["odd"])
    else:
        assert expected(got), got


def test_each_kind_has_ten():
    assert {kind: len(cases) for kind, cases in CASES.items()} == dict.fromkeys(CASES, 10)


def rows() -> list[str]:
    """Return the table of docs/ten-of-each-kind.md, a line a kind."""
    lines = []
    for kind, cases in CASES.items():
        cells: dict[str, list[str]] = {"refused": [], "said": [], "read": []}
        for words, _, expected in cases:
            how = "read" if not isinstance(expected, str) else "said" if expected.startswith("said ") else "refused"
            cells[how].append(words)
        lines.append(
            f"| {kind} | {' · '.join(cells['refused'])} | {' · '.join(cells['said'])} | {' · '.join(cells['read'])} |"
        )
    return lines


def test_the_page_holds_the_table():
    page = (Path(__file__).parents[3] / "docs" / "ten-of-each-kind.md").read_text()
    assert [line for line in rows() if line not in page] == []
