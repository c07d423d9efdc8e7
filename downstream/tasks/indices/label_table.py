"""Label tables: numbers by time, from a CSV file or from the planet that a store was made from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.sources.weather.labels import HARMONICS, label_table, season, season_at
from ....ssl.sources.weather.recorded import recorded_weather
from ....ssl.store.store import Store

TIME = "time"
LEAD = re.compile(r"(.+)_(\d+)d$")  # height_3d: the height of three days later
FEWEST_FOR_SEASON = 100  # labels; of fewer, the season would be noise


def labels_of(store: Store, path: str | None, columns: Sequence[str]) -> pd.DataFrame:
    """Return the labels at the steps of a store, float64, indexed by its times; NaN where a step has none.

    Args:
        store: Any.
        path: CSV with a column `time` (ISO) and columns of numbers; None takes the labels that the weather planet of
            the store itself has (`ssl/sources/weather/labels.py`).
        columns: Those wanted; none: all. With height_3d comes height_0d, where there is one, for persistence.

    Raises:
        EarthSSLError: If the file is not clear, a column is missing, no label falls on a step of the store, or one
            looks further ahead than the gaps between the blocks, which would tell of the next block.
    """
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"), name=TIME)
    if path is None:
        table, where = label_table(recorded_weather(store.manifest["attributes"])), "the labels of the weather planet"
    else:
        table, where = read_label_table(path), path
    names = [str(name) for name in table.columns]
    for name in columns:
        if name not in names:
            raise EarthSSLError(
                f"{where}: expected the column '{name}', got {', '.join(names)}." + nearest(name, names)
            )
    found, gap = table.reindex(times), store.splits.embargo_days
    for name in columns or names:
        if (match := LEAD.match(name)) and int(match[2]) > gap:
            raise EarthSSLError(
                f"{where}: expected labels no further ahead than the gap between the blocks ({gap:g} days), got "
                f"'{name}'; prepare with --splits.embargo_days {match[2]}, or leave the column out"
            )
        if not np.isfinite(found[name]).any():
            raise EarthSSLError(
                f"{where}: expected labels '{name}' at steps of the store ({times[0]} … {times[-1]}), got none; a "
                "label belongs to the last step of its window"
            )
    now = {f"{match[1]}_0d" for name in columns if (match := LEAD.match(name))}
    return found[[name for name in found if not columns or name in columns or name in now]]


def read_label_table(path: str) -> pd.DataFrame:
    """Return a CSV of numbers by time, float64, indexed by time; empty cells are NaN.

    Raises:
        EarthSSLError: If it is no such file: a line, a time that comes twice, a word among the numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise EarthSSLError(f"expected a CSV file of labels at {file}, found none; check the path")
    try:
        table = pd.read_csv(file, dtype=str, skipinitialspace=True, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise EarthSSLError(
            f"{file}: expected CSV in UTF-8, but it cannot be parsed ({reason}); save it anew"
        ) from None
    if TIME not in table or len(table.columns) < 2:
        raise EarthSSLError(
            f"{file}, line 1: expected a column '{TIME}' and columns of numbers, got "
            f"{', '.join(map(str, table.columns))}"
        )
    for name in table:
        values = pd.to_datetime(table[name], format="ISO8601", errors="coerce", utc=True) if name == TIME else (
            pd.to_numeric(table[name], errors="coerce"))  # fmt: skip
        wrong = np.flatnonzero(values.isna() & (table[name].notna() | (name == TIME)))
        if len(wrong):
            what = "an ISO time such as 1997-12-05" if name == TIME else f"a number or nothing of '{name}'"
            raise EarthSSLError(f"{file}, line {wrong[0] + 2}: expected {what}, got '{table[name][wrong[0]]}'")
        table[name] = values.dt.tz_localize(None) if name == TIME else values.astype(np.float64)
    again = np.flatnonzero(table[TIME].duplicated())
    if len(again):
        raise EarthSSLError(
            f"{file}, line {again[0] + 2}: expected each time once, got {table[TIME][again[0]]} again; keep one"
        )
    return table.set_index(TIME)


def label_season(times: np.ndarray, values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the season of a label at all times, fitted on the known ones of some steps, (time,)."""
    known = train[np.isfinite(values[train])]
    harmonics = HARMONICS if len(known) >= FEWEST_FOR_SEASON else 0
    return season_at(times, season(values[known], times[known], harmonics))
