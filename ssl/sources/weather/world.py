"""Worlds: what a quasi-geostrophic atmosphere is driven and damped by. World 0 is the standard one, all others vary it.

Mountains and land are those of the synthetic planet's continents, so a map looks familiar; nothing else is the Earth's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...fields.grid import LatLonGrid
from ..planet.geography import Geography
from .sphere import Sphere

# name: height m, centre lat, lon, half-widths lat, lon in degrees
MOUNTAINS = {
    "Tibet": (4500.0, 34.0, 90.0, 9.0, 20.0),
    "Altai": (1800.0, 50.0, 95.0, 8.0, 18.0),
    "Rocky Mountains": (2400.0, 43.0, 249.0, 15.0, 11.0),
    "Alaska": (1400.0, 63.0, 215.0, 6.0, 18.0),
    "Greenland": (2800.0, 73.0, 319.0, 9.0, 14.0),
    "Scandinavia and Alps": (700.0, 54.0, 12.0, 12.0, 8.0),
    "Iran": (1500.0, 33.0, 54.0, 7.0, 12.0),
    "Ethiopia and southern Africa": (1300.0, -8.0, 32.0, 22.0, 10.0),
    "Andes": (3000.0, -24.0, 291.0, 20.0, 6.0),
    "Antarctica": (2800.0, -84.0, 80.0, 11.0, 90.0),
}


@dataclass(frozen=True)
class World:
    """Parameters of one world.

    Attributes:
        number: 0 is the standard world.
        shear: Westerly shear between 200 and 500 hPa that the northern and southern temperatures relax to, mean over
            the year, m s-1.
        lower_shear: That between 500 and 800 hPa, as a share of it.
        jet_lat: Latitudes of the strongest shear, degrees north.
        jet_width: e-folding half-width of the shear, degrees.
        winter: By how much the shear of each hemisphere is stronger in the middle of winter, as a share.
        wave: Strength of the stationary waves 1 and 2 in the temperature relaxed to, as westerly shear, m s-1.
        wave_lon: Longitudes of their warm crests, degrees east.
        relaxation: Time scale of the relaxation, days.
        drag: Time scale of Ekman friction at sea, days.
        land_drag: How many times stronger it is on land.
        diffusion: Time scale of the ∇⁸ diffusion at the largest total wavenumber, days.
        radii: Rossby radii of deformation between the levels, km.
        mountains: Factor on their heights.
        scale_height: H of the factor (1 + h/H) on the Coriolis parameter at 800 hPa, m.
    """

    number: int = 0
    shear: tuple[float, float] = (28.0, 26.0)
    lower_shear: float = 0.6
    jet_lat: tuple[float, float] = (30.0, -35.0)
    jet_width: float = 15.0
    winter: tuple[float, float] = (0.35, 0.20)
    wave: tuple[float, float] = (45.0, 45.0)
    wave_lon: tuple[float, float] = (315.0, 105.0)
    relaxation: float = 25.0
    drag: float = 3.0
    land_drag: float = 2.0
    diffusion: float = 2.0
    radii: tuple[float, float] = (700.0, 450.0)
    mountains: float = 1.0
    scale_height: float = 9000.0


def world(number: int) -> World:
    """Return a world of the family: 0 the standard one, every other the same with parameters drawn by its number.

    Shears ±12 %, their latitudes ±3°, widths ±10 %, seasons ±30 %, waves ±40 % with crests ±25°, relaxation ±20 %,
    drag ±20 %, radii ±6 %, mountains ±30 %: uniform within these.
    """
    standard = World()
    if number == 0:
        return standard
    rng = np.random.default_rng([number, 1993])

    def near(values: tuple[float, float], share: float) -> tuple[float, float]:
        first, second = np.asarray(values) * (1 + share * rng.uniform(-1, 1, 2))
        return float(first), float(second)

    def moved(values: tuple[float, float], by: float) -> tuple[float, float]:
        first, second = np.asarray(values) + by * rng.uniform(-1, 1, 2)
        return float(first), float(second)

    def scaled(value: float, share: float) -> float:
        return float(value * (1 + share * rng.uniform(-1, 1)))

    return replace(
        standard,
        number=number,
        shear=near(standard.shear, 0.12),
        lower_shear=scaled(standard.lower_shear, 0.1),
        jet_lat=moved(standard.jet_lat, 3.0),
        jet_width=scaled(standard.jet_width, 0.1),
        winter=near(standard.winter, 0.3),
        wave=near(standard.wave, 0.4),
        wave_lon=moved(standard.wave_lon, 25.0),
        relaxation=scaled(standard.relaxation, 0.2),
        drag=scaled(standard.drag, 0.2),
        radii=near(standard.radii, 0.06),
        mountains=scaled(standard.mountains, 0.3),
    )


def heights(sphere: Sphere) -> np.ndarray:
    """Return the mountains of the standard world, m, (row, column)."""
    lat, lon = sphere.lat[:, None], sphere.lon[None, :]
    total = np.zeros(sphere.shape)
    for top, at_lat, at_lon, tall, wide in MOUNTAINS.values():
        east = (lon - at_lon + 180) % 360 - 180
        total = np.maximum(total, top * np.exp(-(((lat - at_lat) / tall) ** 2) - (east / wide) ** 2))
    return total


def land(sphere: Sphere) -> np.ndarray:
    """Return True where there is land, (row, column)."""
    return Geography(LatLonGrid(sphere.lat, sphere.lon)).land


def relaxed_shear(sphere: Sphere, of: World, winter: float) -> np.ndarray:
    """Return the stream function difference between 200 and 500 hPa that temperatures relax to, coefficients.

    In m s-1 times the radius (component, n); `winter` is 1 in the middle of the northern winter, -1 in its summer.
    """
    sine, _ = sphere.nodes
    cosine = np.sqrt(1 - sine**2)
    wind = np.zeros(sphere.shape[0])
    for k, sign in ((0, 1), (1, -1)):
        strength = of.shear[k] * (1 + sign * of.winter[k] * winter)
        wind += strength * np.exp(-(((sphere.lat - of.jet_lat[k]) / of.jet_width) ** 2))
    # u cos(lat) = -(1 - s²) dψ/ds, so by parts the coefficients of ψ follow from the projection on the slopes of P
    n = np.arange(sphere.truncation + 1)
    norm = np.maximum(n * (n + 1.0), 1)
    zonal = np.zeros((len(sphere.order), len(n)))
    zonal[0] = -np.einsum("y,yn->n", sphere.nodes[1] * wind / cosine, sphere.legendre_slope[0]) / norm
    belt = np.exp(-(((sphere.lat - 52) / 18) ** 2))[:, None]
    wave = np.zeros(sphere.shape)
    for k, crest in enumerate(of.wave_lon):
        wave += of.wave[k] / (k + 1) * belt * np.cos((k + 1) * np.deg2rad(sphere.lon - crest))
    season = 0.7 + 0.3 * winter
    return zonal + season * sphere.analysis(wave)
