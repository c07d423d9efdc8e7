"""Winds on the sphere: solid rotation has no divergence, gradients no rotation, and the projection is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.constraints.wind import RADIUS, WindHarmonics
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources.weather.sphere import Sphere

COLUMNS = np.arange(64) * 5.625
GRIDS = {
    "gaussian": LatLonGrid(Sphere(21).lat, Sphere(21).lon),
    "even": LatLonGrid(np.linspace(87.1875, -87.1875, 32), COLUMNS),
    "with poles": LatLonGrid(np.linspace(90, -90, 37), COLUMNS),
}
HARMONICS = {name: WindHarmonics(grid) for name, grid in GRIDS.items()}
# What float64 leaves; at 89.999° a cosine has lost half its digits.
ROUNDING = {"gaussian": 1e-12, "even": 1e-12, "with poles": 1e-8}
named = pytest.mark.parametrize("name", GRIDS)


def axes(grid: LatLonGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes (row, 1) and longitudes (1, column), radians."""
    return np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)[None]


def noise(grid: LatLonGrid, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two winds that are white noise."""
    made = torch.randn(2, 3, *grid.shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return made[0], made[1]


@named
def test_a_solid_rotation_about_any_axis_is_left_as_it_is(name: str) -> None:
    """About the axis of the Earth, and about one through the equator: u = sin φ cos λ, v = -sin λ."""
    lat, lon = axes(GRIDS[name])
    for u, v in ((np.cos(lat) + 0 * lon, 0 * lat * lon), (np.sin(lat) * np.cos(lon), -np.sin(lon) + 0 * lat)):
        made = HARMONICS[name].without_divergence(torch.from_numpy(20 * u), torch.from_numpy(20 * v))
        off = max(float((a - torch.from_numpy(20 * b)).abs().max()) for a, b in zip(made, (u, v), strict=True))
        assert off < (1e-3 if name == "with poles" else 1e-11)  # a row at 90° is taken at 89.999°
        assert HARMONICS[name].root_mean_square_divergence(*made) * RADIUS < 20 * ROUNDING[name]


@named
def test_a_gradient_is_projected_to_nothing(name: str) -> None:
    """Of χ = cos² φ sin φ cos 2λ, whose divergence is ∇²χ = -12 χ."""
    lat, lon = axes(GRIDS[name])
    u = -2 * np.cos(lat) * np.sin(lat) * np.sin(2 * lon)
    v = (np.cos(lat) ** 3 - 2 * np.cos(lat) * np.sin(lat) ** 2) * np.cos(2 * lon)
    wind = torch.from_numpy(u), torch.from_numpy(v)
    assert max(float(one.abs().max()) for one in HARMONICS[name].without_divergence(*wind)) < ROUNDING[name]
    # mean of χ² over the sphere: ∫ (1-s²)² s² ds / 2 · ½ = (8/105) / 2
    expected = 12 * (8 / 105 / 2) ** 0.5 / RADIUS
    found = float(HARMONICS[name].root_mean_square_divergence(*wind))
    assert found == pytest.approx(expected, rel=1e-6)
    # the divergent part is all of it: mean square of ∇χ is 12 times that of χ
    assert float(HARMONICS[name].divergent_energy(*wind)) == pytest.approx(12 * 8 / 105 / 2, rel=1e-6)


@named
def test_the_projection_is_one(name: str) -> None:
    """Twice is once; what is left has no divergence; what is taken off is orthogonal to what is left."""
    wind, other = noise(GRIDS[name]), noise(GRIDS[name], 1)
    harmonics, weight = HARMONICS[name], torch.from_numpy(HARMONICS[name].weight)[:, None]
    once = harmonics.without_divergence(*wind)
    twice = harmonics.without_divergence(*once)
    assert max(float((a - b).abs().max()) for a, b in zip(once, twice, strict=True)) < ROUNDING[name] * 10
    assert float(harmonics.root_mean_square_divergence(*once).max()) * RADIUS < ROUNDING[name] * 10

    def product(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> float:
        return float(sum((weight * x * y).sum() for x, y in zip(a, b, strict=True)))

    # symmetric in the product by area, as orthogonal projections are
    image = harmonics.without_divergence(*other)
    assert product(once, other) == pytest.approx(product(wind, image), rel=1e-9)


@pytest.mark.parametrize("wavenumber", [1, 3])
def test_finite_differences_find_no_divergence_either(wavenumber: int) -> None:
    """Of smooth winds on a fine grid: the flux through the walls of each cell over its area, against that before."""
    grid = LatLonGrid(np.linspace(89, -89, 90), np.arange(180) * 2.0)
    harmonics = WindHarmonics(grid)
    lat, lon = axes(grid)
    u = np.cos(lat) ** 2 * np.sin(wavenumber * lon) + 0.5 * np.cos(lat) * np.sin(2 * lat)
    v = np.cos(lat) ** 2 * np.cos(wavenumber * lon) * (1 + np.sin(lat))

    def divergence(u: np.ndarray, v: np.ndarray) -> float:
        inner = np.cos((lat[1:] + lat[:-1]) / 2)
        step = np.deg2rad(2.0)
        east = (np.roll(u, -1, 1) - np.roll(u, 1, 1)) / (2 * step)
        through = (v[1:] + v[:-1]) / 2 * inner
        rows = slice(10, 80)  # away from the poles, where meridians meet
        along = (through[:-1] - through[1:])[9:79] / step
        return float(np.sqrt(np.mean(((east[rows] + along) / np.cos(lat)[rows]) ** 2)))

    made = harmonics.without_divergence(torch.from_numpy(u), torch.from_numpy(v))
    assert divergence(made[0].numpy(), made[1].numpy()) < 1e-3 * divergence(u, v)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_single_precision_has_a_stated_tolerance(dtype: torch.dtype, rounding: float) -> None:
    """Winds of 1 m/s on the Gaussian grid: 2e-5 m/s between once and twice in single precision."""
    once = HARMONICS["gaussian"].without_divergence(*noise(GRIDS["gaussian"], dtype=dtype))
    twice = HARMONICS["gaussian"].without_divergence(*once)
    assert once[0].dtype == dtype
    assert max(float((a - b).abs().max()) for a, b in zip(once, twice, strict=True)) < rounding


@pytest.mark.parametrize("rows", [32, 96])
@pytest.mark.parametrize("kept", ["exact", "single precision", "3 decimals"])
def test_rounded_gaussian_latitudes_keep_the_truncation(rows: int, kept: str) -> None:
    """As files hold them; evenly spaced ones are not taken for them."""
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))[::-1]
    lat = {"exact": lat, "single precision": lat.astype("f4").astype(float), "3 decimals": lat.round(3)}[kept]
    lon = np.arange(2 * rows) * 180 / rows
    found = WindHarmonics(LatLonGrid(lat, lon))
    assert found.truncation == rows - 1
    np.testing.assert_allclose(found.weight, np.polynomial.legendre.leggauss(rows)[1] / 2, atol=1e-9)
    even = LatLonGrid(np.linspace(90 - 90 / rows, 90 / rows - 90, rows), lon)
    assert WindHarmonics(even).truncation == (rows - 1) // 2


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        (LatLonGrid(np.linspace(60, 20, 9), COLUMNS), "the whole globe"),
        (LatLonGrid(GRIDS["even"].lat, np.arange(30) * 5.625), "the whole globe"),
        (LatLonGrid(np.linspace(89.8, -89.8, 400), COLUMNS), "at most 361 latitudes"),
        (LatLonGrid(np.array([85.0, 60, 59, 58, 57, 10, 5, 0, -5, -10, -11, -12, -60, -85]), COLUMNS), "Gaussian"),
    ],
)
def test_grids_on_which_it_does_not_hold_are_refused(grid: LatLonGrid, why: str) -> None:
    with pytest.raises(EarthSSLError, match=f"spherical harmonics need {why}"):
        WindHarmonics(grid)
