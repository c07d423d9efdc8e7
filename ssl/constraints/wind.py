"""WindHarmonics: winds on a global grid as rotation and divergence, by vector spherical harmonics.

A wind (u, v) is a sum of k × ∇Y (rotation) and ∇Y (divergence) over the spherical harmonics Y of `weather.sphere`, with
coefficients from inner products over the grid. They are exact up to the truncation: on N Gaussian latitudes N - 1, on N
others (evenly spaced, with the poles or without) half as many, by the rule that integrates polynomials through them.
What a field has beyond the truncation belongs to neither part.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..common.errors import EarthSSLError
from ..fields.grid import LatLonGrid
from ..sources.weather.sphere import circle_slopes, circles, legendre, legendre_slopes

RADIUS = 6_371_000.0  # m
MOST_ROWS = 361
POLE = 89.999  # rows at a pole are taken beside it, where east and north are
EXACT = 1e-9  # what rounding may leave of an integral that is 0
NEAR = 1e-2  # degrees by which latitudes may miss the Gaussian ones: files keep them in single precision, or 3 decimals


class WindHarmonics:
    """Rotation and divergence of winds on one grid.

    Attributes:
        truncation: Largest total wavenumber that it holds.
        weight: Of the rows, which sum to 1, float64 (row,).
    """

    def __init__(self, grid: LatLonGrid) -> None:
        """Prepare.

        Raises:
            EarthSSLError: If the grid is not global, is finer than half a degree, or has latitudes that no rule is
                exact on.
        """
        lat, columns = _snapped(np.clip(grid.lat, -POLE, POLE)), grid.shape[1]
        steps = np.diff(grid.lon)
        if not grid.periodic or not _reaches_poles(grid):
            raise _unfit(grid, "the whole globe", "a region")
        if not np.allclose(steps, steps[0], rtol=1e-4):
            raise _unfit(grid, "longitudes that are evenly spaced", "others")
        if len(lat) > MOST_ROWS:
            raise _unfit(grid, f"at most {MOST_ROWS} latitudes", f"{len(lat)}")
        sine = np.sin(np.deg2rad(lat))
        self.weight, exact = _quadrature(sine)
        if not (self.weight > 0).all():
            raise _unfit(grid, "Gaussian latitudes or evenly spaced ones", "others, on which no rule is exact")
        self.truncation = top = min(exact // 2, (columns - 1) // 2)
        values, order = legendre(top, sine), (np.arange(2 * top + 1) + 1) // 2
        cosine = np.cos(np.deg2rad(lat))[:, None]
        longitude = np.deg2rad(grid.lon)
        n = np.arange(top + 1)
        self._plain = {
            "east": (values[:, :, : top + 1] / cosine)[order],
            "north": (legendre_slopes(top, values) / cosine)[order],
            "circle": circles(longitude, top),
            "slope": circle_slopes(longitude, top),
            "weight": self.weight[:, None] / columns,
            "inverse": np.where(n > 0, 1 / np.maximum(n * (n + 1.0), 1), 0.0),
        }
        self._on: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def _like(self, x: Tensor) -> dict[str, Tensor]:
        """Return the matrices on the device and in the precision of x."""
        place = (x.device, x.dtype)
        if place not in self._on:
            self._on[place] = {name: torch.from_numpy(own).to(x) for name, own in self._plain.items()}
        return self._on[place]

    def divergence(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the coefficients of the divergence times the radius, with its sign changed, (…, component, n)."""
        m = self._like(u)
        along_u, along_v = u @ m["slope"], v @ m["circle"]
        return _inner(m["east"], along_u, m["weight"]) + _inner(m["north"], along_v, m["weight"])

    def vorticity(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the coefficients of the vorticity times the radius, with its sign changed, (…, component, n)."""
        m = self._like(u)
        along_u, along_v = u @ m["circle"], v @ m["slope"]
        return _inner(m["east"], along_v, m["weight"]) - _inner(m["north"], along_u, m["weight"])

    def divergent_energy(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the mean square of the divergent part of winds (…, row, column), (…,)."""
        return (self.divergence(u, v).square() * self._like(u)["inverse"]).sum((-1, -2))

    def root_mean_square_divergence(self, u: Tensor, v: Tensor) -> Tensor:
        """Return that of winds in m s-1, s-1, (…,)."""
        return self.divergence(u, v).square().sum((-1, -2)).sqrt() / RADIUS

    def without_divergence(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rotational part of winds (…, row, column): their projection onto zero divergence."""
        m = self._like(u)
        part = self.vorticity(u, v) * m["inverse"]
        rows_u = torch.einsum("kyn,...kn->...yk", m["north"], part)
        rows_v = torch.einsum("kyn,...kn->...yk", m["east"], part)
        return -rows_u @ m["circle"].T, rows_v @ m["slope"].T


def _inner(harmonics: Tensor, along: Tensor, weight: Tensor) -> Tensor:
    """Return inner products over the rows, (…, component, n), of harmonics (component, row, n)."""
    return torch.einsum("kyn,...yk->...kn", harmonics, along * weight)


def _reaches_poles(grid: LatLonGrid) -> bool:
    """Return whether the rows go on to both poles: the next one would lie on or beyond them."""
    step = -np.diff(grid.lat)
    return bool(grid.lat[0] + step[0] > 90 - 1e-6 and grid.lat[-1] - step[-1] < -90 + 1e-6)


def _snapped(lat: np.ndarray) -> np.ndarray:
    """Return Gaussian latitudes where these are such but for rounding; these otherwise."""
    if not 1 < len(lat) <= MOST_ROWS:
        return lat
    gaussian = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(len(lat))[0]))[::-1]
    return gaussian if np.abs(lat - gaussian).max() < NEAR else lat


def _quadrature(sine: np.ndarray) -> tuple[np.ndarray, int]:
    """Return weights of latitudes, which sum to 1, and the degree up to which they integrate polynomials exactly."""
    rows = len(sine)
    polynomials = np.polynomial.legendre.legvander(sine, 2 * rows - 2)  # (row, degree)
    weight = np.linalg.solve(polynomials[:, :rows].T, np.eye(rows)[0])
    left = np.abs(weight @ polynomials[:, rows:])
    return weight, 2 * rows - 2 if not left.size or left.max() < EXACT else rows - 1


def _unfit(grid: LatLonGrid, expected: str, got: str) -> EarthSSLError:
    return EarthSSLError(
        f"constraints, divergence: spherical harmonics need {expected}, got {got} ({grid}); leave it out, or prepare "
        "the store on such a grid"
    )


@lru_cache(maxsize=8)
def harmonics_of(lat: bytes, lon: bytes) -> WindHarmonics:
    """Return the harmonics of a grid, given its axes as bytes: made once."""
    return WindHarmonics(LatLonGrid(np.frombuffer(lat), np.frombuffer(lon)))
