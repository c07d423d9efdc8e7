"""What a file says of its values beside their names: units as text, limits, values that mean missing, experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

LIMITS = ("valid_range", "valid_min", "valid_max")
FLAGS = "flag_values"
UNMASKED = "values that mean missing"  # where the reader does not find them: the attribute is of another type
CONVERTED = "limited and converted"  # a file's values among those of files in other units
FINAL = ("1", "0001")  # ECMWF's experiment of final data; 5 is preliminary (ERA5T)


def understood(ds: xr.Dataset) -> xr.Dataset:
    """Return the dataset with units as text, and limits and flags in decoded values; nothing is read.

    CF and the NetCDF user guide: `valid_range`, `valid_min`, `valid_max` and `flag_values` of the type of packed
    data are packed too; any other type means decoded values.
    """
    ds = ds.copy(deep=False)
    for name, var in ds.variables.items():
        attrs = dict(var.attrs)
        if "units" in attrs:
            attrs["units"] = as_text(attrs["units"])
        for key in (*LIMITS, FLAGS):
            if key in attrs:
                found = _decoded(attrs.pop(key), var.encoding)
                if found is not None:
                    attrs[key] = found
        unmasked = _unmasked(var)
        if unmasked:
            attrs[UNMASKED] = unmasked
        if attrs.keys() != var.attrs.keys() or any(attrs[key] is not var.attrs[key] for key in attrs):
            ds[name].attrs = attrs
    return ds


def as_text(value: Any) -> str:
    """Return an attribute that should be text as text: bytes decoded, the number 1 as "1"."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.size == 1:
        only = array.reshape(-1)[0]
        if array.dtype.kind in "iuf":
            return f"{only:g}"
        return as_text(only) if isinstance(only, (bytes, str)) else str(only)
    return "; ".join(str(item) for item in array.reshape(-1)) or "an empty list"


def _unmasked(var: xr.Variable) -> list[float]:
    """Return values that mean missing and are left by a reader that compares them in double precision, or as text."""
    if var.dtype.kind != "f" or any(key in var.encoding for key in ("scale_factor", "add_offset")):
        return []
    found = []
    for key in ("missing_value", "_FillValue"):
        value = var.encoding.get(key, var.attrs.get(key))
        for number in [] if value is None else _decoded(value, {}) or []:
            rounded = var.dtype == np.float32 and float(np.float32(number)) != number
            if np.isfinite(number) and (rounded or isinstance(value, (str, bytes))):
                found.append(number)
    return found


def _decoded(value: Any, encoding: Mapping[str, Any]) -> list[float] | None:
    """Return numbers of an attribute as decoded values, or None where they are none."""
    try:
        raw = np.atleast_1d(np.asarray(value))
        numbers = raw.astype(np.float64)
    except (TypeError, ValueError):
        return None
    if raw.dtype.kind in "iu" and ("scale_factor" in encoding or "add_offset" in encoding):
        if str(encoding.get("_Unsigned", "")).lower() == "true":
            numbers = np.where(numbers < 0, numbers + 2 ** (8 * raw.dtype.itemsize), numbers)
        numbers = numbers * float(encoding.get("scale_factor", 1)) + float(encoding.get("add_offset", 0))
    return [float(number) for number in numbers]


def fills(var: xr.Variable) -> list[float]:
    """Return the numbers that mean missing by a variable's own attributes; none where it is packed."""
    if any(key in var.encoding for key in ("scale_factor", "add_offset")):
        return []  # those are numbers that no value is packed as
    given = [var.encoding.get(key, var.attrs.get(key)) for key in ("_FillValue", "missing_value")]
    numbers = [number for value in given if value is not None for number in _decoded(value, {}) or []]
    return [number for number in dict.fromkeys(numbers) if np.isfinite(number)]


def limited(data: xr.DataArray, missing: Sequence[float] = ()) -> xr.DataArray:
    """Return a field, in the file's units, without the values that its attributes or the option say are none.

    Those are values outside `valid_range`, `valid_min` and `valid_max`, values of `flag_values`, and `missing`.
    A limit holds to a part in a million: it was rounded as the values were.
    """
    attrs = dict(data.attrs)
    low, high = -np.inf, np.inf
    both = attrs.pop("valid_range", None)
    if both is not None and len(both) == 2:
        low, high = both
    low, high = max([low, *attrs.pop("valid_min", [])[:1]]), min([high, *attrs.pop("valid_max", [])[:1]])
    gone = [*attrs.pop(FLAGS, []), *attrs.pop(UNMASKED, []), *missing]
    if np.isfinite([low, high]).any() and low < high:
        slack = 1e-6 * max(abs(edge) for edge in (low, high) if np.isfinite(edge))
        data = data.where((data >= low - slack) & (data <= high + slack))
    for value in gone:
        data = data.where(abs(data - value) > 1e-6 * abs(value))
    return data.assign_attrs(attrs) if data.attrs == attrs else _with_attrs(data, attrs)


def _with_attrs(data: xr.DataArray, attrs: dict[Any, Any]) -> xr.DataArray:
    data = data.copy(deep=False)
    data.attrs = attrs
    return data


def has_limits(data: xr.DataArray) -> bool:
    """Whether the attributes of a field say that some of its values are none."""
    return any(key in data.attrs for key in (*LIMITS, FLAGS, UNMASKED))


def joined_experiments(ds: xr.Dataset) -> xr.Dataset:
    """Return final and preliminary data (dimension `expver`) as one: the final value where there is one."""
    if "expver" not in ds.dims:
        return ds
    labels = [as_text(label).strip() for label in ds["expver"].values] if "expver" in ds.coords else []
    order = sorted(range(ds.sizes["expver"]), key=lambda k: (bool(labels) and labels[k] not in FINAL, k))
    joined = ds.isel(expver=order[0], drop=True)
    for k in order[1:]:
        later = ds.isel(expver=k, drop=True)
        for name, var in joined.data_vars.items():
            if "expver" in ds[name].dims:
                joined[name] = var.fillna(later[name]).assign_attrs(var.attrs)
    return joined
