"""Aloft: what the synthetic planet's storms feel of the air above: winds at 850 and 200 hPa, humidity at 700 hPa.

Linear in hidden columns as every field of the planet is: those of the geography and, after them, modes of red
noise that only the upper air has. The numbers give shear, steering and moisture the size, season and place
they have on Earth, among them the quiet South Atlantic and the shear that El Niño brings to the Atlantic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .geography import CLIMATE, COLUMNS, RADIUS, Geography

VARIABLES = {
    "u850": ("m s-1", "eastward wind at 850 hPa", "eastward_wind"),
    "v850": ("m s-1", "northward wind at 850 hPa", "northward_wind"),
    "u200": ("m s-1", "eastward wind at 200 hPa", "eastward_wind"),
    "v200": ("m s-1", "northward wind at 200 hPa", "northward_wind"),
    "r700": ("%", "relative humidity at 700 hPa", "relative_humidity"),
}
WIND_MODES = 40
MOISTURE_MODES = 40
MODES = WIND_MODES + MOISTURE_MODES
FRICTION = 1.35  # the mean wind at 850 hPa over that at 10 m
WEATHER = 0.8  # the same of its changes: those at 10 m come from the pressure alone and are strong near 18°
DEPTH = 0.5  # how much of the changes at 850 hPa reach 200 hPa
DRIEST, WETTEST = 2.0, 100.0  # %


def patterns(geography: Geography, surface: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return for each variable its patterns, shape (columns, rows, columns of the grid), float64.

    Args:
        geography: Of the grid wanted.
        surface: Its patterns at the surface, by name.

    The first axis follows COLUMNS and goes on with WIND_MODES and MOISTURE_MODES.
    """
    fields = {name: np.zeros((len(COLUMNS) + MODES, *geography.grid.shape)) for name in VARIABLES}
    for low, name, high in (("u10", "u850", "u200"), ("v10", "v850", "v200")):
        climate, weather = slice(0, len(CLIMATE)), slice(len(CLIMATE), len(COLUMNS))
        fields[name][climate] = FRICTION * surface[low][climate]
        fields[name][weather] = WEATHER * surface[low][weather]
        fields[high][weather] = DEPTH * fields[name][weather]
    _upper_winds(geography, fields["u200"], fields["v200"])
    _humidity(geography, fields["r700"])
    return fields


def modes(seed: int, days: Sequence[int]) -> np.ndarray:
    """Return the modes at the beginning of every day and the end of the last, unit variance, (days + 1, MODES).

    Args:
        seed: Of the history.
        days: Of each year; noise is drawn year by year.
    """
    decay = np.exp(-1 / np.concatenate([np.linspace(3, 8, WIND_MODES), np.linspace(3, 8, MOISTURE_MODES)]))
    kick = np.sqrt(1 - decay**2)
    path = np.empty((sum(days) + 1, MODES))
    path[0] = np.random.default_rng([seed, 10]).standard_normal(MODES)
    draws = [np.random.default_rng([seed, 11, year]).standard_normal((count, MODES)) for year, count in enumerate(days)]
    for day, draw in enumerate(np.concatenate(draws)):
        path[day + 1] = decay * path[day] + kick * draw
    return path


def _upper_winds(geography: Geography, u: np.ndarray, v: np.ndarray) -> None:
    lat, bump = geography._lat, geography._bump
    side = np.where(lat >= 0, 1.0, -1.0)
    tropics = np.exp(-((lat / 13) ** 2))
    u[0] = 27 * np.exp(-(((np.abs(lat) - 36) / 13) ** 2)) - 5 * tropics
    u[0] += 16 * bump(-17, 340, 11, 26) + 11 * bump(-17, 250, 10, 24) + 5 * bump(18, 200, 8, 20)
    # the jet of the winter half is the stronger one and reaches further towards the equator
    winter = 8 * np.exp(-(((np.abs(lat) - 36) / 13) ** 2)) + 12 * np.exp(-(((np.abs(lat) - 20) / 9) ** 2))
    phase = 2 * np.pi * 0.60  # the upper air is warmest at the beginning of August
    for column, part in ((1, np.cos(phase)), (2, np.sin(phase))):
        u[column] = -winter * side * part - 9 * bump(12, 75, 9, 25) * part
    warm = COLUMNS.index("t_e")
    u[warm] += 3.0 * bump(15, 300, 9, 25) - 3.0 * bump(12, 200, 9, 25) - 2.0 * bump(-14, 195, 8, 25)
    stream = geography._modes(WIND_MODES, 12, 5) * 9.5e6
    spacing = np.deg2rad(360 / geography.grid.shape[1]) * RADIUS * np.cos(np.deg2rad(lat))
    own = slice(len(COLUMNS), len(COLUMNS) + WIND_MODES)
    u[own] = -np.gradient(stream, np.deg2rad(geography.grid.lat) * RADIUS, axis=-2)
    v[own] = (np.roll(stream, -1, axis=-1) - np.roll(stream, 1, axis=-1)) / (2 * spacing)


def _humidity(geography: Geography, r: np.ndarray) -> None:
    lat, bump = geography._lat, geography._bump
    rain, dry = np.exp(-((lat / 13) ** 2)), np.exp(-(((np.abs(lat) - 26) / 10) ** 2))
    r[0] = 52 + 13 * rain - 14 * dry + 6 * bump(5, 130, 14, 35) - 10 * bump(-12, 340, 12, 30) - 8 * bump(5, 250, 9, 30)
    # the rains follow the sun, some weeks late
    phase = 2 * np.pi * 0.62
    swing = 12 * np.exp(-(((np.abs(lat) - 14) / 10) ** 2)) * np.where(lat >= 0, 1.0, -1.0)
    r[CLIMATE.index("year_cos")], r[CLIMATE.index("year_sin")] = swing * np.cos(phase), swing * np.sin(phase)
    r[COLUMNS.index("t_e")] = 3.0 * bump(0, 195, 8, 25) - 2.5 * bump(12, 300, 9, 25) - 3.0 * bump(3, 125, 9, 18)
    r[len(COLUMNS) + WIND_MODES :] = 11 * geography._modes(MOISTURE_MODES, 10, 6)
