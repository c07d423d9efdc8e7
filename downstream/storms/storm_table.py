"""Tables of storms with columns of anybody's names (IBTrACS–ERA5, SHIPS): tidy tracks, and predictors beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ...ssl.common.errors import EarthSSLError, check_known, check_settings, nearest
from ...ssl.fields.splits import PARTS
from .best_tracks import read_table, tidy
from .track_checks import NORTH, SOUTH, numbers, refuse, refuse_blank

WIND_UNITS = {"kt": 1.0, "m/s": 3600 / 1852}
SPEEDS = {  # what files call them, without spaces and powers
    "kt": ("kt", "kts", "kn", "knot", "knots"),
    "m/s": ("m/s", "ms-1", "m.s-1", "ms", "mps", "meters/second", "metres/second", "meterspersecond",
            "metrespersecond", "meter/second", "metre/second", "meterssecond-1", "metressecond-1"),
    "km/h": ("km/h", "kmh-1", "kmh", "kph", "km/hr"),
    "mph": ("mph", "mi/h", "mileh-1", "mile/h", "miles/hour"),
}  # fmt: skip
REFUSE, FIRST = "refuse", "first"
BASINS = (*NORTH, *SOUTH, "SA")
CHANGE, PART = "change_kt", "part"  # columns that a table may have beside those of tidy tracks
OWN = "predictor "  # before the name of a predictor, so that it cannot be taken for another column


@dataclass(frozen=True)
class TableConfig:
    """Which columns of a table say what.

    Attributes:
        path: CSV, Parquet, or NetCDF with one row an entry of one dimension; empty: no table, but `tracks`.
        storm, time, lat, lon, wind: Columns: id, UTC, degrees, largest sustained wind.
        wind_units: Of wind and change: kt or m/s, which become whole knots.
        season: Column of the storm's season; null takes the year of its first record.
        basin: Basin of all rows (NA, EP, WP, NI, SI, SP, SA), or the column that says it.
        change: Column of the wind 24 h later less the wind now; null takes it from the records of the storm.
        split: Column with train, val and test, each of whole seasons; null goes by `train`, `val` and `test`.
        twice: Two records of a storm at one time: refuse them, or take the first.
        predictors: Columns of numbers, known at the time of the record, by the name of their group: rows with the track
            and each group stand in the table. Unknown values become the mean of the training samples, and a column says
            so.
    """

    path: str = ""
    storm: str = "storm"
    time: str = "time"
    lat: str = "lat"
    lon: str = "lon"
    wind: str = "wind_kt"
    wind_units: str = "kt"
    season: str | None = None
    basin: str = "NA"
    change: str | None = None
    split: str | None = None
    twice: str = REFUSE
    predictors: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings("table", self, {"wind_units": list(WIND_UNITS), "twice": (REFUSE, FIRST)})
        for name, columns in self.predictors.items():
            if not columns or len(set(columns)) < len(columns):
                raise EarthSSLError(
                    f"table.predictors.{name}: expected one column or more, each once, got {columns}; mend the list"
                )
            ahead = [one for one in columns if one in (self.change, self.split)]
            if ahead:
                raise EarthSSLError(
                    f"table.predictors.{name}: expected what is known at the time, got '{ahead[0]}', which tells the "
                    "answer (change, split); leave it out"
                )


@dataclass(frozen=True, eq=False)
class StormTable:
    """A table of storms.

    Attributes:
        tracks: Tidy tracks; with a column `change_kt` where the table says the change itself, and `part` where it says
            the split; predictors as "predictor NAME".
        notes: What was left out, in words.
    """

    tracks: pd.DataFrame
    notes: list[str]


def storm_table(config: TableConfig) -> StormTable:
    """Return a table as tidy tracks with its predictors.

    All its records count as those of tropical cyclones over water: a table of samples holds no others, or says nothing
    of them.

    Raises:
        EarthSSLError: If there is no such file or column, a value cannot be (as for `tidy`), or the split shares a
            storm or a season between two blocks.
    """
    where = config.path
    given = _read(Path(where))
    _refuse_absent(config, given, where)
    refuse_blank(given[config.storm], f"{where}, column '{config.storm}'")
    made = pd.DataFrame({
        "storm": given[config.storm].astype(str), "time": given[config.time],
        "lat": given[config.lat], "lon": given[config.lon], "category": 0, "over_water": True,
    })  # fmt: skip
    factor = WIND_UNITS[config.wind_units]
    for name, column in (("wind_kt", config.wind), (CHANGE, config.change)):
        if column is not None:
            _check_units(given, column, config.wind_units, where)
            found = factor * numbers(made.assign(**{name: given[column]}), name, f"{where}, column '{column}'")
            made[name] = found if factor == 1 else found.round()  # as best tracks: 25 kt, not 24.998
    made["basin"] = config.basin if config.basin in BASINS else given[config.basin].astype(str)
    if config.season is not None:
        made["season"] = given[config.season]
    for column in dict.fromkeys(one for columns in config.predictors.values() for one in columns):
        made[OWN + column] = numbers(made.assign(**{column: given[column]}), column, where)
    if config.split is not None:
        made[PART] = _parts(made, given[config.split].astype(str), where, config.split)
    notes = []
    if config.twice == FIRST:
        again = made.duplicated(["storm", "time"])
        if again.any():
            notes.append(f"{int(again.sum())} records of a storm at a time that it has already: the first is taken.")
        made = made[~again]
    if len(made) and made["wind_kt"].isna().all():
        raise EarthSSLError(f"{where}: expected winds in the column '{config.wind}', got none in {len(made)} rows")
    _check_change(made, where, config)
    tracks = tidy(made, where)
    if PART in tracks:
        _check_blocks(tracks, where, config.split)
    return StormTable(tracks, notes)


def predictor_columns(samples: pd.DataFrame, columns: Iterable[str], train: np.ndarray) -> np.ndarray:
    """Return predictors of samples, (sample, column), without NaN.

    Unknown values become the mean over the training samples; a column of 0 and 1 follows for each pattern of unknown
    values. Columns that are one constant in training are left out.

    Args:
        samples: With "predictor NAME" columns.
        columns: Names.
        train: Mask of the training samples.

    Raises:
        EarthSSLError: If none of them varies in training.
    """
    columns = list(columns)
    values = samples[[OWN + one for one in columns]].to_numpy(float)
    unknown = np.isnan(values)
    kept = [k for k in range(len(columns)) if np.unique(values[train & ~unknown[:, k], k]).size > 1]
    if not kept:
        raise EarthSSLError(
            f"table.predictors: expected numbers that vary in the training samples, got {', '.join(columns)} without; "
            "leave the group out"
        )
    values, unknown = values[:, kept], unknown[:, kept]
    filled = np.where(unknown, np.nanmean(values[train], axis=0), values)
    flags = np.unique(unknown[:, unknown[train].any(axis=0)], axis=1)
    return np.hstack([filled, flags.astype(float)])


def _read(path: Path) -> pd.DataFrame:
    if path.suffix not in (".csv", ".parquet", ".nc"):
        raise EarthSSLError(f"table.path: expected a .csv, .parquet or .nc file, got '{path}'")
    if not path.is_file():
        raise EarthSSLError(f"table.path: expected a table at {path}, found none; check the path")
    table = _netcdf(path) if path.suffix == ".nc" else read_table(path)
    if not len(table):
        raise EarthSSLError(f"{path}: expected records of storms, got none; choose another file")
    return table


def _netcdf(path: Path) -> pd.DataFrame:
    """Return the variables along the commonest single dimension as columns; others are left out."""
    try:
        with xr.open_dataset(path) as data:
            alone = {str(name): one.to_numpy() for name, one in data.variables.items() if one.ndim == 1}
            units = {str(name): str(one.attrs.get("units", "")) for name, one in data.variables.items()}
            along = {str(name): one.dims[0] for name, one in data.variables.items() if one.ndim == 1}
    except (OSError, ValueError, KeyError) as error:
        raise EarthSSLError(f"{path}: expected a NetCDF file, but it cannot be read ({error}); mend it") from None
    counts = pd.Series(along).value_counts()
    if counts.empty:
        raise EarthSSLError(f"{path}: expected variables along one dimension, a row an entry, got none")
    found = {name: values for name, values in alone.items() if along[name] == counts.index[0]}
    table = pd.DataFrame({name: _text(values) for name, values in found.items()})
    table.attrs["units"] = units
    return table


def _check_units(table: pd.DataFrame, column: str, wanted: str, where: str) -> None:
    """Refuse a column whose own units, of a NetCDF file, are those of another speed."""
    own = table.attrs.get("units", {}).get(column, "")
    plain = own.lower().replace(" ", "").replace("**", "").replace("^", "")
    found = next((unit for unit, names in SPEEDS.items() if plain in names), wanted)
    if found != wanted:
        raise EarthSSLError(
            f"{where}: expected the column '{column}' in {wanted} (table.wind_units), got units '{own}'; "
            + (f"set table.wind_units to {found}" if found in WIND_UNITS else "convert it to kt or m/s")
            + ", or mend the attribute"
        )


def _text(values: np.ndarray) -> np.ndarray:
    """Return values with bytes as text."""
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and len(values) and isinstance(values[0], bytes)):
        return np.array([one.decode("utf-8", "replace") for one in values.tolist()], dtype=object)
    return values


def _refuse_absent(config: TableConfig, table: pd.DataFrame, where: str) -> None:
    """Refuse columns that the table does not have."""
    names = [str(name) for name in table.columns]
    settings = ("storm", "time", "lat", "lon", "wind", "season", "change", "split")
    wanted = {f"table.{name}": getattr(config, name) for name in settings}
    pairs = [(name, one) for name, one in wanted.items() if one is not None]
    pairs += [(f"table.predictors.{name}", one) for name, columns in config.predictors.items() for one in columns]
    for name, one in pairs:
        if one not in names:
            raise EarthSSLError(
                f"{name}: expected a column of {where} ({', '.join(names[:12])}{', …' if len(names) > 12 else ''}), "
                f"got '{one}'." + nearest(str(one), names)
            )
    if config.basin not in BASINS:
        check_known("table.basin", [config.basin], [*BASINS, *names])


def _check_change(table: pd.DataFrame, where: str, config: TableConfig) -> None:
    """Refuse changes that no storm makes: a mark of what is missing, or another unit."""
    if CHANGE in table:
        wind = table["wind_kt"] + table[CHANGE]
        bad = table[CHANGE].notna() & table["wind_kt"].between(0, 220) & ~wind.between(0, 220)
        refuse(
            table, bad, CHANGE,
            f"{where}: expected changes in the column '{config.change}' that leave a wind of 0 to 220 kt",
            "leave the cell empty where the change is unknown, and check wind_units",
        )  # fmt: skip


def _parts(table: pd.DataFrame, given: pd.Series, where: str, column: str) -> pd.Series:
    """Return the block of each record, "" where the table has none."""
    found = given.str.strip().where(~given.str.strip().str.lower().isin(("", "nan", "none", "<na>")), "")
    refuse(
        table.assign(**{column: given}), ~found.isin([*PARTS, ""]), column,
        f"{where}: expected train, val, test or nothing in the column '{column}'", "mend these rows",
    )  # fmt: skip
    return found


def _check_blocks(tracks: pd.DataFrame, where: str, column: str | None) -> None:
    """Refuse a split that shares a storm or a season between two blocks: such neighbours are not independent."""
    inside = tracks[tracks[PART] != ""]
    for what in ("storm", "season"):
        counts = inside.groupby(what)[PART].nunique()
        if (counts > 1).any():
            one = counts.idxmax()
            found = ", ".join(sorted(inside.loc[inside[what] == one, PART].unique()))
            raise EarthSSLError(
                f"{where}: expected every {what} whole in one block of the column '{column}', got {what} {one} in "
                f"{found}; split by seasons, or leave table.split out and set train, val and test"
            )
