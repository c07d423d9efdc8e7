"""Columns in the layout of RFMIP-IRF: sites × experiments, layers and the levels between them, fluxes or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError, in_a_line, nearest

MOST_LAYERS = 119
SURFACE_PRESSURE = 4e4, 1.1e5  # Pa, of places on Earth
SURFACE_AND_SUN = ("surface_emissivity", "surface_albedo", "solar_zenith_angle", "total_solar_irradiance")
GASES = ("carbon_dioxide_GM", "methane_GM", "nitrous_oxide_GM", "cfc11eq_GM", "cfc12eq_GM")
FLUXES = ("rld", "rlu", "rsd", "rsu")  # down, up; longwave, shortwave; W m-2
_OF_COLUMN = ("expt", "site")
LAYOUT: dict[str, tuple[str, ...]] = {
    "pres_layer": ("site", "layer"),
    "pres_level": ("site", "level"),
    "temp_layer": (*_OF_COLUMN, "layer"),
    "water_vapor": (*_OF_COLUMN, "layer"),
    "ozone": (*_OF_COLUMN, "layer"),
    "surface_temperature": _OF_COLUMN,
    **dict.fromkeys(SURFACE_AND_SUN, ("site",)),
    **dict.fromkeys(GASES, ("expt",)),
}
# What values can be: least, most, as what.
POSSIBLE = {
    "temp_layer": (120, 350, "in K"),
    "surface_temperature": (120, 350, "in K"),
    "water_vapor": (1e-12, 0.2, "as a mole fraction above 0"),
    "ozone": (1e-12, 0.2, "as a mole fraction above 0"),
    "surface_emissivity": (0.3, 1, "as a share of 1"),
    "surface_albedo": (0, 0.99, "as a share of 1, not all of it"),
    "solar_zenith_angle": (0, 180, "in degrees"),
    "total_solar_irradiance": (1000, 2000, "in W m-2"),
    "carbon_dioxide_GM": (1, 1e5, "in ppm, above 0"),
    **dict.fromkeys(("methane_GM", "nitrous_oxide_GM"), (0, 1e5, "in ppb")),
    **dict.fromkeys(("cfc11eq_GM", "cfc12eq_GM"), (0, 1e5, "in ppt")),
}
WITH_FLUXES = LAYOUT | dict.fromkeys(FLUXES, (*_OF_COLUMN, "level"))


def read_columns(files: Sequence[str], layout: Mapping[str, tuple[str, ...]] = LAYOUT) -> xr.Dataset:
    """Return the columns of RFMIP-IRF files, joined, dims as in `layout`, values read, layers from the top.

    Raises:
        EarthSSLError: If a file cannot be read, lacks a variable, a dimension or a value, names an experiment twice, or
            holds what no column of the Earth has (`POSSIBLE`).
    """
    parts = []
    for file in files:
        try:
            with xr.open_dataset(file) as opened:
                parts.append(opened.load())
        except (OSError, ValueError) as error:
            said = in_a_line(error, 120)
            raise EarthSSLError(
                f"columns: expected a NetCDF file of columns, got {str(file)!r}. It cannot be read ({said})."
            ) from None
    where = ", ".join(map(str, files))
    try:
        data = xr.merge(parts, compat="override", join="exact")
    except (ValueError, xr.MergeError) as error:
        said = in_a_line(error, 120)
        raise EarthSSLError(f"columns: expected files of the same columns, got {where} ({said})") from None
    for name, dims in layout.items():
        if name not in data or set(data[name].dims) != set(dims):
            got = f"dims {data[name].dims}" if name in data else "no such variable" + nearest(name, map(str, data))
            raise EarthSSLError(f"{where}: expected '{name}' ({', '.join(dims)}), as RFMIP-IRF has it, got {got}")
        data[name] = data[name].transpose(*dims).astype(np.float64)
        if not np.isfinite(data[name].values).all():
            raise EarthSSLError(f"{where}: expected a value in every '{name}', some are missing; leave those sites out")
    if "expt_label" not in data or data["expt_label"].dims != ("expt",):
        raise EarthSSLError(f"{where}: expected the names of the experiments, 'expt_label' (expt), got none; add them")
    names = labels_of(data)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EarthSSLError(
            f"{where}: expected every 'expt_label' once, got {', '.join(twice)} twice; name experiments apart"
        )
    level, layer = data["pres_level"].values, data["pres_layer"].values
    between = level.shape[1] == layer.shape[1] + 1 and (level[:, :-1] < layer).all() and (layer < level[:, 1:]).all()
    if not between or layer.shape[1] > MOST_LAYERS or level.min() < 0:
        raise EarthSSLError(
            f"{where}: expected at most {MOST_LAYERS} layers from the top down, each between its two levels, got "
            f"{layer.shape[1]} layers and {level.shape[1]} levels, pressure in another order; sort by pressure"
        )
    lowest, (least, most) = level[:, -1], SURFACE_PRESSURE
    if not least <= lowest.min() <= lowest.max() <= most:
        raise EarthSSLError(f"{where}: expected the lowest 'pres_level' within {least:g}…{most:g} Pa, got "
                            f"{lowest.min():g}…{lowest.max():g}; give pressures in Pa")  # fmt: skip
    for name, (least, most, words) in POSSIBLE.items():
        own = data[name].values
        if not least <= own.min() <= own.max() <= most:
            raise EarthSSLError(f"{where}: expected '{name}' within {least:g}…{most:g}, got {own.min():g}…"
                                f"{own.max():g}; give it {words}")  # fmt: skip
    zenith = data["solar_zenith_angle"]
    if str(zenith.attrs.get("units", "")).lower().startswith("rad") or zenith.values.max() <= np.pi:
        raise EarthSSLError(f"{where}: expected 'solar_zenith_angle' in degrees, got at most {zenith.values.max():g}, "
                            "which are radians; give it in degrees")  # fmt: skip
    return data


def labels_of(data: xr.Dataset) -> list[str]:
    """Return the names of the experiments."""
    return [one.decode() if isinstance(one, bytes) else str(one).strip() for one in data["expt_label"].values]
