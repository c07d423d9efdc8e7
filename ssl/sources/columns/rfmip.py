"""Columns in the layout of RFMIP-IRF: sites × experiments, layers and the levels between them, fluxes or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ...common.errors import EarthSSLError, nearest

MOST_LAYERS = 119
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
WITH_FLUXES = LAYOUT | dict.fromkeys(FLUXES, (*_OF_COLUMN, "level"))


def read_columns(files: Sequence[str], layout: Mapping[str, tuple[str, ...]] = LAYOUT) -> xr.Dataset:
    """Return the columns of RFMIP-IRF files, joined, dims as in `layout`, values read, layers from the top.

    Raises:
        EarthSSLError: If a file cannot be read, or lacks a variable, a dimension or a value.
    """
    parts = []
    for file in files:
        try:
            with xr.open_dataset(file) as opened:
                parts.append(opened.load())
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:120]
            raise EarthSSLError(
                f"columns: expected a NetCDF file of columns, got {str(file)!r}. It cannot be read ({said})."
            ) from None
    where = ", ".join(map(str, files))
    try:
        data = xr.merge(parts, compat="override", join="exact")
    except (ValueError, xr.MergeError) as error:
        said = " ".join(str(error).split())[:120]
        raise EarthSSLError(f"columns: expected files of the same columns, got {where} ({said})") from None
    for name, dims in layout.items():
        if name not in data or set(data[name].dims) != set(dims):
            got = f"dims {data[name].dims}" if name in data else "no such variable" + nearest(name, map(str, data))
            raise EarthSSLError(f"{where}: expected '{name}' ({', '.join(dims)}), as RFMIP-IRF has it, got {got}")
        data[name] = data[name].transpose(*dims).astype(np.float64)
        if not np.isfinite(data[name].values).all():
            raise EarthSSLError(f"{where}: expected a value in every '{name}', some are missing; leave those sites out")
    if "expt_label" not in data:
        raise EarthSSLError(f"{where}: expected the names of the experiments, 'expt_label' (expt), got none; add them")
    level, layer = data["pres_level"].values, data["pres_layer"].values
    between = level.shape[1] == layer.shape[1] + 1 and (level[:, :-1] < layer).all() and (layer < level[:, 1:]).all()
    if not between or layer.shape[1] > MOST_LAYERS or level.min() < 0:
        raise EarthSSLError(
            f"{where}: expected at most {MOST_LAYERS} layers from the top down, each between its two levels, got "
            f"{layer.shape[1]} layers and {level.shape[1]} levels, pressure in another order; sort by pressure"
        )
    for name in ("temp_layer", "surface_temperature"):
        if not 120 < data[name].values.min() <= data[name].values.max() < 350:
            raise EarthSSLError(f"{where}: expected '{name}' within 120…350 K, got others; give it in K")
    for name in ("water_vapor", "ozone"):
        if not 0 < data[name].values.min() <= data[name].values.max() < 0.2:
            raise EarthSSLError(f"{where}: expected '{name}' as a mole fraction above 0, below 0.2, got others")
    return data


def labels_of(data: xr.Dataset) -> list[str]:
    """Return the names of the experiments."""
    return [one.decode() if isinstance(one, bytes) else str(one).strip() for one in data["expt_label"].values]
