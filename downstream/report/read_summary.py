"""The folder of a task's results, read back: every table checked, as files may have been touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import read_json
from ..results.maps import Maps
from ..results.summary import DIFFERENCES, MAPS_OF, SCORES, Summary

RESULT = "result.json"
NUMBERS = ("value", "low", "high", "step")
VERDICTS = ("better", "worse", "undecided")
READ_BACK = {one.name for one in fields(Summary)}  # what result.json holds of a summary beside its record


def read_summary(folder: str | Path) -> Summary:
    """Return the summary in the folder that `earthssl probe` wrote, for any task; its pictures as PNG.

    Raises:
        EarthSSLError: If the folder, a file or a column is missing, or a verdict contradicts its interval.
    """
    path = Path(folder)
    if not (path / RESULT).is_file():
        raise EarthSSLError(f"expected the folder of a probe at {path}, found none; make one with `earthssl probe`")
    record = read_json(path / RESULT, "a probe's record")
    missing = [name for name in ("task", "title", "convention") if not isinstance(record.get(name), str)]
    if missing:
        raise EarthSSLError(f"{path / RESULT}: expected a record with '{missing[0]}', found none; probe again")
    differences = read_table(path / "differences.csv", DIFFERENCES)
    _check_verdicts(differences, path / "differences.csv")
    pictures = {name: path / f"{name}.png" for name in record.get("figures", [])}
    maps = {name: path / f"{MAPS_OF}{name}.nc" for name in pictures}
    tables = {name: path / f"{name}.csv" for name in record.get("tables", [])}
    return Summary(
        task=record["task"],
        title=record["title"],
        convention=record["convention"],
        scores=read_table(path / "scores.csv", SCORES),
        differences=differences,
        record={name: value for name, value in record.items() if name not in READ_BACK},
        figures={name: file.read_bytes() for name, file in pictures.items() if file.is_file()},
        tables={name: pd.read_csv(file, keep_default_na=False) for name, file in tables.items() if file.is_file()},
        maps={name: Maps.read(file) for name, file in maps.items() if file.is_file()},
        main=[(str(target), str(metric)) for target, metric in record.get("main", [])],
        headline=[(str(target), str(metric)) for target, metric in record.get("headline", [])],
        **{name: record[name] for name in ("notes", "found", "speakers", "words") if name in record},
    )


def read_table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return a CSV file; text columns stay text, so that no name is taken for a missing value.

    Raises:
        EarthSSLError: If it is missing, cannot be parsed, or lacks a column.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise EarthSSLError(f"expected {file}, found no such file; run the verb that writes it again") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise EarthSSLError(f"{file}: expected a CSV table, but it cannot be parsed ({error})") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise EarthSSLError(
            f"{file}: expected the column '{missing[0]}', got {', '.join(map(str, table.columns))}; write it again"
        )
    for column in NUMBERS:
        if column in table:
            table[column] = _numbers(table[column], file)
    return table


def _numbers(column: pd.Series, file: Path) -> pd.Series:
    try:
        return column.replace("", "nan").astype(float)
    except (ValueError, TypeError):
        raise EarthSSLError(f"{file}: expected numbers in column '{column.name}', got text; write it again") from None


def _check_verdicts(differences: pd.DataFrame, file: Path) -> None:
    """Raise where a verdict is none, or claims what its interval does not carry."""
    verdict = differences["verdict"]
    low, high = (differences[bound].to_numpy(float) for bound in ("low", "high"))
    claimed = (verdict != "undecided").to_numpy()
    bad = ~verdict.isin(VERDICTS).to_numpy() | (claimed & ~((low >= 0) | (high <= 0)))
    for k in np.flatnonzero(bad)[:1]:
        one = differences.iloc[int(k)]
        raise EarthSSLError(
            f"{file}: expected better, worse or undecided as the interval [{low[k]}, {high[k]}] has it, got "
            f"'{one['verdict']}' for '{one['row']}' against '{one['reference']}' at {one['target']}; probe again"
        )
