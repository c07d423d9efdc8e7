"""A field as the quantity that an encoder was trained on: anomalies out of it, or it out of anomalies."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError
from ..fields import splits
from ..fields.normalisation import Statistics
from ..fields.variables import anomaly_name, lookup

Period = splits.Block  # first and last instant, both included

FEWEST_YEARS = 10  # of every calendar month, for a climatology of the data's own


def counterparts(wanted: Collection[str], there: Collection[str]) -> dict[str, str]:
    """Return which variable of the data may stand for one that they lack: its anomaly, or what it is an anomaly of."""
    found = {}
    for name in wanted:
        others = [other for other in there if name == anomaly_name(other) or other == anomaly_name(name)]
        if name not in there and others and others[0] not in wanted:
            found[name] = others[0]
    return found


def period(base: tuple[str | int, str | int] | None) -> Period | None:
    """Return the first and last instant of two dates, "1982" and "2010" meaning the end of 2010; None for None.

    Raises:
        EarthSSLError: If they are no dates in order, of the years that times can have.
    """
    if base is None:
        return None
    try:
        return splits.period("base", tuple(base))
    except (EarthSSLError, TypeError) as error:
        raise EarthSSLError(f"base: expected two dates such as 1982 and 2010, got {base!r} ({error})") from None


def as_trained(
    data: xr.DataArray, name: str, statistics: Statistics, train: Period, base: Period | None = None
) -> tuple[xr.DataArray, str]:
    """Return a field as the variable that an encoder was trained on, and in words how; lazy data stay lazy.

    An encoder reads departures from the climatology of its training. Where the data hold ten years of every calendar
    month within the training block, their own departures from their means over these years are taken, whatever they
    depart from already. Where they do not, anomalies are taken for departures from the climatology of training; a full
    field cannot be turned, since the record knows the climatology of its anomaly alone, unless a base period is given.

    Args:
        data: (time, lat, lon) on the encoder's grid, canonical.
        name: Variable of the record.
        statistics: Of that variable alone.
        train: First and last time of the training block.
        base: Years whose means are subtracted instead of those of the training block.

    Raises:
        EarthSSLError: If the field is not an anomaly and the data do not hold enough of the training block, or they
            do not hold enough of the base period.
    """
    have = str(data.name)
    years = _words(train)
    own = _own_climatology(data, base or train) if statistics.groups == "month" else None
    if own is None and base is not None:
        raise EarthSSLError(
            f"base: expected {FEWEST_YEARS} years of each calendar month of the data within {_words(base)}, and an "
            "encoder whose climatology is by months; choose other years"
        )
    if own is None and lookup(have).kind != "anomaly":
        short = f"the data hold less than {FEWEST_YEARS} years of some month of its training block ({years})"
        hourly = "it is one by hours, which the data's own cannot stand for"
        why = f"{short} for one of their own" if statistics.groups == "month" else hourly
        raise EarthSSLError(
            f"anomalies: the encoder was trained on '{name}', and its record holds the climatology of that, not of "
            f"'{have}'; {why}. Say over which years of the data to take it (base, as in 1982:2010), or subtract one "
            f"and call the field '{name}'"
        )

    def turned(values: np.ndarray, times: np.ndarray) -> np.ndarray:
        change = statistics.climatology(times)[:, 0]
        if own is not None:
            change = change - own[_months(times)]
        return (values + change).astype(np.float32)

    made = _by_step(turned, data).rename(name).assign_attrs(lookup(name).attributes)
    if base is not None:
        said = (
            f"its departures from its own monthly means over {_words(base)}; the encoder's are from those over "
            f"{years}, and how the climate of the two differs is lost"
        )
    elif own is not None:
        said = f"its departures from its own monthly means over the training block ({years})"
    else:
        said = (
            f"its anomalies on the climatology of the training block ({years}); their own base period is not "
            "known, and if it is another, that difference stays in them"
        )
    if own is not None:
        said += _lost(own[np.unique(_months(data["time"].values))], statistics.known[0])
    return made, f"'{name}' was made of '{have}': {said}"


def _lost(own: np.ndarray, known: np.ndarray) -> str:
    """Return in words how many known cells a climatology, (month, row, column), lacks in some month; "" for none."""
    lost = int((np.isnan(own).any(0) & known).sum())
    return (
        f"; {lost} of {int(known.sum())} known cells hold less than {FEWEST_YEARS} years of some month there and are "
        "missing in it"
        if lost
        else ""
    )


def _words(block: Period) -> str:
    return f"{block[0]!s:.7} … {block[1]!s:.7}"


def _own_climatology(data: xr.DataArray, block: Period) -> np.ndarray | None:
    """Return the mean of every calendar month over a block of time, (12, row, column), or None where it is short.

    A cell with fewer years than `FEWEST_YEARS` of a month has none: NaN.
    """
    times = data["time"].values
    inside = np.flatnonzero((times >= block[0]) & (times <= block[1]))
    stamps = times[inside].astype("datetime64[M]").astype(np.int64)  # a month of a year, however many steps it has
    counts = np.bincount(np.unique(stamps) % 12, minlength=12)
    if (counts[np.unique(_months(times))] < FEWEST_YEARS).any():
        return None
    sums, years = np.zeros((2, 12, *data.shape[1:])), np.zeros((12, *data.shape[1:]), np.int64)
    last, seen = None, np.zeros(data.shape[1:], bool)  # a month may go on in the next piece
    for some in np.array_split(np.arange(len(inside)), max(1, len(inside) // 256)):
        values = data.isel(time=inside[some]).values.astype(np.float64)
        valid, months = np.isfinite(values), stamps[some] % 12
        np.add.at(sums[0], months, np.where(valid, values, 0))
        np.add.at(sums[1], months, valid)
        for stamp in np.unique(stamps[some]):
            held = valid[stamps[some] == stamp].any(0)
            before = seen if stamp == last else np.zeros_like(seen)
            years[stamp % 12] += held & ~before
            last, seen = stamp, held | before
    return np.where(years >= FEWEST_YEARS, sums[0] / np.maximum(sums[1], 1), np.nan)


def _months(times: np.ndarray) -> np.ndarray:
    return times.astype("datetime64[M]").astype(np.int64) % 12


def _by_step(function: Callable[[np.ndarray, np.ndarray], np.ndarray], data: xr.DataArray) -> xr.DataArray:
    """Return a function of fields and their times, piece by piece where the data are lazy."""
    times = data["time"].values
    if data.chunks is None:
        return data.copy(data=function(data.values, times))

    def piece(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        first, last = block_info[0]["array-location"][0]
        return function(block, times[first:last])

    whole = data.data.rechunk({1: -1, 2: -1})
    return data.copy(data=whole.map_blocks(piece, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)))
