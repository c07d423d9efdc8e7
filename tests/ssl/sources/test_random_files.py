"""Random CF files of a known field: what comes back is the field, to the precision of its packing, or a refusal.

Files are written by hand (netCDF4, zarr, numpy), not by the library that reads them.
"""

from __future__ import annotations

import base64
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=2000, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))

# Canonical name, names in files, middle and spread in canonical units, (units, scale, offset) with file = value * scale
# + offset.
KINDS: list[tuple[str, tuple[str, ...], float, float, tuple[tuple[str, float, float], ...]]] = [
    ("t2m", ("t2m", "tas", "2m_temperature"), 280.0, 25.0, (("K", 1, 0), ("degC", 1, -273.15), ("degF", 1.8, -459.67))),
    ("msl", ("msl", "psl", "slp"), 101000.0, 3000.0, (("Pa", 1, 0), ("hPa", 0.01, 0), ("mbar", 0.01, 0))),
    ("u10", ("u10", "uas"), 0.0, 20.0, (("m s-1", 1, 0), ("m/s", 1, 0), ("knots", 3600 / 1852, 0), ("km h-1", 3.6, 0))),
    ("siconc", ("siconc", "ci"), 0.5, 0.5, (("1", 1, 0), ("%", 100, 0))),
    ("tp", ("tp", "total_precipitation"), 0.01, 0.01, (("m", 1, 0), ("mm", 1000, 0), ("kg m-2", 1000, 0))),
    ("sst", ("sst", "tos"), 290.0, 12.0, (("K", 1, 0), ("Celsius", 1, -273.15))),
    ("z500", ("z500", "zg500"), 54000.0, 3000.0, (("m2 s-2", 1, 0), ("m", 1 / 9.80665, 0), ("gpm", 1 / 9.80665, 0))),
    ("ssta", ("ssta", "sst_anomaly"), 0.0, 3.0, (("K", 1, 0), ("degC", 1, 0), ("degF", 1.8, 0))),
]  # fmt: skip
LEVELLED = ("t", ("t", "ta", "temperature"), 250.0, 20.0, (("K", 1, 0), ("degC", 1, -273.15)))
FORMS = ("NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "zarr2", "zarr3")
FREQUENCIES = {"1h": 1, "6h": 6, "1D": 24, "month": 0}
GREGORIAN = ("standard", "gregorian", "proleptic_gregorian", "noleap", "365_day")
OTHER = ("360_day", "julian", "all_leap")
NAMES = [
    text.split() for text in ("time lat lon", "time latitude longitude", "valid_time Latitude Longitude", "date y x")
]
LEVELS = [("level", "hPa", 1.0), ("plev", "Pa", 100.0), ("lev", "kPa", 0.1), ("isobaricInhPa", "millibars", 1.0)]
TIME_UNITS = [
    "days since 1800-01-01", "hours since 1900-1-1 00:00:0.0", "seconds since 1970-01-01T00:00:00Z",
    "minutes since 1850-06-01", "days since 1979-01-01 12:00", "number", "ISO",
]  # fmt: skip
FILLS = [
    "none", "_FillValue", "missing_value", "both", "nan", "two", "undeclared 1e20", "of double type", "text",
]  # fmt: skip
EXTRAS = [
    "bounds", "crs", "text", "height", "cyclic", "static", "valid range", "member", "reversed", "forecast",
    "bare axes",
]  # fmt: skip
FAULTS = [
    "sentinel", "no units", "unknown units", "a time twice", "another calendar", "rotated", "level in K",
]  # fmt: skip


@dataclass
class Plan:
    """One set of files: what is in it, how it is written, and what is wrong with it."""

    kind: tuple[Any, ...]
    raw: str
    form: str
    names: list[str]
    order: tuple[int, ...]
    lat: np.ndarray
    lon: np.ndarray
    coordinate: str
    levels: tuple[int, ...]
    level: tuple[str, str, float]
    frequency: str
    start: str
    steps: int
    calendar: str
    time_units: str
    time_type: str
    packing: str
    unit: list[int]  # of each file
    fills: str
    share: float
    cuts: list[int]
    shuffle: bool
    lazy: bool
    extras: frozenset[str]
    fault: str
    seed: int


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan; one in four has a fault."""
    one = st.sampled_from
    on_levels = draw(st.integers(0, 4)) == 0
    kind = LEVELLED if on_levels else draw(one(KINDS))
    form = draw(one(FORMS))
    n, m = draw(st.integers(3, 8)), draw(st.integers(4, 12))
    top, bottom = draw(one([(90, -90), (87.5, -87.5), (60, -20), (10, -10), (-30, -80), (89.25, 12.25)]))
    lat = np.linspace(top, bottom, n)
    lon = draw(one(["global", "global", "east", "west", "middle"]))
    if lon == "global":
        longitudes = draw(one([0.0, 0.5, 360 / m / 2])) + np.arange(m) * 360 / m
    else:
        first, width = {"east": (20.0, 100.0), "west": (200.0, 120.0), "middle": (100.0, 200.0)}[lon]
        longitudes = first + np.arange(m) * width / m
    if draw(st.booleans()) and lon != "middle":
        longitudes = (longitudes + 180) % 360 - 180
        longitudes = np.sort(longitudes)
    if draw(st.integers(0, 5)) == 0:
        longitudes = longitudes[::-1]
    if draw(st.booleans()):
        lat = lat[::-1]
    fault = draw(one(FAULTS)) if draw(st.integers(0, 3)) == 0 else ""
    frequency = draw(one(list(FREQUENCIES)))
    steps = draw(st.integers(2, 9))
    cuts = sorted(draw(st.sets(st.integers(1, steps - 1), max_size=2)))
    extras = frozenset(draw(st.sets(one(EXTRAS))))
    if lon != "global":
        extras -= {"cyclic"}
    if cuts or frequency == "month" or fault in ("a time twice", "another calendar"):
        extras -= {"forecast"}
    if "forecast" in extras:
        extras -= {"bounds", "reversed"}
    start = draw(one(["1850-01-01", "1979-12-29", "2000-02-27", "2019-03-01", "1999-12-31"]))
    calendar = draw(one(GREGORIAN if fault != "another calendar" else OTHER))
    return Plan(
        kind=kind, raw=draw(one(kind[1])), form=form,
        names=draw(one(NAMES)),
        order=tuple(draw(st.permutations(range(3 + on_levels)))), lat=lat, lon=longitudes,
        coordinate=draw(one(["f8", "f4"])),
        levels=tuple(draw(one([(1000, 850, 500), (500, 850), (700,)]))) if on_levels else (),
        level=draw(one(LEVELS)),
        frequency=frequency, start=start, steps=steps, calendar=calendar,
        time_units=draw(one(TIME_UNITS)),
        time_type=draw(one(["f8", "f8", "f4", "i4"])), packing=draw(one(["f4", "f8", "i2", "i2", "u1", "i4"])),
        unit=[draw(st.integers(0, len(kind[4]) - 1)) for _ in range(len(cuts) + 1)],
        fills=draw(one(FILLS)),
        share=draw(one([0.0, 0.1, 0.6])), cuts=cuts, shuffle=draw(st.booleans()), lazy=draw(st.booleans()),
        extras=extras, fault=fault, seed=draw(st.integers(0, 2**31)),
    )  # fmt: skip


def times_of(plan: Plan) -> np.ndarray:
    """Return the plan's times, datetime64[s], without leap days where its calendar has none."""
    start = np.datetime64(plan.start, "s")
    hours = FREQUENCIES[plan.frequency]
    if not hours:
        months = start.astype("datetime64[M]") + np.arange(plan.steps)
        return months.astype("datetime64[s]")
    times = start + np.arange(plan.steps) * np.timedelta64(hours, "h")
    if plan.calendar in ("noleap", "365_day", "360_day"):
        leap = np.array([str(t)[5:10] in ("02-29", "12-31", "01-31") for t in times])
        leap &= np.array([str(t)[5:10] == "02-29" or plan.calendar == "360_day" for t in times])
        times = times[~leap]
    return times


def truth(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return the plan's times and its field in canonical units, float64 (time, level, lat, lon), NaN where missing."""
    rng = np.random.default_rng(plan.seed)
    times = times_of(plan)
    _, _, middle, spread, _ = plan.kind
    shape = (len(times), max(1, len(plan.levels)), len(plan.lat), len(plan.lon))
    values = middle + spread * rng.uniform(-1, 1, shape)
    if plan.kind[0] in ("siconc", "tp"):
        values[rng.random(shape) < 0.3] = 0.0
    if plan.fills != "none" and plan.share:
        gone = rng.random(shape) < plan.share
        gone[:, :, 0, 0] = False
        values[gone] = np.nan
    return times, values


def numbers(plan: Plan, times: np.ndarray) -> tuple[np.ndarray, str]:
    """Return what stands in the file for the times, and their units."""
    if plan.time_units == "number":  # absolute: YYYYMM or YYYYMMDD with a fraction
        texts = [str(t).replace("-", "").replace("T", "").replace(":", "") for t in times]
        if plan.frequency == "month":
            return np.array([int(text[:6]) for text in texts], "i4"), "month as %Y%m"
        day = np.array([int(text[:8]) for text in texts], "f8")
        return day + np.array([int(text[8:10]) for text in texts]) / 24, "day as %Y%m%d.%f"
    if plan.time_units == "ISO" and plan.form == "NETCDF4":
        return np.array([str(t) for t in times], object), ""
    stamps = [cftime.datetime(*map(int, str(t).replace("T", "-").replace(":", "-").split("-")), calendar=plan.calendar)
              for t in times]  # fmt: skip
    units = plan.time_units.replace("Z", "").replace("ISO", "days since 1900-01-01")
    found = np.asarray(cftime.date2num(stamps, units, plan.calendar), "f8")
    if plan.time_type == "i4" and (found != np.round(found)).any():
        return found, units
    if plan.time_type == "i4" and np.abs(found).max() > 2e9:
        return found, units
    return found.astype(plan.time_type), units


def packed(plan: Plan, values: np.ndarray) -> tuple[np.ndarray, dict[str, Any], float]:
    """Return values in the file's units as they are stored, their attributes, and the precision that is left."""
    gone = np.isnan(values)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    attrs: dict[str, Any] = {}
    if plan.packing in ("f4", "f8"):
        stored, fill = values.astype(plan.packing), np.dtype(plan.packing).type(-9.0e33)
        precision = 1e-6 * max(abs(low), abs(high))
    else:
        kind = plan.packing
        edge = np.iinfo(kind)
        room = min(int(edge.max) - int(edge.min) - 10, 2**28)
        scale = max((high - low) / room, 1e-9)
        first = int(edge.min) + 4 if kind != "i4" else -(2**27)
        shift = low - first * scale
        stored = np.round((np.where(gone, low, values) - shift) / scale).astype(kind)
        fill = np.dtype(kind).type(edge.min)
        attrs |= {"scale_factor": scale, "add_offset": shift}
        precision = 0.51 * scale + 1e-6 * max(abs(low), abs(high))
        if "valid range" in plan.extras:
            attrs["valid_range"] = np.array([edge.min + 2, edge.max - 1], kind)
    said = plan.fills
    if said in ("none", "nan", "undeclared 1e20", "of double type", "text") and plan.packing not in ("f4", "f8"):
        said = "_FillValue"
    if said == "of double type":  # not the same number in single precision
        stored[gone] = stored.dtype.type(-9999.9)
        return stored, attrs | {"missing_value": np.float64(-9999.9)}, precision
    if said == "text":
        stored[gone] = -9999
        return stored, attrs | {"missing_value": "-9999"}, precision
    if said == "undeclared 1e20":
        stored[gone] = 1e20
        return stored, attrs, precision
    if said in ("none", "nan"):
        stored[gone] = np.nan
        return (
            stored,
            (attrs | {"_FillValue": np.dtype(stored.dtype).type(np.nan)} if said == "nan" else attrs),
            precision,
        )
    stored[gone] = fill
    if said in ("_FillValue", "both", "two"):
        attrs["_FillValue"] = fill
    if said in ("missing_value", "both"):
        attrs["missing_value"] = fill
    if said == "two":
        other = type(fill)(fill + 1) if plan.packing not in ("f4", "f8") else type(fill)(-9999)
        attrs["missing_value"] = other
        places = np.argwhere(gone)
        for place in places[::2]:
            stored[tuple(place)] = other
    return stored, attrs, precision


def _as_signed(plan: Plan, stored: np.ndarray, attrs: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return unsigned bytes as the signed ones of older formats, which say so in an attribute."""
    if stored.dtype != np.uint8 or plan.form in ("NETCDF4", "zarr2", "zarr3"):
        return stored, attrs
    bytes_ = ("_FillValue", "missing_value", "valid_range")
    attrs = {key: value.view("i1") if key in bytes_ else value for key, value in attrs.items()}
    return stored.view("i1"), attrs | {"_Unsigned": "true"}


def write(plan: Plan, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Write the plan's files; returns their paths and what should come back: times, lat, lon, fields, precision."""
    times, values = truth(plan)
    rng = np.random.default_rng(plan.seed + 1)
    parts = np.split(np.arange(len(times)), [cut for cut in plan.cuts if cut < len(times)])
    paths, precision = [], 0.0
    for k, part in enumerate(parts):
        unit, scale, offset = plan.kind[4][plan.unit[k]]
        mine = values[part] * scale + offset
        stored, attrs, near = packed(plan, mine)
        precision = max(precision, near / scale)
        when, time_units = numbers(plan, times[part])
        if plan.fault == "sentinel" and k == len(parts) - 1:
            stored, attrs = values[part].astype("f4") * np.float32(scale) + np.float32(offset), {}
            stored[-1, -1, 0, 0] = -9999.0
        if plan.fault == "a time twice" and k == len(parts) - 1:
            when[-1] = when[-2] if len(when) > 1 else when[-1]
        stored, attrs = _as_signed(plan, stored, attrs)
        attrs["units"] = unit
        if plan.fault == "no units":
            del attrs["units"]
        if plan.fault == "unknown units":
            attrs["units"] = "furlong"
        paths.append(_write_one(plan, folder, k, stored, attrs, when, time_units))
    if plan.shuffle:
        rng.shuffle(paths)
    return paths, {"times": times, "values": values, "precision": precision}


def _write_one(
    plan: Plan, folder: Path, k: int, stored: np.ndarray, attrs: dict[str, Any], when: np.ndarray, time_units: str
) -> str:  # fmt: skip
    time, lat, lon = plan.names
    level, level_units, factor = plan.level
    lats, lons = plan.lat.astype(plan.coordinate), plan.lon.astype(plan.coordinate)
    if "cyclic" in plan.extras:
        step = plan.lon[1] - plan.lon[0]
        lons = np.append(lons, (plan.lon[-1] + step).astype(plan.coordinate))
        stored = np.concatenate([stored, stored[..., :1]], -1)
    if "member" in plan.extras:
        stored = stored[..., None]
    if "reversed" in plan.extras:
        stored, when = stored[::-1], when[::-1]
    rotated = plan.fault == "rotated"
    own = {"units": "degrees", "standard_name": "grid_latitude"} if rotated else {"units": "degrees_north"}
    east = {"units": "degrees", "standard_name": "grid_longitude"} if rotated else {"units": "degrees_east"}
    if "bare axes" in plan.extras and plan.names[1] != "y":
        own, east = ({}, {}) if not rotated else (own, east)
    time_attrs: dict[str, Any] = {"units": time_units, "standard_name": "time", "axis": "T"}
    if when.dtype == object:
        del time_attrs["units"]
    elif plan.time_units != "number":
        time_attrs["calendar"] = plan.calendar
    lead = "forecast" in plan.extras
    axes: list[tuple[str, np.ndarray, dict[str, Any]]] = [(time, when, time_attrs)]
    if lead:  # one start, and how long after it each step is valid
        hours = (times_of(plan) - times_of(plan)[0]).astype("f8") / 3600
        axes = [("step", hours, {"units": "hours", "standard_name": "forecast_period"})]
    if plan.levels:
        said = {"units": "K" if plan.fault == "level in K" else level_units}
        axes.append((level, np.array(plan.levels, "f8") * factor, said))
    else:
        stored = stored[:, 0]
    axes += [(lat, lats, own), (lon, lons, east)]
    dims = [axes[i][0] for i in plan.order]
    data = np.transpose(stored, (*plan.order, *range(len(plan.order), stored.ndim)))
    variables = [(name, (name,), values, said) for name, values, said in axes]
    if lead:
        begin = {"units": time_attrs.get("units"), "calendar": time_attrs.get("calendar")}
        begin = {key: value for key, value in begin.items() if value}
        variables.append(("time", (), when[:1].reshape(()), begin | {"standard_name": "forecast_reference_time"}))
    if "member" in plan.extras:
        dims = [*dims, "number"]
        variables.append(("number", ("number",), np.array([0], "i4"), {}))
    if "height" in plan.extras:
        dims, data = [*dims, "height"], data[..., None]
        variables.append(("height", ("height",), np.array([2.0]), {"units": "m"}))
    variables.append((plan.raw, tuple(dims), data, attrs))
    if "crs" in plan.extras:
        variables.append(("crs", (), np.array(0, "i4"), {"grid_mapping_name": "latitude_longitude"}))
        attrs["grid_mapping"] = "crs"
    if "static" in plan.extras:
        variables.append(("lsm", (lat, lon), np.zeros((len(lats), len(lons)), "f4"), {"units": "1"}))
    if "bounds" in plan.extras and when.dtype != object:
        time_attrs["bounds"] = f"{time}_bnds"
        variables.append((f"{time}_bnds", (time, "bnds"), np.stack([when, when], -1), {}))
    if plan.form.startswith("zarr"):
        return _zarr(folder / f"{k}.zarr", int(plan.form[4:]), variables)
    return _netcdf(folder / f"{k}.nc", plan.form, variables, "text" in plan.extras)


def _netcdf(path: Path, form: str, variables: list[Any], text: bool) -> str:
    with netCDF4.Dataset(path, "w", format=form) as ds:
        for _, dims, values, _ in variables:
            for dim, size in zip(dims, values.shape, strict=True):
                if dim not in ds.dimensions:
                    ds.createDimension(dim, size)
        for name, dims, values, attrs in variables:
            fill = attrs.get("_FillValue")
            kind = str if values.dtype == object else values.dtype
            made = ds.createVariable(name, kind, dims, fill_value=fill)
            made.set_auto_maskandscale(False)
            made.setncatts({key: value for key, value in attrs.items() if key != "_FillValue"})
            made[...] = values
        if text:
            ds.setncatts({"title": "random", "history": "written by hand", "Conventions": "CF-1.8"})
    return str(path)


def _zarr(path: Path, form: int, variables: list[Any]) -> str:
    group = zarr.open_group(path, mode="w", zarr_format=form)
    for name, dims, values, attrs in variables:
        attrs = {
            key: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            for key, value in attrs.items()
        }
        fill = attrs.pop("_FillValue", None)
        more: dict[str, Any] = {"dimension_names": dims} if form == 3 else {}
        if fill is not None and form == 2:
            more["fill_value"] = fill
        elif fill is not None:  # format 3: an attribute, floats in base64
            word = base64.standard_b64encode(struct.pack("<d", float(fill))).decode()
            attrs["_FillValue"] = int(fill) if values.dtype.kind in "iu" else word
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, **more)
        array[...] = values
        array.attrs.update({"_ARRAY_DIMENSIONS": list(dims), **attrs})
    return str(path)


def certainly_wrong(plan: Plan, steps: int) -> bool:
    """Whether no reader can make the field of the plan's files."""
    last = steps - max([0, *(cut for cut in plan.cuts if cut < steps)])
    return (
        plan.fault in ("sentinel", "no units", "unknown units", "rotated")
        or (plan.fault == "a time twice" and last > 1)
        or (plan.fault == "level in K" and bool(plan.levels))
    )


def compare(plan: Plan, expected: dict[str, Any], got: xr.Dataset) -> None:
    """Require the times, the axes, and every value."""
    np.testing.assert_array_equal(got["time"].values.astype("datetime64[s]"), expected["times"])
    rows, columns = np.argsort(-plan.lat), np.argsort(np.round(plan.lon % 360, 3) % 360)
    np.testing.assert_allclose(got["lat"], plan.lat[rows], atol=1e-4)
    np.testing.assert_allclose((got["lon"] + 1e-3) % 360, (plan.lon[columns] + 1e-3) % 360, atol=1e-4)
    names = [f"t{level}" for level in plan.levels] or [plan.kind[0]]
    assert sorted(map(str, got.data_vars)) == sorted(names)
    for k, name in enumerate(names):
        values = expected["values"][:, k][:, rows][:, :, columns]
        found = got[name].transpose("time", "lat", "lon").values
        np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
        np.testing.assert_allclose(found, values, rtol=2e-6, atol=expected["precision"])


def check(plan: Plan) -> None:
    """Write the plan's files, read them, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        paths, expected = write(plan, Path(folder))
        steps = len(expected["times"])
        try:
            options: dict[str, Any] = {"eager_bytes": 0} if plan.lazy else {}
            got = open_source("files", path=paths if len(paths) > 1 else paths[0], **options).load()
        except EarthSSLError as error:
            if not plan.fault:
                raise AssertionError(f"a sound file is refused: {error}") from error
            return
        assert not certainly_wrong(plan, steps), f"{plan.fault}: taken without a word"
        compare(plan, expected, got)


@FEW
@given(plans())
def test_the_field_comes_back_or_is_refused(plan: Plan) -> None:
    """Two hundred, the same ones every time."""
    check(plan)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(plans())
def test_the_field_comes_back_or_is_refused_many_times(plan: Plan) -> None:
    """Two thousand others every time; a failure prints what reproduces it."""
    check(plan)
