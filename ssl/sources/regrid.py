"""Turn the horizontal axes the canonical way round, cut regions, and average cells."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError
from ..common.files import read_json
from ..fields.grid import LatLonGrid

# Axes stored as float32 carry noise in the sixth decimal; rounding makes them equal to those in float64.
DECIMALS = {2: 2, 4: 5, 8: 9}
FURTHEST = 1080.0  # degrees: beyond it stand fill values
NEAR = 0.05  # of the usual distance: nearer rows or columns are copies
SAME = 1e-4  # of the distance of two columns: nearer ones are one
LEAST_VALID = 0.5  # share of a coarse cell's area that must hold values
LEAST_COVERED = 0.5  # share of a coarse row or column that the source must reach over
SLACK = 0.02  # by how much cells may be larger than those they are brought to: Gaussian rows are not evenly spaced


def oriented(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return the dataset with latitude descending and longitude ascending in [0, 360), float64.

    Raises:
        EarthSSLError: If an axis leaves the sphere or repeats itself, or if the longitudes leave a gap, as
            a region across 0°E does: cells along a gap would be given its whole width.
    """
    lat, given = _clean(ds["lat"].values), _clean(ds["lon"].values)
    if min(len(lat), len(given)) < 2:
        raise EarthSSLError(
            f"{where}: expected a grid of at least 2×2 cells, got {len(lat)}×{len(given)}; "
            "series at a point are not gridded data"
        )
    if not (np.isfinite(lat).all() and np.isfinite(given).all() and np.abs(lat).max() <= 90) or (
        np.abs(given).max() > FURTHEST
    ):
        raise EarthSSLError(f"{where}: expected latitudes within ±90° and longitudes in degrees, got {lat}, {given}")
    lon = _turned(given)
    rows = np.argsort(-lat, kind="stable")
    _, columns = np.unique(lon, return_index=True)  # sorted; a cyclic column only once
    if len(np.unique(lat)) < len(lat) or len(columns) < len(lon) - 1:
        raise EarthSSLError(f"{where}: expected every latitude and longitude once, some are there several times")
    if len(columns) < len(lon) and lon[0] != lon[-1]:  # no cyclic column, which is the first one again
        raise EarthSSLError(f"{where}: expected every longitude once, some are there twice; remove the copies")
    _refuse_near(lat[rows], "latitude", where)
    _refuse_near(np.append(lon[columns], lon[columns][0] + 360), "longitude", where)
    _refuse_gap(lon[columns], where)
    if not (rows == np.arange(len(lat))).all():
        ds = ds.isel(lat=slice(None, None, -1) if (np.diff(rows) == -1).all() else rows)
    if not np.array_equal(columns, np.arange(len(lon))):
        ds = ds.isel(lon=columns)
    return ds.assign_coords(
        lat=("lat", lat[rows], {"units": "degrees_north", "standard_name": "latitude"}),
        lon=("lon", lon[columns], {"units": "degrees_east", "standard_name": "longitude"}),
    )


def _clean(axis: np.ndarray) -> np.ndarray:
    if axis.dtype.kind != "f":
        return axis.astype(np.float64)
    return np.round(axis.astype(np.float64), DECIMALS.get(axis.dtype.itemsize, 9)) + 0.0  # -0.0 becomes 0.0


def _turned(lon: np.ndarray) -> np.ndarray:
    """Return longitudes in [0, 360); one that differs from another, or from 0, by rounding alone is the same."""
    turned = lon % 360
    order = np.argsort(turned, kind="stable")
    near = SAME * (np.median(np.diff(turned[order])) if len(lon) > 2 else 1.0)
    turned[360 - turned <= near] = 0.0
    order = np.argsort(turned, kind="stable")
    for k, before in zip(order[1:], order[:-1], strict=True):
        if 0 < turned[k] - turned[before] <= near:
            turned[k] = turned[before]
    return np.asarray(turned)


def _refuse_near(axis: np.ndarray, what: str, where: str) -> None:
    """Refuse rows or columns that nearly lie on each other: copies, which would weigh as cells of their own."""
    gaps = np.abs(np.diff(axis))
    least = int(gaps.argmin())
    if len(gaps) > 1 and gaps[least] < NEAR * np.median(gaps):
        raise EarthSSLError(
            f"{where}: expected every {what} once, got {axis[least]:.10g}° and {axis[least + 1]:.10g}° where most are "
            f"{np.median(gaps):g}° apart; remove one of them"
        )


def _refuse_gap(lon: np.ndarray, where: str) -> None:
    gaps = np.diff(lon)
    widest = int(gaps.argmax())
    if len(lon) > 2 and gaps[widest] > 2 * np.median(gaps):
        raise EarthSSLError(
            f"{where}: expected longitudes without a gap in 0…360°E, got none between {lon[widest]:g}°E and "
            f"{lon[widest + 1]:g}°E; take a region that does not cross 0°E, or the whole globe"
        )


def region_of(ds: xr.Dataset, region: tuple[float, float, float, float] | None, where: str) -> xr.Dataset:
    """Return the cells whose centres lie in (south, north, west, east), degrees, borders included.

    Raises:
        EarthSSLError: If there are fewer than 2×2, or if the box crosses 0°E (see `oriented`).
    """
    if region is None:
        return ds
    south, north, west, east = region
    lat, lon = ds["lat"].values, ds["lon"].values
    rows = (lat >= south) & (lat <= north)
    columns = np.ones(len(lon), bool)
    if east - west < 360:
        if west < 0 < east:
            raise EarthSSLError(
                f"option region: expected a box that does not cross 0°E, got {west:g}…{east:g}°E; "
                "take the boxes on either side apart, or all longitudes (0…360)"
            )
        shift = 360 if west < 0 else 0
        columns = (lon >= west + shift) & (lon <= east + shift)
    if rows.sum() < 2 or columns.sum() < 2:
        raise EarthSSLError(
            f"{where}: expected at least 2×2 cells in the region {south:g}…{north:g}°N, {west:g}…{east:g}°E, got "
            f"{rows.sum()}×{columns.sum()}; the data cover {LatLonGrid(lat, lon)}"
        )
    return ds.isel(lat=_span(rows), lon=_span(columns))


def _span(mask: np.ndarray) -> slice:
    inside = np.flatnonzero(mask)
    return slice(int(inside[0]), int(inside[-1]) + 1)


def coarsened(ds: xr.Dataset, cells: int, where: str, least_valid: float = LEAST_VALID) -> xr.Dataset:
    """Return means over blocks of `cells` × `cells`, weighted by area, over valid cells only.

    A coarse cell of which less than `least_valid` of the area is valid is missing. Rows left over at the southern end
    (the last pole row of a grid such as 721 × 1440) are left out; columns must divide evenly.

    Raises:
        EarthSSLError: If the columns do not divide evenly, or less than 2×2 cells would be left.
    """
    if cells == 1:
        return ds
    grid = LatLonGrid(ds["lat"].values, ds["lon"].values)
    rows, columns = grid.shape[0] // cells, grid.shape[1] // cells
    if grid.shape[1] % cells or min(rows, columns) < 2:
        raise EarthSSLError(
            f"{where}: option coarsen: {cells} does not fit the grid {grid}; it must divide the "
            f"{grid.shape[1]} columns and leave at least 2×2 cells"
        )
    ds = ds.isel(lat=slice(0, rows * cells))
    area = xr.DataArray(grid.area[: rows * cells].astype(np.float32), dims=("lat", "lon"))
    blocks = {"lat": cells, "lon": cells}
    total = area.coarsen(blocks).sum()
    arrays = {}
    for name, data in ds.data_vars.items():
        data = data.drop_vars(["lat", "lon"])
        valid = (area * data.notnull()).coarsen(blocks).sum()
        mean = (area * data.fillna(0)).coarsen(blocks).sum() / valid.where(valid > 0)
        mean = mean.where(valid >= least_valid * total * (1 - 1e-6)).astype(np.float32)
        arrays[name] = mean.transpose("time", "lat", "lon").assign_attrs(data.attrs)
    coords = {axis: (axis, ds[axis].values.reshape(-1, cells).mean(1), ds[axis].attrs) for axis in ("lat", "lon")}
    return xr.Dataset(arrays, {"time": ds["time"], **coords})


def regridded(ds: xr.Dataset, degrees: float | None, where: str, least_valid: float = LEAST_VALID) -> xr.Dataset:
    """Return means over cells of so many degrees, weighted by the area they share with each valid source cell.

    The new cells have their edges at multiples of `degrees`. Rows and columns of which the source covers less
    than half are left out; a cell of whose covered area less than `least_valid` is valid is missing.

    Raises:
        EarthSSLError: If the new cells are not larger than the source's, or less than 2×2 would be left.
    """
    if degrees is None:
        return ds
    grid = LatLonGrid(ds["lat"].values, ds["lon"].values)
    spacing = max(np.abs(np.diff(grid.lat)).max(), np.diff(grid.lon).max())
    if degrees <= spacing:
        raise EarthSSLError(
            f"{where}: option resolution: expected cells larger than the source's {spacing:g}°, got {degrees:g}°; "
            "it averages and cannot refine: leave it out"
        )
    lat_edges = np.linspace(90, -90, round(180 / degrees) + 1)
    lon_edges = np.linspace(0, 360, round(360 / degrees) + 1)

    rows = _shared(_height(lat_edges), _height(grid.lat_bounds))
    columns = _columns_shared(lon_edges, grid.lon_bounds)
    tall = rows.sum(1) >= LEAST_COVERED * np.diff(_height(lat_edges))
    wide = columns.sum(1) >= LEAST_COVERED * np.diff(lon_edges)
    if min(tall.sum(), wide.sum()) < 2:
        raise EarthSSLError(f"{where}: option resolution: {degrees:g}° leaves less than 2×2 cells of {grid}; lower it")
    lat, lon = (lat_edges[1:] + lat_edges[:-1])[tall] / 2, (lon_edges[1:] + lon_edges[:-1])[wide] / 2
    rows, columns = rows[tall], columns[wide]
    return _means(ds, (rows, columns), rows.sum(1)[:, None] * columns.sum(1), (lat, lon), least_valid)


def onto(
    ds: xr.Dataset,
    grid: LatLonGrid,
    where: str,
    least_valid: float = LEAST_VALID,
    needed: np.ndarray | None = None,
    of: str = "the checkpoint",
) -> tuple[xr.Dataset, str]:
    """Return canonical data on another grid, and in words what was done; lazy data stay lazy.

    A cell is the mean of the cells it shares an area with, weighted by that area, between cell bounds on the sphere
    (first-order conservative); of whose own area less than `least_valid` holds values, it is missing. Data on the grid
    already are returned as they are, and cells that the data have among others are taken as they are.

    Args:
        ds: Canonical: (time, lat, lon), north to south, eastward.
        grid: To bring them to.
        where: What the data are called.
        least_valid: Share of a cell's area.
        needed: Cells that matter (row, column); None for all. Data need not reach to rows and columns without any.
        of: Whose grid it is.

    Returns:
        The data on the grid; "" where they were on it already.

    Raises:
        EarthSSLError: If the cells of the data are larger than those of the grid, do not cover what is needed, or are
            fewer than 2×2; if `least_valid` is no share.
    """
    if isinstance(least_valid, bool) or not isinstance(least_valid, Real) or not 0 < least_valid <= 1:
        raise EarthSSLError(f"least_valid: expected a share in (0, 1], got {least_valid!r}")
    own = LatLonGrid(ds["lat"].values, ds["lon"].values)
    if own.same_as(grid):
        return ds, ""
    if min(own.shape) < 2:
        raise EarthSSLError(
            f"{where}: expected fields of at least 2×2 cells, whose size can be told, got "
            f"{own.shape[0]}×{own.shape[1]}; take more rows and columns, or those of {of} as they are"
        )
    _refuse_coarser(own, grid, where, of)
    rows = _shared(_height(grid.lat_bounds), _height(own.lat_bounds))
    columns = _columns_shared(grid.lon_bounds, own.lon_bounds)
    height, width = np.diff(_height(grid.lat_bounds)), np.diff(grid.lon_bounds)
    _refuse_uncovered(own, grid, (rows.sum(1) / height, columns.sum(1) / width), needed, where, of)
    taken = _same_cells(own.lat_bounds, grid.lat_bounds), _same_cells(own.lon_bounds, grid.lon_bounds)
    if taken[0] is not None and taken[1] is not None:
        made = ds.isel(lat=taken[0], lon=taken[1])
        axes = {name: (name, getattr(grid, name), ds[name].attrs) for name in ("lat", "lon")}
        return made.assign_coords(axes), f"the cells of {of}, {grid}, were taken out of {own}"
    made = _means(ds, (rows, columns), height[:, None] * width, (grid.lat, grid.lon), least_valid)
    return made, (
        f"brought from {own} ({_size(own)}) to the grid of {of}, {grid} ({_size(grid)}): means weighted by the area "
        f"shared; cells with values on less than {100 * least_valid:g} % of their area are missing"
    )


def grid_of(path: str) -> LatLonGrid:
    """Return the grid of a checkpoint, a run or a store on this machine, or of a JSON file that has one.

    Raises:
        EarthSSLError: If there is none.
    """
    folder = Path(path).expanduser()
    files = [folder, folder / "record.json", folder / "checkpoint" / "record.json", folder / "manifest.json"]
    file = next((one for one in files if one.is_file()), None)
    if file is None:
        raise EarthSSLError(
            f"option grid: expected the folder of a checkpoint, a run or a store, found none at {path}; bring one here "
            "with `earthssl pull ADDRESS --out FOLDER`"
        )
    whole = read_json(file, "a file with a grid")
    found = whole.get("grid") if isinstance(whole, dict) else None
    if not isinstance(found, dict) or not all(_is_axis(found.get(name)) for name in ("lat", "lon")):
        raise EarthSSLError(
            f"option grid: expected {file} to hold `grid` with `lat` and `lon`, lists of at least two degrees each, "
            "found none; name another"
        )
    return LatLonGrid.from_json(found)


def _is_axis(values: Any) -> bool:
    if not isinstance(values, list) or len(values) < 2:
        return False
    return all(isinstance(value, int | float) and abs(value) <= FURTHEST for value in values)


def _refuse_coarser(own: LatLonGrid, grid: LatLonGrid, where: str, of: str) -> None:
    if all(a <= (1 + SLACK) * b for a, b in zip(_spacing(own), _spacing(grid), strict=True)):
        return
    raise EarthSSLError(
        f"{where}: expected cells no larger than those of {of} ({_size(grid)}), got {_size(own)} ({own}); means cannot "
        f"bring back what larger cells have lost, nor does interpolating: take the data on a finer grid, or a "
        f"checkpoint pretrained on one as coarse (`earthssl list` names grids)"
    )


def _refuse_uncovered(
    own: LatLonGrid,
    grid: LatLonGrid,
    shares: tuple[np.ndarray, np.ndarray],
    needed: np.ndarray | None,
    where: str,
    of: str,
) -> None:
    """Refuse data that reach over less than half of a row or column that matters; shares: of each row, each column."""
    needed = np.ones(grid.shape, bool) if needed is None else needed
    said = []
    for axis, (name, share) in enumerate(zip(("latitude", "longitude"), shares, strict=True)):
        lacking = needed.any(1 - axis) & (share < LEAST_COVERED - 1e-9)
        if lacking.any():
            places = (grid.lat, grid.lon)[axis][lacking]
            said.append(f"{len(places)} of {len(share)} {name}s ({places.min():g}…{places.max():g}°)")
    if said:
        raise EarthSSLError(
            f"{where}: expected fields that cover the region of {of}, {grid}, got {own}, which leaves out "
            f"{' and '.join(said)}; take data of all of it, or a checkpoint of a smaller region"
        )


def _spacing(grid: LatLonGrid) -> tuple[float, float]:
    """Return the widest distance of two rows and of two columns, degrees."""
    return float(np.abs(np.diff(grid.lat)).max()), float(np.diff(grid.lon).max())


def _size(grid: LatLonGrid) -> str:
    return "×".join(f"{size:.4g}°" for size in _spacing(grid))


def _same_cells(bounds: np.ndarray, wanted: np.ndarray) -> slice | None:
    """Return where the wanted cells lie among others that have the same bounds, or None where they are others."""
    first = int(np.abs(bounds - wanted[0]).argmin())
    found = bounds[first : first + len(wanted)]
    close = 1e-4 * np.abs(np.diff(wanted)).min()
    if len(found) < len(wanted) or not np.allclose(found, wanted, rtol=0, atol=close):
        return None
    return slice(first, first + len(wanted) - 1)


def _means(
    ds: xr.Dataset,
    weights: tuple[np.ndarray, np.ndarray],
    total: np.ndarray,
    axes: tuple[np.ndarray, np.ndarray],
    least_valid: float,
) -> xr.Dataset:
    """Return means over new cells, missing where values lie on less than a share of the cell.

    Args:
        ds: Canonical.
        weights: What each new row shares with each old one, (new, old), and the same of columns.
        total: What a new cell would share were all valid, (row, column).
        axes: Latitudes and longitudes of the new cells.
        least_valid: The share.
    """
    down, along = xr.DataArray(weights[0], dims=("row", "lat")), xr.DataArray(weights[1], dims=("column", "lon"))
    whole = xr.DataArray(total, dims=("row", "column"))
    arrays = {}
    for name, data in ds.data_vars.items():
        data = data.drop_vars(["lat", "lon"])
        # One axis after the other: all at once is a sum over every pair of cells.
        valid = xr.dot(xr.dot(data.notnull().astype(np.float64), along, dim="lon"), down, dim="lat")
        mean = xr.dot(xr.dot(data.fillna(0).astype(np.float64), along, dim="lon"), down, dim="lat")
        mean = mean / valid.where(valid > 0)
        mean = mean.where(valid >= least_valid * whole * (1 - 1e-6)).rename(row="lat", column="lon")
        arrays[name] = mean.transpose("time", "lat", "lon").astype(np.float32).assign_attrs(data.attrs)
    coords = {name: (name, axis, ds[name].attrs) for name, axis in zip(("lat", "lon"), axes, strict=True)}
    return xr.Dataset(arrays, {"time": ds["time"], **coords}, ds.attrs)


def _height(bounds: np.ndarray) -> np.ndarray:
    """Return how far south of the equator's plane bounds lie, as a share of the radius: differences are areas."""
    return np.asarray(-np.sin(np.deg2rad(bounds)))


def _columns_shared(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return what columns share, degrees, (new, old): a cell may reach across 0°E from either side."""
    return np.asarray(np.sum([_shared(new, old + turn) for turn in (-360, 0, 360)], axis=0))


def _shared(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return the length that each new interval shares with each old one, edges ascending, shape (new, old)."""
    low, high = np.maximum(new[:-1, None], old[None, :-1]), np.minimum(new[1:, None], old[None, 1:])
    return np.clip(high - low, 0, None)
