"""Fine labels of a coarse store: fields that nest in its cells, static fields beside them, and their links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError, check_known, nearest
from ....ssl.fields.grid import LatLonGrid
from ....ssl.fields.nesting import Nesting, nesting
from ....ssl.fields.variables import lookup
from ....ssl.sources.axes import canonical_axes
from ....ssl.sources.canonical import reading, understanding
from ....ssl.sources.local_files import matched, open_files, open_netcdf
from ....ssl.sources.regrid import oriented
from ....ssl.store.store import Store

IDENTITY, LOG1P = "identity", "log1p"
LINKS = (IDENTITY, LOG1P)
TAKEN = ("rename", "units", "missing", "levels", "time", "every", "member")
EARTH_KM = 6371.0


@dataclass(frozen=True)
class Link:
    """What is learnt of a variable in place of its values.

    Attributes:
        kind: identity, or log1p: log(1 + value / scale), whose inverse is never negative.
        scale: In the variable's units.
    """

    kind: str
    scale: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return values linked."""
        return values if self.kind == IDENTITY else np.log1p(np.maximum(values, 0) / self.scale)

    def back(self, linked: np.ndarray) -> np.ndarray:
        """Return the values of linked ones."""
        return linked if self.kind == IDENTITY else self.scale * np.expm1(np.maximum(linked, 0))


@dataclass(frozen=True, eq=False)
class FineLabels:
    """Fields on a fine grid at steps of a store.

    Attributes:
        names, units: Of the variables; sums of rain in mm.
        factors: From a variable's canonical unit to `units`.
        steps: Of the store, ascending, (step,).
        values: float32 (step, variable, row, column) on `nest.fine`; 0 where never known.
        known: Cells with values, bool (row, column).
        nest: How the grid lies in the store's.
        static: Static fields by name, (row, column).
        said: What the reader must know.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    factors: tuple[float, ...]
    steps: np.ndarray
    values: np.ndarray
    known: np.ndarray
    nest: Nesting
    static: Mapping[str, np.ndarray] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def predictors(self) -> np.ndarray:
        """What static fields say of a cell, (row, column, value): 1, and of each the value, its departure from the
        coarse field, and its slopes to the east and the north, in deviations."""
        made = [np.ones(self.nest.fine.shape)]
        lat, lon = (np.deg2rad(one) * EARTH_KM for one in (self.nest.fine.lat, self.nest.fine.lon))
        for values in self.static.values():
            apart = values - self.nest.bilinear(self.nest.means(values))
            north, east = np.gradient(values, lat, lon)
            made += [values, apart, east / np.cos(lat / EARTH_KM)[:, None], north]
        found = np.stack(made, axis=-1)
        own = found[self.known]
        spread = own.std(axis=0)
        usable = spread > 1e-9 * np.abs(own).max(axis=0)
        found[..., usable] = (found[..., usable] - own[:, usable].mean(axis=0)) / spread[usable]
        return found


def read_fine(
    path: str | Sequence[str], options: Mapping[str, Any], names: Sequence[str], static: Sequence[str], store: Store
) -> FineLabels:
    """Return the labels in files whose cells fill those of a store.

    Args:
        path: NetCDF, GRIB or Zarr, as the source `files` takes it.
        options: Of the source `files`, those of `TAKEN`.
        names: Variables, canonical; the store holds them, too.
        static: Fields (lat, lon) of the first file.
        store: Coarse.

    Raises:
        EarthSSLError: If the files cannot be read, the grids do not nest, no time is the store's, or a cell has values
            at some times only.
    """
    where = "downscaling"
    check_known(f"{where}.options", list(options) or [TAKEN[0]], TAKEN)
    for name in names:
        if name not in store.variables:
            raise EarthSSLError(
                f"{where}.variables: expected variables of the store, {', '.join(store.variables)}, got '{name}'."
                + nearest(name, list(store.variables)) + " Prepare the store with it, as what is to be corrected"
            )  # fmt: skip
    try:
        data = open_files(path, variables=list(names), **options)
    except EarthSSLError as error:
        raise EarthSSLError(f"{where}.labels: {error}") from None
    file = matched(path)[0]
    grid = LatLonGrid(data["lat"].values, data["lon"].values)
    nest = nesting(grid, store.grid, str(file))
    times, own = data["time"].values.astype("datetime64[ns]"), store.times.astype("datetime64[ns]")
    there = np.isin(times, own)
    if not there.any():
        raise EarthSSLError(
            f"{file}: expected labels at times of the store ({own[0]} … {own[-1]}), got {times[0]} … {times[-1]} and "
            "none that coincides; prepare the store from the same times"
        )
    values = np.stack([nest.cut(data[name].values[there]) for name in names], axis=1).astype(np.float32)
    finite = np.isfinite(values)
    known = np.asarray(finite.all(axis=(0, 1)))
    some = np.asarray(finite.any(axis=(0, 1))) & ~known
    if some.any() or not known.any():
        row, column = np.argwhere(some)[0] if some.any() else (0, 0)
        raise EarthSSLError(
            f"{file}: expected cells with a value at every time, or at none, got {int(some.sum())} with gaps, the "
            f"first at {nest.fine.lat[row]:g}°, {nest.fine.lon[column]:g}°, and {int(known.sum())} without; fill "
            "the gaps, or leave the times out"
        )
    said = (
        [] if there.all() else [f"{int((~there).sum())} of {len(there)} labels lie at no time of the store: left out."]
    )
    if not known.all():
        said.append(f"{int((~known).sum())} of {known.size} cells never have a value: left out.")
    if nest.fine.shape != grid.shape:
        said.append(f"Labels beyond the store's cells are left out: {nest.fine.shape} of {grid.shape} cells stay.")
    sums = [lookup(name).kind == "accumulation" and lookup(name).units == "m" for name in names]
    units = tuple("mm" if one else lookup(name).units for one, name in zip(sums, names, strict=True))
    factors = tuple(1e3 if one else 1.0 for one in sums)
    values = values * np.asarray(factors, np.float32)[:, None, None]
    return FineLabels(
        tuple(names), units, factors, np.searchsorted(own, times[there]),
        np.where(known, np.nan_to_num(values), 0), known, nest,
        {name: _static(file, name, grid, nest, known) for name in static}, tuple(said),
    )  # fmt: skip


def _static(file: Any, name: str, grid: LatLonGrid, nest: Nesting, known: np.ndarray) -> np.ndarray:
    with open_netcdf(file) as data, understanding(str(file)), reading(str(file)):
        if name not in data.variables:
            found = [str(one) for one in data.data_vars]
            raise EarthSSLError(
                f"{file}: expected the static field '{name}', got {', '.join(found)}.{nearest(name, found)} Set "
                "downscaling.static"
            )
        alone = xr.Dataset({name: data[name].reset_coords(drop=True)})
        if alone[name].ndim != 2:
            dims = ", ".join(map(str, alone[name].dims))
            raise EarthSSLError(
                f"{file}: expected '{name}' with dimensions (lat, lon) alone, got ({dims}); name a field that "
                "does not change"
            )
        alone = alone.expand_dims(time=[np.datetime64("2000-01-01", "ns")])
        turned = oriented(canonical_axes(alone, str(file)), str(file))
        values = turned[name].transpose("time", "lat", "lon").values[0].astype(np.float64)
    if not LatLonGrid(turned["lat"].values, turned["lon"].values).same_as(grid):
        raise EarthSSLError(f"{file}: expected '{name}' on the grid of the labels, got another; bring it to that")
    values = nest.cut(values)
    if not np.isfinite(values[known]).all():
        lost = int((~np.isfinite(values[known])).sum())
        raise EarthSSLError(f"{file}: expected '{name}' in every cell with labels, got none in {lost}; fill them in")
    return np.where(known, np.nan_to_num(values), values[known].mean())
