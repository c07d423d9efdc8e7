"""Pairs: forecasts and observations at places, from a table, and the years that they are divided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError, nearest
from ...evaluation.label_tables import far_marks

REFUSE, DROP = "refuse", "drop"
BLOCKS = ("train", "val", "test")
WHERE = "bias_correction"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Forecasts beside observations.

    Attributes:
        time: Of each, datetime64[D], (pair,).
        place: Number of the station, (pair,).
        places: Words of the stations.
        forecast, observed: Of each target, (pair, target).
        predictors: All that is known with the forecast, the forecasts among it, (pair, value).
        names: Of the predictors.
        block: train, val, test, or "" outside of them, (pair,).
        dropped: Lines left out for want of a value.
    """

    time: np.ndarray
    place: np.ndarray
    places: tuple[str, ...]
    forecast: np.ndarray
    observed: np.ndarray
    predictors: np.ndarray
    names: tuple[str, ...]
    block: np.ndarray
    dropped: int

    def inside(self, block: str) -> np.ndarray:
        """Return the pairs of a block, (n,)."""
        return np.flatnonzero(self.block == block)


def read_pairs(
    path: str, time: str, place: str, targets: Mapping[str, str], predictors: Sequence[str], missing: str,
    years: Mapping[str, Sequence[int]],
) -> Pairs:  # fmt: skip
    """Return the pairs of a CSV table, in order of time.

    Args:
        path: CSV, plain or packed with gzip.
        time, place: Columns.
        targets: Column of the forecast by that of the observation.
        predictors: Columns; none: all others that hold numbers.
        missing: "refuse" lines without a value, or "drop" them.
        years: First and last of each block.

    Raises:
        EarthSSLError: What was expected, what came, where, and the remedy.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise EarthSSLError(f"{WHERE}.table: expected a CSV file, found none at {file}; check the path")
    try:
        table = pd.read_csv(file, dtype={time: str, place: str}, skip_blank_lines=False)
    except (ValueError, OSError, EOFError) as error:
        words = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise EarthSSLError(f"{file}: expected CSV in UTF-8, but it cannot be read ({words}); save it anew") from None
    if not len(table):
        raise EarthSSLError(f"{file}: expected lines below the header, got none; check the table")
    columns = [str(name) for name in table.columns]
    asked = [time, place, *targets, *targets.values(), *predictors]
    for name in asked:
        if name not in columns:
            raise EarthSSLError(
                f"{file}: expected a column '{name}', got {', '.join(columns)}.{nearest(name, columns)} Set "
                f"{WHERE}.time, place, targets or predictors"
            )
    if time == place or {time, place} & {*targets, *targets.values(), *predictors}:
        raise EarthSSLError(
            f"{WHERE}.time, place: expected two columns that are no target, forecast or predictor, got '{time}' and "
            f"'{place}'; name others"
        )
    others = [one for one in columns if one not in (time, place, *targets)]
    wanted = list(predictors) or [one for one in others if pd.api.types.is_numeric_dtype(table[one])]
    wanted = list(dict.fromkeys([*targets.values(), *wanted]))
    if set(wanted) & set(targets):
        raise EarthSSLError(
            f"{WHERE}.predictors: expected what is known with the forecast, got the observation "
            f"'{next(name for name in wanted if name in targets)}', which is to be told; leave it out"
        )
    for name in (*wanted, *targets):
        if not pd.api.types.is_numeric_dtype(table[name]):
            lacking = pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()
            bad = int(lacking.to_numpy().argmax())
            raise EarthSSLError(
                f"{file}, line {bad + 2}: expected numbers in '{name}', got '{table[name].iloc[bad]}'; mend the "
                "line, or name other predictors"
            )
        values = table[name].to_numpy(dtype=float)
        marks, usual = far_marks(values[np.isfinite(values)])
        if marks.any():
            k = int(np.flatnonzero(np.isfinite(values))[marks.argmax()])
            raise EarthSSLError(
                f"{file}, line {k + 2}: expected a value of '{name}', got {values[k]:g}, far from the others "
                f"({usual[0]:.3g} to {usual[1]:.3g}) and a usual mark of what is missing; leave it empty, and set "
                f"{WHERE}.missing to drop"
            )
    lost = ~np.isfinite(table[[*wanted, *targets]].to_numpy(dtype=float)).all(axis=1)
    lost |= table[time].isna().to_numpy() | table[place].isna().to_numpy()
    if lost.any() and missing == REFUSE:
        raise EarthSSLError(
            f"{file}, line {int(lost.argmax()) + 2}: expected a value in every column that is read, got none "
            f"({int(lost.sum())} such lines); set {WHERE}.missing to drop"
        )
    kept = table[~lost]
    if not len(kept):
        raise EarthSSLError(
            f"{file}: expected lines with a value in every column that is read, got none of {len(table)}"
        )
    try:
        when = pd.to_datetime(kept[time], errors="coerce", format="ISO8601").dt.tz_localize(None)
    except (ValueError, AttributeError):  # no one type
        raise EarthSSLError(
            f"{file}: expected dates of one offset from UTC in '{time}', got several, or some without; write local "
            "dates without an offset, or all in UTC"
        ) from None
    if when.isna().any():
        line = int(kept.index[when.isna()][0])
        raise EarthSSLError(
            f"{file}, line {line + 2}: expected an ISO date in '{time}', such as 2013-06-30, got "
            f"'{kept[time].loc[line]}'; write the dates so"
        )
    again = pd.DataFrame({"time": when, "place": kept[place]}).duplicated()
    if again.any():
        line = int(kept.index[again][0])
        raise EarthSSLError(
            f"{file}, line {line + 2}: expected each date once at a place, got {kept[time].loc[line]} at "
            f"'{kept[place].loc[line]}' again; keep one"
        )
    order = np.lexsort((kept[place].to_numpy(dtype=str), when.to_numpy()))
    kept, when = kept.iloc[order], when.iloc[order]
    year = when.dt.year.to_numpy()
    block = np.full(len(kept), "", dtype=object)
    for name, (first, last) in years.items():
        own = (year >= first) & (year <= last)
        if not own.any():
            raise EarthSSLError(
                f"{WHERE}.{name}: expected years of the table ({year.min()} … {year.max()}), got {first} … {last} and "
                "no line of these; choose others"
            )
        block[own] = name
    places, number = np.unique(kept[place].to_numpy(dtype=str), return_inverse=True)
    unseen = np.setdiff1d(number[block != ""], number[block == "train"])
    if len(unseen):
        raise EarthSSLError(
            f"{file}: expected every place in the training years, got '{places[unseen[0]]}' later only; leave it out"
        )
    return Pairs(
        when.to_numpy().astype("datetime64[D]"), number, tuple(map(str, places)),
        kept[list(targets.values())].to_numpy(dtype=float), kept[list(targets)].to_numpy(dtype=float),
        kept[wanted].to_numpy(dtype=float), tuple(wanted), block, int(lost.sum()),
    )  # fmt: skip
