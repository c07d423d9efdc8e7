"""A panel of the weather planet: a day's heights and jet, the waves that travel, blocking, and the energy of scales."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ...ssl.sources.weather.climate import Climate, climate
from ...ssl.sources.weather.output import GRAVITY
from ...ssl.sources.weather.weather import Weather
from ..results.maps import MapFigure, Maps

DAYS = 90  # of the Hovmöller diagram
BELT = (40.0, 60.0)


def weather_panel(planet: Weather, day: str | np.datetime64 | None = None, every: int = 5) -> MapFigure:
    """Return six panels: z500 with the 200 hPa jet seen from above the pole, and on the map; zonal mean winds of both
    seasons; z500 along 40–60°N through 90 days; blocking by longitude; kinetic energy by total wavenumber.

    Args:
        planet: The weather planet.
        day: Of the maps; None takes 15 January of its second year, or of its only one.
        every: Days between the samples of the statistics.

    Raises:
        EarthSSLError: If the planet has no such day.
    """
    if day is None:
        day = (planet.time[0].astype("datetime64[Y]") + min(1, planet.config.years - 1)).astype("datetime64[D]") + 14
    at = np.datetime64(str(day)).astype("datetime64[ns]")
    stream = planet.streams(at)
    height = planet.fields(stream, "z500")[0] / GRAVITY / 10  # decametres
    wind = planet.fields(stream, "u200")[0]
    numbers = climate(planet, every)
    drawn = MapFigure(figsize=(12.5, 7.6), layout="constrained")
    names = [f"{name}, {np.datetime_as_string(at, 'D')}" for name in ("z500", "u200")]
    ends = [(field.min(), field.max()) for field in (height, wind)]
    drawn.maps = Maps.of(dict(zip(names, (height, wind), strict=True)), planet.grid, ends, ["dam", "m s-1"], False)
    grid = drawn.add_gridspec(2, 3)
    _pole(drawn.add_subplot(grid[0, 0], projection="polar"), planet, height, wind)
    _map(drawn.add_subplot(grid[0, 1]), planet, height, wind, np.datetime_as_string(at, "D"))
    _winds(drawn.add_subplot(grid[0, 2]), numbers)
    _travelling(drawn.add_subplot(grid[1, 0]), planet, at)
    _blocking(drawn.add_subplot(grid[1, 1]), numbers)
    _spectrum(drawn.add_subplot(grid[1, 2]), numbers)
    world = planet.world.number
    drawn.suptitle(f"Weather planet (synthetic), world {world}, T{planet.sphere.truncation}, three levels", fontsize=11)
    return drawn


def _closed(planet: Weather, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitudes and a field with the first column once more at 360°E."""
    return np.r_[planet.grid.lon, 360.0], np.concatenate([field, field[:, :1]], axis=1)


def _pole(axes: Axes, planet: Weather, height: np.ndarray, wind: np.ndarray) -> None:
    north = planet.grid.lat > 15
    lon, closed = _closed(planet, height)
    _, jet = _closed(planet, wind)
    angle, radius = np.meshgrid(np.deg2rad(lon), 90 - planet.grid.lat[north])
    axes.contourf(angle, radius, jet[north], levels=[30, 40, 50, 60, 70, 200], cmap="YlOrRd", alpha=0.8)
    lines = axes.contour(angle, radius, closed[north], levels=np.arange(460, 620, 8), colors="black", linewidths=0.8)
    axes.clabel(lines, levels=np.arange(460, 620, 16), fontsize=6)
    axes.set_theta_zero_location("S")  # type: ignore[attr-defined]
    axes.set_rticks([])  # type: ignore[attr-defined]
    axes.set_title("z500 (dam) and u200 > 30 m/s, from the pole", fontsize=9)
    axes.tick_params(labelsize=7)


def _map(axes: Axes, planet: Weather, height: np.ndarray, wind: np.ndarray, day: str) -> None:
    lon, closed = _closed(planet, height)
    _, jet = _closed(planet, wind)
    shades = axes.contourf(lon, planet.grid.lat, jet, levels=np.arange(-30, 91, 10), cmap="PuOr_r", extend="both")
    axes.contour(lon, planet.grid.lat, closed, levels=np.arange(460, 620, 8), colors="black", linewidths=0.7)
    axes.figure.colorbar(shades, ax=axes, orientation="horizontal", shrink=0.8, pad=0.02).ax.tick_params(labelsize=7)
    axes.set_title(f"{day}: z500 (lines, 8 dam) and u200 (m/s)", fontsize=9)
    axes.tick_params(labelsize=7)


def _winds(axes: Axes, numbers: Climate) -> None:
    for wind, season, colour in zip(numbers.westerly, ("Dec–Feb", "Jun–Aug"), ("#0072b2", "#d55e00"), strict=True):
        axes.plot(numbers.lat, wind, color=colour, label=season)
    axes.axhline(0, color="0.7", lw=0.7)
    axes.set_xlabel("latitude, °N", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"zonal mean u200, m/s; a day's strongest wind {numbers.strongest:.0f}", fontsize=9)
    axes.tick_params(labelsize=7)


def _travelling(axes: Axes, planet: Weather, first: np.datetime64) -> None:
    start = int(np.searchsorted(planet.time, first))
    times = planet.time[start : start + DAYS * planet.history.plan.per_day]
    rows = (planet.grid.lat >= BELT[0]) & (planet.grid.lat <= BELT[1])
    belt = planet.fields(planet.streams(times), "z500")[:, rows].mean(axis=1) / GRAVITY
    belt = belt - belt.mean(axis=1, keepdims=True)
    days = (times - times[0]) / np.timedelta64(1, "D")
    lon, closed = _closed(planet, belt)
    shades = axes.contourf(lon, days, closed, levels=np.arange(-360, 361, 60), cmap="RdBu_r", extend="both")
    axes.figure.colorbar(shades, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("longitude, °E", fontsize=8)
    axes.set_ylabel("days", fontsize=8)
    axes.set_title(f"z500 less its zonal mean, {BELT[0]:.0f}–{BELT[1]:.0f}°N, m", fontsize=9)
    axes.tick_params(labelsize=7)


def _blocking(axes: Axes, numbers: Climate) -> None:
    axes.bar(numbers.lon, 100 * numbers.blocking, width=360 / len(numbers.lon), color="#0072b2")
    axes.set_xlabel("longitude, °E", fontsize=8)
    axes.set_title(f"blocked days (Tibaldi–Molteni), %; mean {100 * numbers.blocking.mean():.1f}", fontsize=9)
    axes.tick_params(labelsize=7)


def _spectrum(axes: Axes, numbers: Climate) -> None:
    n = np.arange(1, numbers.energy.shape[1])
    for energy, level in zip(numbers.energy, (200, 500, 800), strict=True):
        axes.loglog(n, energy[1:], marker=".", label=f"{level} hPa")
    steep = n[n >= 6]
    axes.loglog(steep, numbers.energy[0][6] * (steep / 6.0) ** -3, color="0.6", ls="--", label="n⁻³")
    axes.set_xlabel("total wavenumber", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    axes.set_title("kinetic energy, m²/s²", fontsize=9)
    axes.tick_params(labelsize=7)
