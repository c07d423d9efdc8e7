"""Nesting: a fine grid whose cells fill the cells of a coarse one, and the way from one to the other and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..common.errors import EarthSSLError
from .grid import LatLonGrid

NEAR = 0.02  # of a fine cell: by how much the edges of two grids may differ through rounding


@dataclass(frozen=True, eq=False)
class Nesting:
    """A fine grid inside a coarse one: every coarse cell is filled by the same number of fine ones.

    Attributes:
        fine: Cells of the fine grid that lie in the coarse one.
        coarse: The coarse grid.
        factor: Fine rows and columns in a coarse cell.
        first: Row and column of the grid that `fine` was cut out of at which it begins.
    """

    fine: LatLonGrid
    coarse: LatLonGrid
    factor: tuple[int, int]
    first: tuple[int, int]

    def cut(self, fields: np.ndarray) -> np.ndarray:
        """Return the fields (…, row, column) of the grid that `fine` was cut out of on `fine`."""
        rows, columns = (slice(at, at + size) for at, size in zip(self.first, self.fine.shape, strict=True))
        return fields[..., rows, columns]

    def means(self, fields: np.ndarray) -> np.ndarray:
        """Return area means over the coarse cells, (…, coarse row, coarse column), of fields (…, row, column)."""
        area = self.fine.area
        return np.asarray(self._sums(fields * area) / self._sums(area))

    def _sums(self, fields: np.ndarray) -> np.ndarray:
        (high, wide), (a, b) = self.coarse.shape, self.factor
        return np.asarray(fields.reshape(*fields.shape[:-2], high, a, wide, b).sum(axis=(-3, -1)))

    def repeated(self, fields: np.ndarray) -> np.ndarray:
        """Return coarse fields (…, coarse row, coarse column) with the value of its coarse cell at each fine one."""
        return np.repeat(np.repeat(fields, self.factor[0], axis=-2), self.factor[1], axis=-1)

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            _interpolation(-self.fine.lat, -self.coarse.lat, None),
            _interpolation(self.fine.lon, self.coarse.lon, 360.0 if self.coarse.periodic else None),
        )

    def bilinear(self, fields: np.ndarray) -> np.ndarray:
        """Return coarse fields (…, coarse row, coarse column) between their centres, (…, row, column).

        Beyond the outermost centres the nearest value holds; round the globe there are none along longitude. NaN where
        a value that is NaN would count.
        """
        down, across = self._weights
        gap = np.isnan(fields)
        told = down @ np.where(gap, 0, fields) @ across.T
        if not gap.any():
            return np.asarray(told)
        lost = (down > 0).astype(float) @ gap.astype(float) @ (across > 0).T.astype(float) > 0
        return np.where(lost, np.nan, told)


def nesting(fine: LatLonGrid, coarse: LatLonGrid, where: str) -> Nesting:
    """Return how a fine grid lies in a coarse one; fine cells beyond the coarse grid are cut off.

    Args:
        fine: Of the labels; may be the coarse grid itself.
        coarse: Of the store.
        where: File of the labels, for errors.

    Raises:
        EarthSSLError: If the fine cells do not cover the coarse ones, or do not fill each with as many whole cells.
    """
    rows = _edges(fine.lat_bounds, coarse.lat_bounds, "latitude", where)
    columns = _edges(fine.lon_bounds, coarse.lon_bounds, "longitude", where)
    factor = (_each(rows, "rows", where), _each(columns, "columns", where))
    own = LatLonGrid(fine.lat[rows[0] : rows[-1]], fine.lon[columns[0] : columns[-1]])
    return Nesting(own, coarse, factor, (int(rows[0]), int(columns[0])))


def _edges(fine: np.ndarray, coarse: np.ndarray, what: str, where: str) -> np.ndarray:
    """Return at which fine edge each coarse edge lies."""
    spacing = float(np.median(np.abs(np.diff(fine))))
    away = np.abs(fine[:, None] - coarse)
    off = away.min(axis=0)
    low, high = fine.min() - NEAR * spacing, fine.max() + NEAR * spacing
    outside = (coarse < low) | (coarse > high)
    if outside.any():
        raise EarthSSLError(
            f"{where}: expected labels that cover the store's cells, {coarse.min():g}° to {coarse.max():g}° of {what}, "
            f"got cells from {fine.min():g}° to {fine.max():g}°; prepare the store from a region within the labels'"
        )
    if off.max() > NEAR * spacing:
        k = int(off.argmax())
        between = np.sort(fine[np.argsort(away[:, k])[:2]])
        raise EarthSSLError(
            f"{where}: expected label cells that fill the store's cells, got one of {what} {between[0]:g}° to "
            f"{between[1]:g}° across the store's edge at {coarse[k]:g}°: the grids do not nest; prepare the store with "
            "option coarsen from the labels' own grid, or bring the labels to cells that divide the store's"
        )
    return np.asarray(away.argmin(axis=0))


def _each(edges: np.ndarray, what: str, where: str) -> int:
    counts = np.diff(edges)
    if counts.min() < 1 or (counts != counts[0]).any():
        raise EarthSSLError(
            f"{where}: expected as many {what} of labels in every cell of the store, at least one, got "
            f"{counts.min()} to {counts.max()}; prepare the store with option coarsen from the labels' own grid"
        )
    return int(counts[0])


def _interpolation(fine: np.ndarray, coarse: np.ndarray, period: float | None) -> np.ndarray:
    """Return the weights of linear interpolation, (fine, coarse)."""
    return np.stack([np.interp(fine, coarse, one, period=period) for one in np.eye(len(coarse))], axis=1)
