"""Label tables: numbers by time, from a CSV file or from the planet that a store was made from."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.sources.weather.labels import HARMONICS, label_table, season, season_at
from ....ssl.sources.weather.recorded import recorded_weather
from ....ssl.store.store import Store
from ...evaluation.label_tables import LAT, LON, NO_VALUE, csv_table, far_marks, iso_times, number, plain_places

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
        EarthSSLError: If the file is not clear, a column is missing, or no label falls on a step of the store.
    """
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"), name=TIME)
    now = {f"{match[1]}_0d" for name in columns if (match := LEAD.match(name))}
    if path is None:
        table, where = label_table(recorded_weather(store.manifest["attributes"])), "the labels of the weather planet"
    else:
        table, where = read_label_table(path, columns, now), path
    names = [str(name) for name in table.columns]
    _refuse_absent(columns, names, where)
    found = table.reindex(times)
    for name in columns or names:
        if not np.isfinite(found[name]).any():
            raise EarthSSLError(
                f"{where}: expected labels '{name}' at steps of the store ({times[0]} … {times[-1]}), got none; a "
                "label belongs to the last step of its window"
            )
    return found[[name for name in found if not columns or name in columns or name in now]]


def _refuse_absent(columns: Sequence[str], names: Sequence[str], where: str) -> None:
    for name in columns:
        if name not in names:
            raise EarthSSLError(
                f"{where}: expected the column '{name}', got {', '.join(names)}." + nearest(name, names)
            )


def read_label_table(path: str, columns: Sequence[str] = (), also: Collection[str] = ()) -> pd.DataFrame:
    """Return columns of numbers by time in a CSV file, float64, indexed by time; cells without a value are NaN.

    Args:
        path: The file.
        columns: Those wanted; none: all but the time, and the latitude and longitude of a place.
        also: Those taken beside them where they are there.

    Raises:
        EarthSSLError: If it is no such file: a column that is not there, a line, a time that comes twice, a word among
            the numbers, a number that files put for a missing one.
    """
    file = Path(path)
    if not file.is_file():
        raise EarthSSLError(f"expected a CSV file of labels at {file}, found none; check the path")
    header, rows = csv_table(file)
    header = plain_places(file, header, columns)
    names = [name for name in header if name != TIME and (name in columns or name not in (LAT, LON))]
    if TIME not in header or not names:
        raise EarthSSLError(
            f"{file}, line 1: expected a column '{TIME}' and columns of numbers, got {', '.join(header)}"
        )
    _refuse_absent(columns, names, str(file))
    names = [name for name in names if not columns or name in columns or name in also]
    lines = [line for line, _ in rows]
    cells = dict(zip(header, zip(*[[cell.strip() for cell in row] for _, row in rows], strict=True), strict=True))
    times = iso_times(file, list(zip(lines, cells[TIME], strict=True))).astype("datetime64[ns]")
    again = np.flatnonzero(pd.Index(times).duplicated())
    if len(again):
        raise EarthSSLError(
            f"{file}, line {lines[again[0]]}: expected each time once, got {pd.Timestamp(times[again[0]])} again; keep "
            "one" + ("; labels of several places are for `earthssl finetune`" if LAT in header else "")
        )
    table = {name: _numbers(file, name, lines, cells[name]) for name in names}
    return pd.DataFrame(table, pd.DatetimeIndex(times, name=TIME))


def _numbers(file: Path, name: str, lines: Sequence[int], cells: Sequence[str]) -> np.ndarray:
    """Return the numbers of a column, NaN where a cell says that there is none."""
    found = np.asarray([
        np.nan if cell.lower() in NO_VALUE else number(file, line, name, cell, "leave the column out (columns)")
        for line, cell in zip(lines, cells, strict=True)
    ])  # fmt: skip
    marks, (low, high) = far_marks(found)
    if marks.any():
        k = int(np.argmax(marks))
        raise EarthSSLError(
            f"{file}, line {lines[k]}: expected a value of '{name}', got {found[k]:g}, far from the others ({low:.3g} "
            f"to {high:.3g}) and a usual mark of what is missing ({int(marks.sum())} such); leave these empty"
        )
    return found


def label_season(times: np.ndarray, values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the season of a label at all times, fitted on the known ones of some steps, (time,)."""
    known = train[np.isfinite(values[train])]
    harmonics = HARMONICS if len(known) >= FEWEST_FOR_SEASON else 0
    return season_at(times, season(values[known], times[known], harmonics))
