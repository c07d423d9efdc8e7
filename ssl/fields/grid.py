"""LatLonGrid: where the cells of a field lie on the sphere, and how much of it each one covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..common.errors import EarthSSLError

EDGE = 1e-9  # degrees: what rounding may put a centre beside the edge of a closed box


def cell_bounds(centres: np.ndarray) -> np.ndarray:
    """Return the n + 1 bounds of n cells: midpoints inside, half a spacing beyond the two ends."""
    if len(centres) < 2:
        raise EarthSSLError(f"a grid needs at least 2 cells along each axis, got {len(centres)}")
    middle = (centres[1:] + centres[:-1]) / 2
    first = centres[0] - (centres[1] - centres[0]) / 2
    last = centres[-1] + (centres[-1] - centres[-2]) / 2
    return np.concatenate([[first], middle, [last]])


@dataclass(frozen=True, eq=False)
class LatLonGrid:
    """Cell centres of a rectilinear grid: latitude north to south, longitude ascending in [0, 360).

    Attributes:
        lat: Cell centres, degrees north, strictly descending, shape (rows,).
        lon: Cell centres, degrees east, strictly ascending in [0, 360), shape (columns,).

    Raises:
        EarthSSLError: If the axes are not ordered so, or leave the sphere.
    """

    lat: np.ndarray
    lon: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "lat", np.asarray(self.lat, dtype=np.float64))
        object.__setattr__(self, "lon", np.asarray(self.lon, dtype=np.float64))
        if self.lat.ndim != 1 or self.lon.ndim != 1:
            raise EarthSSLError(
                f"expected one-dimensional lat and lon axes, got shapes {self.lat.shape} and {self.lon.shape}"
            )
        if not (np.diff(self.lat) < 0).all() or np.abs(self.lat).max() > 90:
            raise EarthSSLError(
                f"expected latitude strictly north to south within ±90°, got {self.lat[:3]} … {self.lat[-1]}"
            )
        if not (np.diff(self.lon) > 0).all() or self.lon[0] < 0 or self.lon[-1] >= 360:
            raise EarthSSLError(
                f"expected longitude strictly ascending in [0, 360), got {self.lon[:3]} … {self.lon[-1]}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (latitudes) and columns (longitudes)."""
        return len(self.lat), len(self.lon)

    @cached_property
    def lat_bounds(self) -> np.ndarray:
        """Edges of the rows, degrees north, descending, clipped at the poles, shape (rows + 1,)."""
        return np.clip(cell_bounds(self.lat), -90, 90)

    @cached_property
    def lon_bounds(self) -> np.ndarray:
        """Edges of the columns, degrees east, shape (columns + 1,)."""
        return cell_bounds(self.lon)

    @cached_property
    def area(self) -> np.ndarray:
        """Share of the sphere that each cell covers, shape (rows, columns); a whole globe sums to 1.

        From cell bounds, sin(north) - sin(south), so that a pole row keeps its cap
        (cos of latitude would give it nothing).
        """
        rows = -np.diff(np.sin(np.deg2rad(self.lat_bounds))) / 2
        columns = np.diff(self.lon_bounds) / 360
        return rows[:, None] * columns[None, :]

    @property
    def periodic(self) -> bool:
        """Whether the columns go once round the globe, so that the last borders on the first."""
        span = self.lon_bounds[-1] - self.lon_bounds[0]
        return bool(abs(span - 360) < 1e-3 * (self.lon[1] - self.lon[0]))

    def box(self, south: float, north: float, west: float, east: float) -> np.ndarray:
        """Return a (rows, columns) mask of the cells whose centres lie in the closed box, degrees.

        Longitudes are taken modulo 360, so that 350…10 and -10…10 are the same box across 0°E.

        Raises:
            EarthSSLError: If no cell centre lies in the box.
        """
        rows = (self.lat >= south) & (self.lat <= north)
        # Degrees east of the western edge: an eastward walk that crosses 0°E where it must.
        width = 360.0 if east - west >= 360 else (east - west) % 360
        columns = (self.lon - west + EDGE) % 360 <= width + 2 * EDGE
        inside = rows[:, None] & columns[None, :]
        if not inside.any():
            raise EarthSSLError(
                f"no cell of the grid ({self}) lies in the box {south}…{north}°N, {west}…{east}°E; "
                "choose data that cover it"
            )
        return inside

    def same_as(self, other: LatLonGrid) -> bool:
        """Whether both grids have the same cell centres to 1e-4 degrees."""
        return (
            self.shape == other.shape
            and bool(np.allclose(self.lat, other.lat, atol=1e-4))
            and bool(np.allclose(self.lon, other.lon, atol=1e-4))
        )

    def to_json(self) -> dict[str, Any]:
        """Return the grid as plain lists; `from_json` is the inverse."""
        return {"lat": self.lat.tolist(), "lon": self.lon.tolist()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> LatLonGrid:
        """Return the grid that `to_json` wrote."""
        return cls(np.array(record["lat"]), np.array(record["lon"]))

    def __str__(self) -> str:
        return (
            f"{self.shape[0]}×{self.shape[1]}, {self.lat[-1]:g}…{self.lat[0]:g}°N, {self.lon[0]:g}…{self.lon[-1]:g}°E"
        )
