"""Reachable: the labels as the true model forecasts them from states known exactly or with an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .forecast import forecast
from .labels import (
    ATLANTIC,
    HEIGHT_BOX,
    area_mean,
    area_spread,
    blocked,
    jet_latitude,
    part_of,
    season,
    sector_blocked,
    without_season,
)
from .output import GRAVITY
from .weather import Weather

REACHABLE = ("height", "spread", "jet", "activity", "blocking")  # `heat` needs the days before and after as well


def forecast_labels(
    planet: Weather, times: Any, leads: Sequence[int], members: int = 1, noise: float = 0.0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the mean over an ensemble of the labels of `labels.present`, by name (initial time, lead).

    Of `blocking` it is the share of members. The arguments are those of `forecast.forecast`.

    Raises:
        EarthSSLError: If a time is none of the planet's, or an option is out of range.
    """
    times = np.atleast_1d(np.asarray(times, dtype="datetime64[ns]"))
    days = sorted({day for lead in leads for day in (lead, max(lead - 1, 0))})
    streams = forecast(planet, times, days, members, noise, seed)
    valid = times[:, None] + np.array(days) * np.timedelta64(1, "D")
    grid, at = planet.grid, [days.index(lead) for lead in leads]
    height = planet.fields(streams, "z500") / np.float32(GRAVITY)
    atlantic, cells = part_of(grid, ATLANTIC)
    known = planet.dataset(["z500"])["z500"].data[:, cells[0].ravel()][:, :, cells[1]] / np.float32(GRAVITY)
    of = season(np.asarray(known), planet.time)
    own = height[..., cells[0], cells[1]]
    flat = own.reshape(-1, *own.shape[-2:])
    departure = without_season(flat, np.broadcast_to(valid, own.shape[:-2]).ravel(), of).reshape(own.shape)
    before = [days.index(max(lead - 1, 0)) for lead in leads]
    change = change_of(own, at, before)
    found = {
        "height": area_mean(height, grid, HEIGHT_BOX)[:, :, at],
        "spread": area_spread(departure, atlantic, ATLANTIC)[:, :, at],
        "jet": jet_latitude(planet.fields(streams, "u850"), grid)[:, :, at],
        "activity": np.sqrt(area_mean(change**2, atlantic, ATLANTIC)),
        "blocking": sector_blocked(blocked(height, grid), grid)[:, :, at].astype(float),
    }
    return {name: values.mean(axis=0) for name, values in found.items()}


def change_of(height: np.ndarray, at: Sequence[int], before: Sequence[int]) -> np.ndarray:
    """Return the change of heights (member, time, day, row, column) between two choices of days; NaN for lead 0."""
    change = height[:, :, list(at)] - height[:, :, list(before)]
    change[:, :, [k for k, (one, other) in enumerate(zip(at, before, strict=True)) if one == other]] = np.nan
    return np.asarray(change)
