"""What a field of a file is: its name, held against all else that the file says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError
from ...fields.variables import VARIABLES, Variable, anomaly_name, convert, lookup, resolve

# Standard names that writers give a variable beside its own: ECMWF calls both sums and fluxes so, and at the surface
# of the sea the potential temperature is the temperature.
RAIN = "lwe_thickness_of_precipitation_amount"  # over whatever period
ALSO = {
    "ttr": {"toa_outgoing_longwave_flux"}, "sst": {"sea_water_potential_temperature"}, "tp6h": {RAIN}, "tp24h": {RAIN},
}  # fmt: skip
# Parts of a standard name that make another quantity of it, by what the name in the file means.
ANY = (
    "tendency_of", "soil_", "_error", "potential_temperature", "brightness_temperature", "wet_bulb", "convective",
    "absolute_vorticity",
)  # fmt: skip
WINDS = ("sea_water", "sea_ice", "speed", "direction", "gust", "stress", "upward_air_velocity")
SUMS = ("flux", "snowfall", "rate")
# A longer look at the long name: these words are never said of the quantity itself.
WORDS = re.compile(
    r"standard deviation|standard error|\berrors?\b|uncertaint|ensemble spread|\bbias\b(?! correct| adjust)|departure|"
    r"tendency|increment|climatolog|soil temperature|potential temperature|brightness temperature|wet bulb|"
    r"absolute vorticity|^(?!.*\b(?:total|large|stratiform)\b).*\bconvective\b"
)
# Said of a wind, but not of one component, unless that is said too.
SPEED = re.compile(r"\b(speed|gusts?|direction|stress)\b")
COMPONENT = re.compile(r"\b(u|v|x|y|zonal|meridional|eastward|northward)\b")
EXTREMES = re.compile(r"\b(maximum|minimum|max|min)\b")
# Of a field along any axis, and along time alone: the highest of an area or of an ensemble may be meant.
SPREADS = re.compile(r"\b\w+:\s*(?:\w+:\s*)*(?:standard_deviation|variance|range|mode)\b")
HIGHEST = re.compile(r"\btime:\s*(?:\w+:\s*)*(?:maximum|minimum)\b")
OF_SOURCE = ("tp", "ttr")  # sums over the period of the source
LAST = re.compile(r"\btime:\s*(?:\w+:\s*)*(\w+)")  # what is done to time last is what the field is
STEP_TYPES = {"max": "maximum", "min": "minimum", "sd": "standard deviation", "cov": "covariance", "diff": "difference"}
HEIGHTS = {"t2m": 2.0, "d2m": 2.0, "u10": 10.0, "v10": 10.0}  # m above the ground
NEAR_M = 15.0  # writers label all fields of a file with one height, 2 or 10 m
HEIGHT_AXES = ("height", "heightaboveground")


class ContradictionError(EarthSSLError):
    """A field whose name means one thing, `variable`, and whose attributes or axes say another."""

    def __init__(self, text: str, variable: Variable) -> None:
        super().__init__(text)
        self.variable = variable

    def __reduce__(self) -> tuple[type, tuple[str, Variable]]:
        """Keep the variable where workers hand the error on."""
        return type(self), (str(self), self.variable)


def meant(ds: xr.Dataset, raw: str, rename: Mapping[str, str]) -> Variable:
    """Return what a variable of a file is: by the option `rename`, or else by its name, attributes and axes.

    Args:
        ds: The file, its axes named canonically.
        raw: The variable's name in it.
        rename: The option: what it says is taken (`doubt` tells what speaks against it).

    Raises:
        ContradictionError: If its attributes or axes say that it is something else than its name.
        EarthSSLError: If it is no known variable.
    """
    if raw in rename:
        return lookup(rename[raw])
    variable = resolve(raw, ds[raw].attrs, on_levels="level" in ds[raw].dims)
    reason = _by_attributes(variable, ds[raw].attrs) or _by_axes(variable, ds, raw)
    if reason:
        raise ContradictionError(
            f"'{raw}' is '{variable.name}' by its name, but {reason}; leave it out (option variables), or say that it "
            f"is that all the same, as in rename: {{{raw}: {variable.name}}}",
            variable,
        )
    return variable


def doubt(ds: xr.Dataset, raw: str, variable: Variable) -> str:
    """Return what a file says against the name that the option `rename` gives one of its variables, "" for nothing.

    Args:
        ds: The file, its axes named canonically.
        raw: The variable's name in it.
        variable: What the option says that it is.
    """
    attrs = dict(ds[raw].attrs)
    if variable.kind == "anomaly":  # CF has no standard names of anomalies: theirs is that of the full field
        full = [row for row in VARIABLES.values() if anomaly_name(row.name) == variable.name]
        if attrs.get("standard_name") in [row.standard_name for row in full]:
            del attrs["standard_name"]
    reason = _by_attributes(variable, attrs) or _by_axes(variable, ds, raw)
    if reason:
        return reason
    try:
        own = resolve(raw)
    except EarthSSLError:
        return ""
    akin = own.base == variable.base or own.standard_name == variable.standard_name
    akin = akin or anomaly_name(own.name) == variable.name or own.standard_name in ALSO.get(variable.base, ())
    return "" if akin else f"its own name means {own.long_name} ('{own.name}')"


def likely(ds: xr.Dataset, raw: str) -> str:
    """Return the canonical name that an unknown name may mean: the nearest one, or else the first in its units; or "".

    Names on levels go first where the field has a level.
    """
    surface = [name for name, row in VARIABLES.items() if not row.on_levels]
    close = get_close_matches(raw.lower(), surface, n=3, cutoff=0.7)
    names, level = close, False
    if raw in ds.data_vars:
        level = "level" in ds[raw].coords
        aloft = [name for name in VARIABLES if name not in surface] if level else []
        names = [*([] if "level" in ds[raw].dims else close), *aloft, *close, "t2m", *VARIABLES]
    for name in dict.fromkeys(names):
        try:
            convert(0.0, VARIABLES[name], ds[raw].attrs.get("units"))
        except (EarthSSLError, KeyError):
            continue
        return f"{name}500" if VARIABLES[name].on_levels and not level else name
    return "" if raw in ds.data_vars and ds[raw].attrs.get("units") else close[0] if close else "t2m"


def _by_attributes(variable: Variable, attrs: Mapping[Any, Any]) -> str:
    """Return what attributes say against a field's name, "" where nothing."""
    said = _text(attrs, "standard_name").lower()
    if said and said != variable.standard_name and said not in ALSO.get(variable.base, ()):
        own, *modifiers = said.split()
        others = {row.name for row in VARIABLES.values() if row.standard_name == own}
        parts = ANY + (WINDS if variable.component or variable.base == "w" else ())
        parts += SUMS if variable.kind == "accumulation" else ()
        if modifiers or (others and variable.base not in others) or any(part in own for part in parts):
            return f"its standard_name is '{said}'"
    methods = re.sub(r"\([^)]*\)", "", _text(attrs, "cell_methods"))  # without comments
    if SPREADS.search(methods) or HIGHEST.search(methods):
        return f"its cell_methods are '{attrs['cell_methods']}'"
    other = "a mean of sums over another period" + (" (of a day: tp24h)" if variable.base == "tp" else "")
    if variable.base in OF_SOURCE and LAST.findall(methods)[-1:] == ["mean"]:
        return f"its cell_methods are '{attrs['cell_methods']}', {other}"
    step_type = _text(attrs, "GRIB_stepType")
    if variable.base in OF_SOURCE and step_type.startswith("avg"):
        return f"its step type is '{step_type}', {other}"
    if step_type in STEP_TYPES:
        return f"its step type is '{step_type}', a {STEP_TYPES[step_type]}"
    words = re.sub(r"[-_\s]+", " ", _text(attrs, "long_name").lower())
    found = WORDS.search(_own_words_aside(words, variable))
    found = found or (EXTREMES.search(words) if variable.kind == "state" else None)
    if variable.component and not COMPONENT.search(words):
        found = found or SPEED.search(words)
    if "anomal" in words and variable.kind != "anomaly":
        return f"its long_name is '{attrs['long_name']}', an anomaly"
    return f"its long_name is '{attrs['long_name']}'" if found else ""


def _own_words_aside(words: str, variable: Variable) -> str:
    """Return a long name without the words that another variable must not have, but this one has by right."""
    if variable.base == "w":  # the Lagrangian tendency of the pressure
        return words.replace("tendency", "")
    return words.replace("potential temperature", "") if variable.base == "sst" else words


def _by_axes(variable: Variable, ds: xr.Dataset, raw: str) -> str:
    """Return what a single level or height says against a field's name, "" where nothing."""
    data = ds[raw]
    stray = "level" not in data.dims and len(_levels_in_names(ds)) > 1  # a label that merging hung on all fields
    if variable.level is not None and "level" in data.coords and data["level"].size == 1 and not stray:
        level = int(data["level"].values.reshape(-1)[0])
        if level != variable.level:
            return f"its level is {level} hPa"
    expected = HEIGHTS.get(variable.name)
    for name, axis in data.coords.items():
        if expected is None or str(name).lower() not in HEIGHT_AXES or axis.size != 1 or axis.dtype.kind not in "iuf":
            continue
        height = float(np.asarray(axis.values).reshape(-1)[0])
        metres = axis.attrs.get("units", "m") in ("m", "metre", "meter", "meters", "metres")
        if metres and abs(height - expected) > NEAR_M:
            return f"its height is {height:g} m"
    return ""


def _levels_in_names(ds: xr.Dataset) -> set[int]:
    """Return the levels, hPa, that names of a file's fields hold."""
    found = set()
    for name in ds.data_vars:
        try:
            level = resolve(str(name)).level
        except EarthSSLError:
            continue
        found |= {level} if level is not None else set()
    return found


def _text(attrs: Mapping[Any, Any], key: str) -> str:
    value = attrs.get(key, "")
    return value.strip() if isinstance(value, str) else ""
