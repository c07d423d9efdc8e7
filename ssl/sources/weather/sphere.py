"""Sphere: spherical harmonics of a triangular truncation on their Gaussian grid, as plain real matrices.

A field is a sum of P(n, m; sin lat) · {1, √2 cos(m lon), √2 sin(m lon)}, each of mean square 1 over the sphere, so the
mean square of a field is the sum of its squared coefficients. Coefficients stand in an array (component, n):
components are 1, cos 1, sin 1, cos 2, …, and entries with n < m are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIZES = {21: (32, 64), 42: (64, 128)}  # truncation -> rows and columns of the grid without aliasing in products of two


@dataclass(frozen=True)
class Sphere:
    """Spherical harmonics up to a total wavenumber, float64, on a sphere of radius 1.

    Attributes:
        truncation: Largest total wavenumber: 21 or 42.
    """

    truncation: int = 21

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the Gaussian grid."""
        return SIZES[self.truncation]

    @cached_property
    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Sine of latitude, north to south, and the weights of the rows, which sum to 1, each (rows,)."""
        sine, weight = np.polynomial.legendre.leggauss(self.shape[0])
        return sine[::-1], weight[::-1] / 2

    @property
    def lat(self) -> np.ndarray:
        """Latitudes, degrees north, descending, (rows,)."""
        return np.rad2deg(np.arcsin(self.nodes[0]))

    @property
    def lon(self) -> np.ndarray:
        """Longitudes, degrees east from 0, (columns,)."""
        return np.arange(self.shape[1]) * 360 / self.shape[1]

    @cached_property
    def order(self) -> np.ndarray:
        """Zonal wavenumber m of each component, (2 truncation + 1,)."""
        return (np.arange(2 * self.truncation + 1) + 1) // 2

    @cached_property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Component and n of every coefficient that is not zero by definition, each ((truncation + 1)²,)."""
        rows, columns = np.nonzero(np.arange(self.truncation + 1) >= self.order[:, None])
        return rows, columns

    @cached_property
    def legendre(self) -> np.ndarray:
        """P at the rows, (component, row, n)."""
        return legendre(self.truncation, self.nodes[0])[self.order, :, : self.truncation + 1]

    @cached_property
    def legendre_slope(self) -> np.ndarray:
        """(1 - s²) dP/ds at the rows, s the sine of latitude, (component, row, n)."""
        return legendre_slopes(self.truncation, legendre(self.truncation, self.nodes[0]))[self.order]

    @cached_property
    def fourier(self) -> np.ndarray:
        """1, √2 cos and √2 sin at the columns, (column, component)."""
        return circles(np.deg2rad(self.lon), self.truncation)

    @cached_property
    def fourier_slope(self) -> np.ndarray:
        """Their derivatives by longitude, (column, component)."""
        return circle_slopes(np.deg2rad(self.lon), self.truncation)

    def synthesis(self, coefficients: np.ndarray, *, east: bool = False, north: bool = False) -> np.ndarray:
        """Return the field (…, row, column) of coefficients (…, component, n).

        `east` gives its derivative by longitude, `north` (1 - s²) times that by the sine of latitude s.
        """
        rows = np.einsum(
            "kyn,...kn->...yk", self.legendre_slope if north else self.legendre, coefficients, optimize=True
        )
        return np.asarray(rows @ (self.fourier_slope if east else self.fourier).T)

    def analysis(self, field: np.ndarray) -> np.ndarray:
        """Return the coefficients (…, component, n) of a field (…, row, column)."""
        along = field @ self.fourier / self.shape[1]
        weighted = self.legendre * self.nodes[1][:, None]
        return np.asarray(np.einsum("kyn,...yk->...kn", weighted, along, optimize=True))

    def packed(self, coefficients: np.ndarray) -> np.ndarray:
        """Return coefficients (…, component, n) without those that are always zero, (…, known)."""
        return coefficients[(..., *self.known)]

    def unpacked(self, packed: np.ndarray) -> np.ndarray:
        """Return the coefficients (…, component, n) of packed ones (…, known)."""
        full = np.zeros((*packed.shape[:-1], 2 * self.truncation + 1, self.truncation + 1), packed.dtype)
        full[(..., *self.known)] = packed
        return full


def coupling(n: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Return ε with s P(n) = ε(n + 1) P(n + 1) + ε(n) P(n - 1), s the sine of latitude; 0 for n ≤ m."""
    inside = np.maximum(n**2 - m**2, 0) / np.maximum(4.0 * n**2 - 1, 1)
    return np.asarray(np.sqrt(inside) * (n > m))


def legendre(truncation: int, sine: np.ndarray) -> np.ndarray:
    """Return P(n, m) of mean square 1, positive at m = n, (m, place, n), n one beyond the truncation."""
    top = truncation + 1
    values = np.zeros((truncation + 1, len(sine), top + 1))
    highest = np.ones(len(sine))
    for m in range(truncation + 1):
        if m:
            highest = highest * np.sqrt((2 * m + 1) / (2 * m) * (1 - sine**2))
        values[m, :, m] = highest
        for n in range(m + 1, top + 1):
            low, high = (float(coupling(np.array(k), np.array(m))) for k in (n - 1, n))
            values[m, :, n] = (sine * values[m, :, n - 1] - low * (values[m, :, n - 2] if n > 1 else 0)) / high
    return values


def legendre_slopes(truncation: int, values: np.ndarray) -> np.ndarray:
    """Return (1 - s²) dP/ds of what `legendre` gave, s the sine of latitude, (m, place, n), n up to the truncation."""
    n, m = np.arange(truncation + 1), np.arange(truncation + 1)[:, None]
    lower = np.pad(values[:, :, :truncation], ((0, 0), (0, 0), (1, 0)))
    slope = ((n + 1) * coupling(n, m))[:, None] * lower - (n * coupling(n + 1, m))[:, None] * values[:, :, 1:]
    return np.asarray(slope * (n >= m)[:, None])


def circles(longitude: np.ndarray, truncation: int) -> np.ndarray:
    """Return 1, √2 cos, √2 sin, … at longitudes (place,), radians, (place, component)."""
    angle = longitude[:, None] * np.arange(1, truncation + 1)
    pairs = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], -1).reshape(len(longitude), -1)
    return np.hstack([np.ones((len(longitude), 1)), pairs])


def circle_slopes(longitude: np.ndarray, truncation: int) -> np.ndarray:
    """Return the derivatives of `circles` by longitude, (place, component)."""
    m = np.arange(1, truncation + 1)
    angle = longitude[:, None] * m
    pairs = np.sqrt(2) * np.stack([-m * np.sin(angle), m * np.cos(angle)], -1).reshape(len(longitude), -1)
    return np.hstack([np.zeros((len(longitude), 1)), pairs])
