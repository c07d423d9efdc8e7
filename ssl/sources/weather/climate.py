"""Climate: the few numbers by which a meteorologist tells an atmosphere from noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .labels import blocked
from .output import GRAVITY
from .vertical import SPEED
from .weather import Weather

WINTER, SUMMER = (12, 1, 2), (6, 7, 8)  # months


@dataclass(frozen=True, eq=False)
class Climate:
    """Statistics of one planet over its sampled days.

    Attributes:
        lat: Rows, degrees north.
        lon: Columns, degrees east.
        westerly: Zonal mean wind at 200 hPa in December to February and in June to August, m s-1, (2, row); NaN
            where no day is of the season.
        strongest: Strongest westerly at 200 hPa anywhere, mean over days, m s-1.
        day_correlation: Of z500 anomalies poleward of 20°N with those a day later, area-weighted.
        height_spread: Standard deviation of z500 at 50°N and 50°S about its mean over the days, m, (2,).
        blocking: Share of days on which a longitude is blocked (`labels.blocked`), (column,).
        energy: Kinetic energy by total wavenumber at 200, 500 and 800 hPa, m2 s-2, (level, n).
    """

    lat: np.ndarray
    lon: np.ndarray
    westerly: np.ndarray
    strongest: float
    day_correlation: float
    height_spread: np.ndarray
    blocking: np.ndarray
    energy: np.ndarray


def climate(planet: Weather, every: int = 5) -> Climate:
    """Return the statistics of a planet from every so many of its days and the day after each.

    Raises:
        EarthSSLError: If a file of the planet's cache is damaged.
    """
    per_day = planet.history.plan.per_day
    first = np.arange(0, len(planet.time) - per_day, every * per_day)
    over_seam = np.isin(planet.time[first + per_day].astype("datetime64[D]"), planet.seams.astype("datetime64[D]"))
    first = first[~over_seam]
    today, tomorrow = planet.streams(planet.time[first]), planet.streams(planet.time[first + per_day])
    month = planet.time[first].astype("datetime64[M]").astype(int) % 12 + 1
    u200 = planet.fields(today, "u200")
    height = planet.fields(today, "z500") / np.float32(GRAVITY)
    later = planet.fields(tomorrow, "z500") / np.float32(GRAVITY)
    weight = np.where(planet.grid.lat > 20, planet.sphere.nodes[1], 0)[:, None]
    one, two = (field - height.mean(axis=0) for field in (height, later))
    product, square, square_later = ((a * b * weight).sum() for a, b in ((one, two), (one, one), (two, two)))
    rows = [int(np.abs(planet.grid.lat - at).argmin()) for at in (50, -50)]
    n = planet.sphere.known[1]
    by_coefficient = (today.astype(np.float64) ** 2).mean(axis=0) * n * (n + 1) / 2 * SPEED**2
    return Climate(
        planet.grid.lat,
        planet.grid.lon,
        np.stack([_zonal_mean(u200[np.isin(month, months)]) for months in (WINTER, SUMMER)]),
        float(u200.max(axis=(1, 2)).mean()),
        float(product / np.sqrt(square * square_later)),
        one[:, rows].std(axis=(0, 2)),
        blocked(height, planet.grid).mean(axis=0),
        np.stack([np.bincount(n, level) for level in by_coefficient]),
    )


def _zonal_mean(wind: np.ndarray) -> np.ndarray:
    """Return the mean (row,) of winds (day, row, column), NaN where there is no day."""
    return np.asarray(wind.mean(axis=(0, 2)) if len(wind) else np.full(wind.shape[1], np.nan))
