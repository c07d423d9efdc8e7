"""Labels: what a forecaster would ask of a weather planet, one labelled table a world, at the day and days ahead.

`height` and `spread` are those of 500 hPa; `jet` the latitude of the westerlies over the North Atlantic; `activity` of
its storm track; `blocking` after Tibaldi & Molteni (1990, Tellus 42A, 343-365); `heat` a heat wave over Europe. All but
`height` are no linear function of the fields. Each function takes plain fields, so it works on other data as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from ...common.errors import EarthSSLError
from ...common.files import write_text
from ...fields.grid import LatLonGrid
from .output import GRAVITY
from .weather import Weather

LEADS = (0, 3, 5, 10)  # days
HARMONICS = 2  # of the year, in a season
NAMES = ("height", "spread", "jet", "activity", "blocking", "heat")
HEIGHT_BOX = (48.0, 66.0, 330.0, 20.0)  # south, north, west, east
ATLANTIC = (25.0, 75.0, 280.0, 359.0)
JET_BOX = (15.0, 75.0, 300.0, 359.0)
HEAT_BOX = (40.0, 56.0, 0.0, 40.0)
BLOCKING_WIDTH = 11.25  # degrees of longitude that are blocked side by side, three columns of the index' first grid
BLOCKED_CELLS = (50.0, 70.0)  # degrees north: south of it, ridges of the subtropics turn the gradient round
BLOCKING_SECTOR = (330.0, 45.0)
HOT, HOT_DAYS = 0.95, 3


def area_mean(field: np.ndarray, grid: LatLonGrid, box: Sequence[float]) -> np.ndarray:
    """Return the mean (…) of a field (…, row, column) over a box (south, north, west, east), weighted by area."""
    weight = grid.area * grid.box(*box)
    return np.asarray(np.tensordot(field, weight / weight.sum(), axes=2))


def part_of(grid: LatLonGrid, box: Sequence[float]) -> tuple[LatLonGrid, tuple[np.ndarray, np.ndarray]]:
    """Return the grid inside a box that does not cross 0°E, and its rows and columns as an index of fields."""
    inside = grid.box(*box)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return LatLonGrid(grid.lat[rows], grid.lon[columns]), (rows[:, None], columns)


def area_spread(field: np.ndarray, grid: LatLonGrid, box: Sequence[float]) -> np.ndarray:
    """Return the standard deviation (…) over a box of a field (…, row, column), weighted by area."""
    mean = area_mean(field, grid, box)
    return np.asarray(np.sqrt(area_mean((field - mean[..., None, None]) ** 2, grid, box)))


def jet_latitude(wind: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return the latitude (…), degrees north, where the mean westerly (…, row, column) of JET_BOX is strongest.

    The top of the parabola through the strongest row and its neighbours (of equal spacing to within a hundredth).
    """
    inside = grid.box(*JET_BOX)
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    profile = wind[..., rows, :][..., columns].mean(axis=-1)
    lat = grid.lat[rows]
    top = np.clip(profile.argmax(axis=-1), 1, len(lat) - 2)
    before, at, after = (np.take_along_axis(profile, (top + k)[..., None], -1)[..., 0] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.clip((before - after) / 2 / np.where(bend < 0, bend, -1.0), -1, 1)
    return np.asarray(lat[top] + shift * (lat[top + 1] - lat[top - 1]) / 2 * np.where(bend < 0, 1, 0))


def storm_activity(height: np.ndarray, grid: LatLonGrid, steps: int) -> np.ndarray:
    """Return the root mean square (time,) over the North Atlantic of the change of height within a day, its units.

    A 24 h difference keeps the growing and passing lows of a few days and drops what stands. NaN for the first day.

    Args:
        height: (time, row, column), evenly spaced.
        grid: Of it.
        steps: How many steps a day has.
    """
    change = np.full(len(height), np.nan)
    if len(height) > steps:
        change[steps:] = np.sqrt(area_mean((height[steps:] - height[:-steps]) ** 2, grid, ATLANTIC))
    return change


def _reaches(grid: LatLonGrid, south: float, north: float) -> None:
    if grid.lat[0] < north or grid.lat[-1] > south:
        raise EarthSSLError(f"blocking: expected rows from {south:g}°N to {north:g}°N at least, got {grid}")


def blocked(height: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return which longitudes are blocked, (…, column), after Tibaldi & Molteni.

    The 500 hPa height falls towards the equator from 60°N to 40°N and by more than 10 m a degree from 60°N to 80°N,
    all three moved together by 4° south, none, or 4° north. Between rows heights are linear in latitude.

    Args:
        height: Of 500 hPa, m, (…, row, column), rows up to 76°N at least.
        grid: Of it.

    Raises:
        EarthSSLError: If the rows do not reach from 36°N to 76°N.
    """
    _reaches(grid, 36, 76)
    found = np.zeros(height[..., 0, :].shape, bool)
    for shift in (-4.0, 0.0, 4.0):
        north, middle, south = (_at_latitude(height, grid, lat + shift) for lat in (80, 60, 40))
        found |= ((middle - south) / 20 > 0) & ((north - middle) / 20 < -10)
    return found


def blocked_cells(height: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return which cells are blocked, (…, row, column), after Scherrer et al. (2006, Int. J. Climatol. 26, 233-249).

    The index of Tibaldi & Molteni about every row from 50°N to 70°N: the 500 hPa height falls towards the equator over
    the 15° south of the cell, and by more than 10 m a degree towards the pole over the 15° north of it.

    Args:
        height: Of 500 hPa, m, (…, row, column), rows up to 85°N at least.
        grid: Of it.

    Raises:
        EarthSSLError: If the rows do not reach from 35°N to 85°N.
    """
    south, north = BLOCKED_CELLS
    _reaches(grid, south - 15, north + 15)
    found = np.zeros(height.shape, bool)
    for row in np.flatnonzero((grid.lat >= south) & (grid.lat <= north)):
        lat, here = float(grid.lat[row]), height[..., row, :]
        falls = here > _at_latitude(height, grid, lat - 15)
        found[..., row, :] = falls & (_at_latitude(height, grid, lat + 15) - here < -10 * 15)
    return found


def _at_latitude(height: np.ndarray, grid: LatLonGrid, lat: float) -> np.ndarray:
    """Return the height (…, column) at a latitude, linear between rows; beyond the first row that of the row."""
    south = min(max(int(np.searchsorted(-grid.lat, -lat)), 1), len(grid.lat) - 1)
    north = south - 1
    share = min((lat - grid.lat[south]) / (grid.lat[north] - grid.lat[south]), 1.0)
    return np.asarray(share * height[..., north, :] + (1 - share) * height[..., south, :])


def sector_blocked(columns: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return whether (…) BLOCKING_WIDTH degrees side by side of `blocked` columns are so within BLOCKING_SECTOR."""
    spacing = 360 / len(grid.lon)
    run = max(1, round(BLOCKING_WIDTH / spacing))
    west, east = BLOCKING_SECTOR
    order = np.flatnonzero((grid.lon - west) % 360 <= (east - west) % 360)
    order = order[np.argsort((grid.lon[order] - west) % 360)]
    inside = columns[..., order]
    windows = np.lib.stride_tricks.sliding_window_view(inside, run, axis=-1)
    return np.asarray(windows.all(axis=-1).any(axis=-1))


def in_long_runs(hot: np.ndarray, length: int) -> np.ndarray:
    """Return which times (time,) belong to a run of at least so many true ones."""
    edges = np.flatnonzero(np.diff(np.r_[False, hot, False].astype(int)))
    found = np.zeros(len(hot), bool)
    for first, last in edges.reshape(-1, 2):
        found[first:last] = last - first >= length
    return found


def season(values: np.ndarray, time: np.ndarray, harmonics: int = HARMONICS) -> np.ndarray:
    """Return the mean and harmonics of the year of values (time, …), by least squares, (1 + 2 harmonics, …)."""
    flat = values.reshape(len(time), -1).astype(np.float64)
    found = np.linalg.lstsq(_year_basis(time, harmonics), flat, rcond=None)[0]
    return np.asarray(found).reshape(len(found), *values.shape[1:])


def season_at(time: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return the values (time, …) of a `season`."""
    return np.asarray(np.tensordot(_year_basis(time, len(of) // 2), of, axes=1))


def without_season(values: np.ndarray, time: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
    """Return values (time, …) minus a `season`, their own where none is given."""
    return np.asarray(values - season_at(time, season(values, time) if of is None else of))


def _year_basis(time: np.ndarray, harmonics: int) -> np.ndarray:
    day = (time - time.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    angle = 2 * np.pi * day[:, None] / 365.2425 * np.arange(1, harmonics + 1)
    return np.hstack([np.ones((len(time), 1)), np.cos(angle), np.sin(angle)])


def present(planet: Weather) -> pd.DataFrame:
    """Return the labels of every time of the planet, indexed by time, columns NAMES.

    `height` and `spread` (of the departure from the season), m; `jet`, degrees north; `activity`, m; `blocking` and
    `heat`, 0 or 1: three days in a row and more with the mean temperature at 850 hPa, season taken off, among its 5 %
    warmest. Season and threshold are those of all the planet's years. NaN where a label needs the day before the first,
    or before a seam.
    """
    data = planet.dataset(["z500", "u850", "t850"])
    grid, time = planet.grid, planet.time
    height = data["z500"].values / np.float32(GRAVITY)
    columns = blocked(height, grid)
    atlantic, cells = part_of(grid, ATLANTIC)
    departure = without_season(height[:, *cells], time)
    table = pd.DataFrame(index=pd.DatetimeIndex(time, name="time"))
    table["height"] = area_mean(height, grid, HEIGHT_BOX)
    table["spread"] = area_spread(departure, atlantic, ATLANTIC)
    table["jet"] = jet_latitude(data["u850"].values, grid)
    warmth = without_season(area_mean(data["t850"].values, grid, HEAT_BOX), time)
    hot = warmth > np.quantile(warmth, HOT)
    steps = planet.history.plan.per_day
    table["activity"] = np.nan
    table["blocking"] = sector_blocked(columns, grid).astype(float)
    table["heat"] = np.nan
    for part in unbroken(planet):
        own = table.index[part]
        table.loc[own, "activity"] = storm_activity(height[part], grid, steps)
        table.loc[own, "heat"] = in_long_runs(hot[part], HOT_DAYS * steps).astype(float)
    return table[list(NAMES)]


def unbroken(planet: Weather) -> list[slice]:
    """Return the steps between the seams, within which the weather is one history."""
    edges = [0, *np.searchsorted(planet.time, planet.seams), len(planet.time)]
    return [slice(int(first), int(last)) for first, last in pairwise(edges)]


def label_table(planet: Weather, leads: Sequence[int] = LEADS) -> pd.DataFrame:
    """Return every label at every lead, indexed by the time of the forecast: `height_0d`, `height_3d`, …

    A label at lead 3 is that of three days later; NaN where that is beyond the end or behind a seam.
    """
    now = present(planet)
    steps = planet.history.plan.per_day
    found = {}
    for name in NAMES:
        values = now[name].to_numpy()
        for lead in leads:
            later = np.full(len(values), np.nan)
            for part in unbroken(planet):
                ahead = lead * steps
                if part.stop - part.start > ahead:
                    later[part.start : part.stop - ahead] = values[part.start + ahead : part.stop]
            found[f"{name}_{lead}d"] = later
    return pd.DataFrame(found, index=now.index)


def write_labels(planet: Weather, path: str | Path, leads: Sequence[int] = LEADS) -> Path:
    """Write the labelled table as CSV with ISO times, empty where nothing is known, and return the file."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, label_table(planet, leads).to_csv(date_format="%Y-%m-%dT%H:%M", float_format="%.6g"))
    return file
