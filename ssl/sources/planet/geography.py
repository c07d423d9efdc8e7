"""Geography: where the synthetic planet has land, its mean climate, and the shape of every response.

Each field of the planet is linear in a few dozen hidden columns: field(t) = Σ column(t) × pattern. This
file makes the patterns. They are functions of latitude and longitude alone, so every resolution sees the
same planet, and they do not depend on the seed: two seeds are two histories of one planet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...fields.grid import LatLonGrid

RADIUS = 6.371e6  # m
ROTATION = 7.292e-5  # rad s-1
DENSITY = 1.2  # kg m-3, of surface air
FREEZING = 271.35  # K, of sea water

CLIMATE = ("one", "year_cos", "year_sin", "half_cos", "half_sin", "trend")
# of the oscillator: T, h, the wind noise, T² - s², and T as it was some months before
RESPONSES = ("t_e", "h_w", "wind", "t_squared", "t_lagged")
OCEAN_MODES = 48
AIR_MODES = 64

# centre lon, centre lat, half-width lon, half-width lat, tilt (degrees of lat per degree of lon)
CONTINENTS = (
    (17.0, 14.0, 31.0, 22.0, 0.0),  # west and north of the first continent
    (28.0, -12.0, 15.0, 24.0, 0.1),  # its southern half, across the equator
    (75.0, 52.0, 75.0, 23.0, 0.0),  # the large northern one
    (80.0, 22.0, 9.0, 16.0, -0.2),  # a peninsula
    (112.0, 30.0, 14.0, 20.0, 0.0),
    (109.0, -1.0, 12.0, 7.0, 0.1),  # the islands between the two warm oceans
    (134.0, -25.0, 20.0, 12.0, 0.1),
    (258.0, 51.0, 42.0, 20.0, -0.1),
    (262.0, 27.0, 14.0, 14.0, -0.7),
    (299.0, -9.0, 17.0, 19.0, -0.3),  # across the equator, from 283 E
    (294.0, -36.0, 8.0, 21.0, 0.0),
    (319.0, 74.0, 19.0, 11.0, 0.0),
)
POLAR_COAST = -72.0


@dataclass(frozen=True)
class Wave:
    """One westward-travelling planetary wave: a damped oscillation driven by noise.

    Attributes:
        number: Zonal wavenumber.
        lat: Latitude of the crest, degrees north.
        period: Days from crest to crest at one place.
        memory: e-folding time of the amplitude, days.
        amplitude: Standard deviation of the pressure at the crest, Pa.
    """

    number: int
    lat: float
    period: float
    memory: float
    amplitude: float


# Long Rossby waves beat the westerlies to the west: free ones in weeks, near-stationary ones in months.
WAVES = tuple(
    Wave(number, lat, period, memory, amplitude)
    for lat in (52.0, -50.0)
    for number, period, memory, amplitude in (
        (1, 23.0, 20.0, 250.0),
        (2, 16.0, 15.0, 250.0),
        (2, 190.0, 150.0, 260.0),
        (3, 160.0, 120.0, 260.0),
        (4, 140.0, 90.0, 200.0),
    )
)
COLUMNS = (
    *CLIMATE,
    *RESPONSES,
    *(f"wave_{part}_{k}" for part in ("re", "im") for k in range(len(WAVES))),
    *(f"ocean_{k}" for k in range(OCEAN_MODES)),
    *(f"air_{k}" for k in range(AIR_MODES)),
)


@dataclass(frozen=True)
class Geography:
    """The planet's fixed patterns on one grid.

    Attributes:
        grid: Where to evaluate them.
    """

    grid: LatLonGrid

    @cached_property
    def _lat(self) -> np.ndarray:
        return np.broadcast_to(self.grid.lat[:, None], self.grid.shape)

    @cached_property
    def _lon(self) -> np.ndarray:
        return np.broadcast_to(self.grid.lon[None, :], self.grid.shape)

    @cached_property
    def land(self) -> np.ndarray:
        """True on land, shape (rows, columns)."""
        return (self._inland > np.exp(-1)) | (self._lat < POLAR_COAST)

    @cached_property
    def _inland(self) -> np.ndarray:
        """From 1 in the middle of a continent through e⁻¹ at its coast to 0 far out at sea."""
        best = np.zeros(self.grid.shape)
        for lon, lat, wide, high, tilt in CONTINENTS:
            east = _degrees_east(self._lon, lon)
            distance = (east / wide) ** 2 + ((self._lat - lat - tilt * east) / high) ** 2
            best = np.maximum(best, np.exp(-distance))
        return best

    @cached_property
    def _cold_tongue(self) -> np.ndarray:
        return self._bump(-1, 262, 6, 32) + 0.4 * self._bump(-15, 278, 9, 12)

    @cached_property
    def _mean_sst(self) -> np.ndarray:
        water = 273.15 + 30.2 * np.exp(-((np.abs(self._lat) / 46) ** 2.6)) - 2.2
        return np.maximum(water - 3.2 * self._cold_tongue + self._bump(3, 150, 14, 30), FREEZING + 0.3)

    @cached_property
    def _open_water(self) -> np.ndarray:
        """From 0 where the sea stays frozen to 1 where it never freezes: scales every change of SST."""
        return np.clip((self._mean_sst - FREEZING - 0.3) / 6, 0, 1)

    def patterns(self) -> dict[str, np.ndarray]:
        """Return for each variable its patterns, shape (columns, rows, columns of the grid), float64.

        The first axis follows COLUMNS. Units: K, m s-1 and Pa per unit of the column. `sst` has values
        on land too; the caller takes them out.
        """
        sst, t2m, u10, v10, msl = (np.zeros((len(COLUMNS), *self.grid.shape)) for _ in range(5))
        for part in (self._climate, self._responses, self._waves, self._noise):
            part(sst, t2m, u10, v10, msl)
        u_wind, v_wind = self.geostrophic(msl)
        u10 += u_wind
        v10 += v_wind
        # southerlies bring warmth to the north and cold to the south, on land most
        weather = slice(len(CLIMATE), None)
        advected = 0.6 * np.sign(self._lat) * np.where(self.land, 1.0, 0.25) * v_wind
        t2m[weather] += advected[weather]
        t2m[weather] += 0.9 * np.where(self.land, 0.0, 1.0) * sst[weather]
        return {"sst": sst, "t2m": t2m, "u10": u10, "v10": v10, "msl": msl}

    def geostrophic(self, msl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return u = -1/(ρ f) ∂p/∂y and v = 1/(ρ f) ∂p/∂x of pressure (…, rows, columns), m s-1.

        Centred differences on the grid, round the globe; faded out within about 20° of the equator,
        where pressure does not set the wind.
        """
        south_north = np.gradient(msl, np.deg2rad(self.grid.lat) * RADIUS, axis=-2)
        spacing = np.deg2rad(360 / self.grid.shape[1]) * RADIUS * np.cos(np.deg2rad(self._lat))
        west_east = (np.roll(msl, -1, axis=-1) - np.roll(msl, 1, axis=-1)) / (2 * spacing)
        coriolis = 2 * ROTATION * np.sin(np.deg2rad(self._lat))
        balance = self._balanced / (DENSITY * np.where(coriolis == 0, 1, coriolis))
        return -balance * south_north, balance * west_east

    @property
    def _balanced(self) -> np.ndarray:
        """How far the wind follows from the pressure: 0 at the equator, 1 (to 1e-7) from 30° on."""
        return 1 - np.exp(-((self._lat / 15) ** 4))

    def _bump(self, lat: float, lon: float, south_north: float, west_east: float) -> np.ndarray:
        """A Gaussian hill of height 1, widths in degrees."""
        return _bump(self._lat, self._lon, lat, lon, south_north, west_east)

    def _climate(self, sst: np.ndarray, t2m: np.ndarray, u10: np.ndarray, v10: np.ndarray, msl: np.ndarray) -> None:
        """The mean, the seasonal cycle and the trend."""
        lat, land, north = self._lat, self.land, np.sin(np.deg2rad(self._lat))
        open_water, tongue = self._open_water, self._cold_tongue
        sst[0] = self._mean_sst
        _season(sst, 4.2 * np.sin(np.deg2rad(np.abs(lat) * 1.9)) * np.sign(lat) * open_water, 0.64)
        _season(sst, 1.3 * tongue, 0.25)
        t2m[:5] = sst[:5]
        t2m[0] += -1.0 - 18 * (1 - open_water) * np.abs(north) ** 4
        _season(t2m, 9.0 * np.sign(lat) * (1 - open_water) * np.abs(north), 0.56)
        ground = np.zeros_like(t2m[:5])
        ground[0] = 300 - 46 * np.abs(north) ** 3 - 18 * (lat < POLAR_COAST)
        _season(ground, (2 + 17 * np.abs(north) * (0.5 + self._inland)) * np.sign(lat), 0.56)
        t2m[:5] = np.where(land, ground, t2m[:5])
        # equatorial rains come twice a year
        t2m[3] = np.where(land, 0.8 * np.exp(-((lat / 12) ** 2)), 0.0)
        t2m[CLIMATE.index("trend")] = np.where(land, 1.5, 1.0) * (1 + 0.8 * np.clip(north, 0, 1) ** 4)
        sst[CLIMATE.index("trend")] = 0.9 * np.maximum(open_water, 0.1)
        highs, lows = np.exp(-(((np.abs(lat) - 32) / 12) ** 2)), np.exp(-(((np.abs(lat) - 62) / 13) ** 2))
        msl[0] = 101200 + 750 * highs - np.where(lat > 0, 500, 1600) * lows * (1 - 0.6 * self._inland)
        msl[0] += 150 * self._bump(-15, 255, 15, 30) - 150 * self._bump(0, 130, 15, 30)
        _season(msl, -900 * np.sign(lat) * self._inland * np.abs(north), 0.54)
        easterly = np.exp(-(((np.abs(lat) - 9) / 9) ** 2)) + 0.35 * np.exp(-((lat / 6) ** 2))
        u10[0] = -5.5 * easterly * np.where(land, 0.4, 1.0) * (1 + 0.3 * self._bump(0, 220, 20, 40))
        v10[0] = -2.5 * (lat - 5) / 12 * np.exp(0.5 - ((lat - 5) / 12) ** 2 / 2) * np.where(land, 0.5, 1.0)
        _season(v10, 1.6 * np.exp(-((lat / 14) ** 2)), 0.58)

    def _responses(self, sst: np.ndarray, t2m: np.ndarray, u10: np.ndarray, v10: np.ndarray, msl: np.ndarray) -> None:
        """What the hidden ENSO does to each field, column by column, near at hand and far away."""
        warm, heat, burst, strong, late = (COLUMNS.index(name) for name in RESPONSES)
        bump, lat = self._bump, self._lat
        sst[warm] = _tongue(lat, self._lon) / _tongue_in_nino34()
        sst[warm] -= 0.28 * (bump(19, 158, 8, 20) + bump(-19, 168, 8, 22) + 0.6 * bump(2, 138, 6, 9))
        # strong El Niño lies to the east, weak El Niño and La Niña at the date line: the two flavours
        sst[strong] = 0.16 * (bump(-2, 268, 6, 15) - 0.8 * bump(0, 187, 6, 15))
        sst[heat] = 0.15 * bump(4, 152, 9, 15) + 0.08 * bump(0, 172, 5, 14)
        sst[late] = 0.30 * bump(-4, 70, 13, 20) - 0.42 * bump(40, 188, 9, 22) + 0.32 * bump(50, 222, 8, 11)
        sst[late] += 0.28 * bump(15, 312, 8, 20) + 0.25 * bump(-9, 279, 6, 7) - 0.25 * bump(-42, 215, 9, 22)
        sst[[warm, strong, heat, late]] *= self._open_water
        t2m[warm] = np.where(self.land, 0.35 * (bump(-22, 30, 10, 18) + bump(-3, 300, 12, 12)), 0)
        t2m[late] = np.where(self.land, 0.25 * np.exp(-((lat / 22) ** 2)) + 0.6 * bump(56, 250, 9, 20), 0)
        msl[warm] = -95 * bump(-9, 238, 16, 32) + 105 * bump(-5, 122, 17, 28) + 35 * bump(-5, 60, 17, 30)
        msl[warm] -= 110 * bump(46, 200, 12, 24)
        msl[late] = -190 * bump(47, 208, 12, 24) + 120 * bump(52, 250, 11, 16) + 90 * bump(-62, 245, 10, 25)
        msl[heat] = -75 * bump(8, 145, 13, 24)
        msl[burst] = 25 * bump(-4, 130, 12, 16)
        u10[warm] = 1.25 * bump(-1, 190, 6, 24) - 0.45 * bump(0, 265, 7, 14) - 0.35 * bump(0, 80, 7, 18)
        v10[warm] = -0.55 * (lat / 8) * bump(0, 205, 9, 30)
        # a recharged ocean is the trace of wind curl off the equator: trades weak at 12 N, strong at it
        u10[heat] = 0.9 * (bump(12, 155, 4, 20) - bump(1, 150, 5, 18))
        u10[burst] = 1.1 * bump(1, 160, 5, 17)
        v10[burst] = -0.35 * (lat / 6) * bump(0, 160, 7, 18)

    def _waves(self, sst: np.ndarray, t2m: np.ndarray, u10: np.ndarray, v10: np.ndarray, msl: np.ndarray) -> None:
        """Re(z e^{ikλ}) of every wave; z turns as e^{+iωt}, so that the phase goes west."""
        first = COLUMNS.index("wave_re_0")
        for count, wave in enumerate(WAVES):
            phase = wave.number * np.deg2rad(self._lon) + np.deg2rad(1.5) * wave.number * (self._lat - wave.lat)
            crest = wave.amplitude * np.exp(-(((self._lat - wave.lat) / 13) ** 2) / 2)
            msl[first + count] = crest * np.cos(phase)
            msl[first + len(WAVES) + count] = -crest * np.sin(phase)

    def _noise(self, sst: np.ndarray, t2m: np.ndarray, u10: np.ndarray, v10: np.ndarray, msl: np.ndarray) -> None:
        """Smooth random modes: slow ones of the ocean, fast ones of the air."""
        ocean = slice(COLUMNS.index("ocean_0"), COLUMNS.index("ocean_0") + OCEAN_MODES)
        air = slice(COLUMNS.index("air_0"), COLUMNS.index("air_0") + AIR_MODES)
        away = 1 - np.exp(-((self._lat / 18) ** 2))
        sst[ocean] = self._modes(OCEAN_MODES, 14, 1) * (0.22 + 0.25 * away) * self._open_water
        msl[air] = self._modes(AIR_MODES, 13, 2) * (110 + 600 * away)
        t2m[air] = self._modes(AIR_MODES, 13, 3) * np.where(self.land, 1.5, 0.4)
        # near the equator the wind is free of the pressure: a random stream function, faded out polewards
        stream = self._modes(AIR_MODES, 13, 4) * 3.2e6
        spacing = np.deg2rad(360 / self.grid.shape[1]) * RADIUS * np.cos(np.deg2rad(self._lat))
        free = 1 - self._balanced
        u10[air] = -free * np.gradient(stream, np.deg2rad(self.grid.lat) * RADIUS, axis=-2)
        v10[air] = free * (np.roll(stream, -1, axis=-1) - np.roll(stream, 1, axis=-1)) / (2 * spacing)

    def _modes(self, count: int, width: float, stream: int) -> np.ndarray:
        """`count` Gaussian-smoothed random fields on the sphere, `width` degrees, squares summing to 1."""
        index = np.arange(800) + 0.5
        z, angle = 1 - 2 * index / 800, np.pi * (1 + 5**0.5) * index  # a Fibonacci lattice
        ring = np.sqrt(1 - z * z)
        centres = np.stack([ring * np.cos(angle), ring * np.sin(angle), z])
        lat, lon = np.deg2rad(self._lat).ravel(), np.deg2rad(self._lon).ravel()
        cells = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
        kernel = np.exp((cells @ centres - 1) / np.deg2rad(width) ** 2)
        weights = np.random.default_rng([2024, stream]).standard_normal((800, count))
        fields = kernel @ weights
        fields /= np.sqrt((fields**2).sum(axis=1, keepdims=True))
        return fields.T.reshape(count, *self.grid.shape)


def _degrees_east(lon: np.ndarray, of: float) -> np.ndarray:
    """Longitude difference in [-180, 180)."""
    return (lon - of + 180) % 360 - 180


def _bump(
    lat: np.ndarray, lon: np.ndarray, at_lat: float, at_lon: float, south_north: float, west_east: float
) -> np.ndarray:
    distance = ((lat - at_lat) / south_north) ** 2 + (_degrees_east(lon, at_lon) / west_east) ** 2
    return np.exp(-distance / 2)


def _tongue(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """The eastern Pacific anomaly: from the date line along the equator to the coast and down it."""
    return (
        0.75 * _bump(lat, lon, 0, 212, 6, 24) + _bump(lat, lon, -1, 250, 7, 22) + 0.5 * _bump(lat, lon, -9, 277, 8, 7)
    )


def _tongue_in_nino34() -> float:
    """Its mean over 5S–5N, 190–240E, so that T of the oscillator is the Niño 3.4 anomaly in K."""
    lat, lon = np.meshgrid(np.linspace(-4, 4, 5), np.linspace(192, 238, 24), indexing="ij")
    return float(_tongue(lat, lon).mean())


def _season(patterns: np.ndarray, amplitude: np.ndarray, peak: float) -> None:
    """Add amplitude × cos(2π(year fraction - peak)) to the columns year_cos and year_sin."""
    patterns[1] += amplitude * np.cos(2 * np.pi * peak)
    patterns[2] += amplitude * np.sin(2 * np.pi * peak)
