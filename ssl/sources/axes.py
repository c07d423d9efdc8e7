"""Find latitude, longitude, time, level and ensemble member in any dataset, and give them one name each."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError
from ..fields.units import SPELLINGS
from .conventions import understood
from .times import refuse_running_sums, rename_axis, with_time

LAT_NAMES = ("lat", "latitude", "lats", "nav_lat", "ylat", "xlat")
LON_NAMES = ("lon", "longitude", "lons", "nav_lon", "xlong", "long")
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

# Words of a level that is no pressure, where units do not say so.
# Levels that files give without units; other numbers are refused, as they may be potential temperatures or counts.
STANDARD = {1, 2, 3, 4, 5, 7, *range(10, 100, 10), *range(100, 1101, 25)}
NO_PRESSURE = ("hybrid", "sigma", "model", "eta", "theta", "isentrop", "potential", "depth", "height", "layer", "soil")
DEGREES = ("degree", "degrees", "deg", "degs", "")
SIDE = re.compile(r"deg(?:rees?)?[\s_]*([nesw])(?:orth|ast|outh|est)?")  # UDUNITS: degrees_N, degreeN
RADIANS = ("radian", "radians", "rad")
LEFT_OUT = "earthssl_levels_left_out"  # attribute of a field: hPa


def canonical_axes(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return the dataset with its axes named time, lat, lon and, where present, level (hPa) and member.

    Variables without latitude and longitude and levels that are not whole hPa are left out; time is datetime64[ns],
    UTC; nothing is sorted.

    Raises:
        EarthSSLError: If there is no rectilinear latitude-longitude grid, no time, or a calendar whose
            dates do not exist in the Gregorian one, or if an axis says that it is something else.
    """
    ds = understood(ds)
    lat, lon = _horizontal(ds, where)
    _refuse_projection(ds, (lat, lon), where)
    ds = _in_degrees(_in_degrees(ds, lat, "latitude", where), lon, "longitude", where)
    _refuse_counts(ds, (lat, lon), where)
    if lat == "lon" or lon == "lat":  # by their units, whatever they are called
        ds = ds.rename({name: f"{name} axis" for name in (lat, lon)})
        lat, lon = f"{lat} axis", f"{lon} axis"
    ds = rename_axis(rename_axis(ds, lat, "lat"), lon, "lon")
    ds = with_time(ds, where)
    refuse_running_sums(ds, where)
    ds = _with_level(ds, where)
    member = _first(ds, MEMBER_NAMES, dims_only=True)
    if member is not None:
        ds = rename_axis(ds, member, "member")
        labels = [str(label) for label in ds["member"].values]
        if len(set(labels)) < len(labels):
            raise EarthSSLError(
                f"{where}: expected every ensemble member once, got {', '.join(labels)}; remove the copies"
            )
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
        curvilinear |= not flat and any(ds[name].ndim >= 2 for name in options)
        # an axis proper (a dimension coordinate) goes before a mere label
        found += sorted(flat, key=lambda name: ds[name].dims != (name,))[:1]
    dims = ", ".join(str(dim) for dim in ds.dims) or "none"
    if curvilinear:
        raise EarthSSLError(
            f"{where}: expected a rectilinear latitude-longitude grid (1-D lat and lon), got latitude and longitude "
            f"that vary along both axes of it ({dims}); regrid first, for example with `cdo remapcon`"
        )
    if len(found) < 2 or ds[found[0]].dims == ds[found[1]].dims:
        raise EarthSSLError(
            f"{where}: not gridded data: expected the dimensions latitude and longitude, got ({dims}); "
            "give a file with fields on a latitude-longitude grid"
        )
    return found[0], found[1]


def _refuse_projection(ds: xr.Dataset, axes: tuple[Hashable, Hashable], where: str) -> None:
    """Refuse axes of a rotated pole or of a projection, by what they or the grid mapping of the fields say."""
    said = {str(ds[axis].attrs.get("standard_name", "")).strip().lower() for axis in axes}
    named = {
        str(var.attrs["grid_mapping"]).split(":")[0] for var in ds.data_vars.values() if "grid_mapping" in var.attrs
    }
    # a mapping that no field names is still the file's own word, unless the axes say that they are the true ones
    if not named and said != {"latitude", "longitude"}:
        named = {str(name) for name, var in ds.variables.items() if "grid_mapping_name" in var.attrs}
    for name in named:
        said.add(str(ds[name].attrs.get("grid_mapping_name", "")) if name in ds.variables else "")
    other = sorted(said - {"latitude", "longitude", "latitude_longitude", ""})
    if other:
        raise EarthSSLError(
            f"{where}: expected true latitude and longitude, got axes of {', '.join(other)}; regrid first, for example "
            "with `cdo remapcon,r360x180`"
        )


def _in_degrees(ds: xr.Dataset, name: Hashable, what: str, where: str) -> xr.Dataset:
    """Return the dataset with an axis in degrees north or east, by its units."""
    axis = ds[name]
    units = str(axis.attrs.get("units", "")).strip().lower()
    side = match[1] if (match := SIDE.fullmatch(units)) else ""
    if units in DEGREES or side == ("n" if what == "latitude" else "e"):
        values = np.asarray(axis.values)
        if not units and what == "longitude" and len(values) > 2 and values.dtype.kind == "f":
            circle = len(values) * float(np.median(np.abs(np.diff(values))))
            if abs(circle / (2 * np.pi) - 1) < 1e-3:
                raise EarthSSLError(
                    f"{where}: expected the axis '{name}' in degrees, got one round of {circle:.4g} without units, as "
                    "in radians; write its attribute units and that of latitude"
                )
        return ds
    if units in RADIANS:
        values = np.rad2deg(axis.values.astype(np.float64)).round(5 if axis.dtype.itemsize < 8 else 9)
    elif side == ("s" if what == "latitude" else "w"):
        values = -axis.values.astype(np.float64)
    else:
        raise EarthSSLError(
            f"{where}: expected the axis '{name}' to be {what} in degrees, got units '{axis.attrs['units']}'; regrid "
            f"first, or mend its attribute units"
        )
    units = "degrees_north" if what == "latitude" else "degrees_east"
    return ds.assign_coords({name: (axis.dims, values, {**axis.attrs, "units": units})})


def _refuse_counts(ds: xr.Dataset, axes: tuple[Hashable, Hashable], where: str) -> None:
    """Refuse axes that count rows and columns, both from 0 or both from 1, and say nothing else."""
    if any(ds[axis].attrs.get("units") or ds[axis].attrs.get("standard_name") for axis in axes):
        return
    for first in (0, 1):
        if all(np.array_equal(ds[axis].values, np.arange(first, first + ds[axis].size)) for axis in axes):
            raise EarthSSLError(
                f"{where}: expected latitudes and longitudes in degrees, got axes that count rows and columns from "
                f"{first}, without units; write the degrees, or, if these are, the attribute units of both"
            )


def _with_level(ds: xr.Dataset, where: str) -> xr.Dataset:
    name = next((name for name in _pressure_axes(ds) if ds[name].ndim <= 1), None)
    if ("level" in ds.dims or "level" in ds.coords) and name != "level":  # of another kind: never to be taken for hPa
        said = ds["level"].attrs if "level" in ds.coords else {}
        kind = said.get("units") or said.get("standard_name") or said.get("long_name") or "unknown units"
        ds = ds.rename(level=f"level in {kind}")
    if name is None:
        return ds
    axis = ds[name]
    values = np.atleast_1d(axis.values).astype(np.float64)
    pascal = _pascal(axis)
    if pascal is None:  # no units: nothing on Earth is above 1100 hPa, so larger numbers are pascal
        pascal = 1.0 if np.abs(values).max(initial=0) > 1100 else 100.0
    hpa = values * pascal / 100
    whole = np.isclose(hpa, np.round(hpa), atol=1e-3) & (np.round(hpa) > 0)
    if not whole.all():
        if not whole.any() or not axis.ndim or axis.dims[0] in ("time", "lat", "lon"):
            raise EarthSSLError(
                f"{where}: expected pressure levels in whole hPa, got {_listed(hpa)}; interpolate to such levels "
                f"first, for example with `cdo intlevel,{500 * 100 / pascal:g}`"
            )
        dropped = {LEFT_OUT: _listed(hpa[~whole])}
        ds = ds.isel({axis.dims[0]: np.flatnonzero(whole)})
        ds = ds.assign({n: v.assign_attrs(dropped) for n, v in ds.data_vars.items() if axis.dims[0] in v.dims})
        axis, hpa = ds[name], hpa[whole]
    if len(np.unique(np.round(hpa))) < len(hpa):
        raise EarthSSLError(f"{where}: expected every pressure level once, got {hpa.tolist()}; remove the copies")
    ds = rename_axis(ds, name, "level") if axis.ndim else ds.drop_vars([name])
    numbers, attrs = np.round(hpa).astype(np.int64), {"units": "hPa"}
    return ds.assign_coords(level=("level", numbers, attrs) if axis.ndim else ((), numbers[0], attrs))


def levels_left_out(ds: xr.Dataset, fields: Mapping[str, str]) -> list[str]:
    """Return a remark for each set of levels that is left out, by the first field from which it is.

    Args:
        ds: The file, its axes named canonically.
        fields: Names of its variables by the canonical name of what is taken from them.
    """
    first: dict[str, str] = {}
    for name, raw in fields.items():
        if LEFT_OUT in ds[raw].attrs:
            first.setdefault(str(ds[raw].attrs[LEFT_OUT]), name)
    return [f"{name}: levels that are not whole hPa are left out ({text} hPa)" for text, name in first.items()]


def _listed(numbers: np.ndarray) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _pascal(axis: xr.DataArray) -> float | None:
    """Return how many pascal the units of an axis are; None where they are none."""
    found = SPELLINGS["Pa"].get(" ".join(str(axis.attrs.get("units", "")).lower().split()))
    return None if found is None else found[0]


def _pressure_axes(ds: xr.Dataset) -> list[Hashable]:
    """Return the axes that are pressure: by CF name, by units, or by name where nothing else is said."""
    found = []
    for name in dict.fromkeys(_candidates(ds, LEVEL_NAMES, "air_pressure", "")):
        if (name not in ds.data_vars or name in ds.dims) and _is_pressure(ds[name], name in ds.coords):
            found.append(name)
    return sorted(found, key=lambda name: name not in ds.dims)


def _is_pressure(axis: xr.DataArray, labelled: bool) -> bool:
    said = str(axis.attrs.get("standard_name", "")).lower()
    if said and said != "air_pressure":
        return False
    if str(axis.attrs.get("units", "")).strip():
        return _pascal(axis) is not None
    if said:
        return True
    if not labelled or str(axis.name).lower() not in LEVEL_NAMES or axis.dtype.kind not in "iuf":
        return False
    values = np.atleast_1d(axis.values).astype(np.float64)
    ordered = np.sort(values)
    counted = any(np.array_equal(ordered, np.arange(first, first + len(values))) for first in (0, 1))
    usual = set(values if values.max(initial=0) <= max(STANDARD) else values / 100) <= STANDARD
    words = str(axis.attrs.get("long_name", "")).lower()
    return usual and not counted and not any(word in words for word in NO_PRESSURE)
