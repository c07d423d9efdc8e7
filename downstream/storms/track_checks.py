"""What a record of a storm can be: winds, pressures, places, speeds; the rest is refused, its column named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError

NO_VALUE = {"", "nan", "na", "n/a", "null", "none", "-", "<na>", "nat"}
WIND_KT = (5.0, 220.0)  # best tracks since 1842 hold 10 to 185
PRESSURE_HPA = (850.0, 1060.0)  # best tracks: 870 to 1024
PRESSURES = ("slp", "mslp", "msl", "pres", "pressure", "pressure_hpa", "min_slp", "min_pressure", "wmo_pres")
CATEGORIES = (-5, 5)
LONGITUDES = (-180.0, 360.0)
NORTH, SOUTH = ("NA", "EP", "WP", "NI"), ("SI", "SP")
# Fastest of the 127 thousand records of IBTrACS since 1980: 43 m/s, in the mid-latitudes.
SPEED_M_S = 60.0
ROUNDED_KM = 30.0  # places given to 0.1°, or a step of a relocated centre
LONGEST_GAP = np.timedelta64(15, "D")  # IBTrACS: 102 h
EARTH_KM = 6371.0
# Lower limits of categories 0 to 5, kt, and the end of the last.
LIMITS_KT = np.array([34.0, 64, 83, 96, 113, 137, 180])
FITTING = (0.65, 1.6)  # of the winds over the middle of their categories: m/s come out at .5, km/h at 1.8


def refuse(table: pd.DataFrame, bad: pd.Series | np.ndarray, column: str, expected: str, remedy: str) -> None:
    """Raise where any row is bad, with the column, how many, and the first: its value, storm and time.

    Args:
        table: With the columns storm and time.
        bad: Of each row, bool.
        column: Whose values they are.
        expected: Where, and what was expected.
        remedy: What to do.

    Raises:
        EarthSSLError: If any row is bad.
    """
    wrong = np.asarray(bad, bool)
    if wrong.any():
        one = table[wrong].iloc[0]
        raise EarthSSLError(
            f"{expected} in every row, got {int(wrong.sum())} others, first '{one[column]}' of storm {one['storm']} at "
            f"{one['time']}; {remedy}"
        )


def numbers(table: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column as float64, NaN where a cell is blank or says that there is no value ("NaN", "-", …).

    Raises:
        EarthSSLError: If a cell is anything else, such as a time, or not finite.
    """
    given = table[column]
    if given.dtype.kind in "mM":
        raise EarthSSLError(
            f"{where}: expected numbers in the column '{column}', got times ({given.dtype}); write hours or days as "
            "numbers, or leave the column out"
        )
    if given.dtype.kind in "iufb":
        found = given.astype(float)
    else:
        blank = given.isna() | given.astype(str).str.strip().str.lower().isin(NO_VALUE)
        found = pd.to_numeric(given.mask(blank), errors="coerce").astype(float)
        refuse(
            table, found.isna() & ~blank, column, f"{where}: expected a number in the column '{column}'",
            "write numbers with a point and no unit, and leave what is unknown empty",
        )  # fmt: skip
    refuse(table, np.isinf(found), column, f"{where}: expected a finite number in '{column}'", "leave these empty")
    return found


def refuse_blank(ids: pd.Series, where: str) -> None:
    """Refuse records without the id of their storm.

    Raises:
        EarthSSLError: If any is blank.
    """
    bad = ids.isna() | ids.astype(str).str.strip().str.lower().isin(NO_VALUE - {"na", "n/a", "-"})
    if bad.any():
        raise EarthSSLError(
            f"{where}: expected the id of a storm in every row, got {int(bad.sum())} blank, first in row "
            f"{int(np.argmax(bad.to_numpy())) + 1}; fill or drop these rows"
        )


def times(table: pd.DataFrame, where: str) -> pd.Series:
    """Return the column `time` as datetime64[ns], UTC, to the nearest minute.

    Raises:
        EarthSSLError: If the column holds numbers, which say no unit, or a cell is no time.
    """
    given: Any = table["time"]
    if given.dtype.kind in "iuf":
        raise EarthSSLError(
            f"{where}: expected times such as 2001-09-01T06:00 in the column 'time', got the number {given.iloc[0]}; "
            "write ISO times, UTC"
        )
    found = pd.to_datetime(given, utc=True, errors="coerce", format=None if given.dtype.kind == "M" else "ISO8601")
    refuse(
        table, found.isna(), "time", f"{where}: expected an ISO time such as 2001-09-01T06:00 in the column 'time'",
        "mend or drop these rows",
    )  # fmt: skip
    stamps: pd.Series = found.dt.tz_localize(None).astype("datetime64[ns]").dt.round("min")
    return stamps


def check_values(table: pd.DataFrame, where: str) -> None:
    """Refuse what no record of a storm can hold: winds, pressures, places, categories, basins.

    Args:
        table: Columns as `tidy` leaves them, longitudes as given.
        where: What messages call it.

    Raises:
        EarthSSLError: If a value is impossible, with its column.
    """
    low, high = WIND_KT
    wind, lat, lon = table["wind_kt"], table["lat"], table["lon"]
    category, basin, mend = table["category"], table["basin"], "mend or drop these rows"
    wrong = (basin.isin(NORTH) & (lat < -5)) | (basin.isin(SOUTH) & (lat > 5))
    empty = basin.str.strip().str.lower().isin(NO_VALUE - {"na"})
    whole = (category % 1 == 0) & category.between(*CATEGORIES)
    for column, bad, expected, remedy in (
        ("wind_kt", wind.notna() & ~wind.between(low, high), f"winds of {low:g} to {high:g} kt in the column 'wind_kt'",
         "leave the cell empty where the wind is unknown; marks such as -999, -1, 0 or 999 are no winds"),
        ("lat", ~lat.between(-90, 90), "degrees north, -90…90, in the column 'lat'", mend),
        ("lon", ~lon.between(*LONGITUDES), "degrees east, -180…360, in the column 'lon'", mend),
        ("category", ~whole, "a whole number, -5…5, in the column 'category'", "-5 says that it is unknown"),
        ("basin", empty, "a basin in the column 'basin'", "an empty one may have been NA, the North Atlantic, which "
         "pandas reads as missing: use keep_default_na=False"),
        ("lat", wrong, "latitudes (column 'lat') in the hemisphere of the basin",
         "mend the sign, the basin, or columns that are swapped"),
    ):  # fmt: skip
        refuse(table, bad, column, f"{where}: expected {expected}", remedy)
    for name in (name for name in PRESSURES if name in table):
        value, (low, high) = numbers(table, name, where), PRESSURE_HPA
        refuse(
            table, value.notna() & ~value.between(low, high), name,
            f"{where}: expected pressures of {low:g} to {high:g} hPa in the column '{name}'",
            "convert them, and leave the cell empty where the pressure is unknown",
        )  # fmt: skip
    _check_units(table, where)


def _check_units(table: pd.DataFrame, where: str) -> None:
    """Refuse winds that cannot be in knots by the categories beside them, where these are not all the same."""
    category = table["category"].to_numpy(float)
    known = (category >= 0) & table["wind_kt"].notna().to_numpy()
    if known.sum() < 4 or len(np.unique(category[known])) < 2:
        return
    k = category[known].astype(int)
    middle = np.sqrt(LIMITS_KT[k] * LIMITS_KT[k + 1])
    ratio = float(np.median(table["wind_kt"].to_numpy()[known] / middle))
    if not FITTING[0] <= ratio <= FITTING[1]:
        raise EarthSSLError(
            f"{where}: expected winds in knots that fit the categories beside them, but half of the column 'wind_kt' "
            f"is {ratio:.2g} times the middle of its category and beyond (m/s give .5, km/h 1.8); convert wind_kt to "
            "knots, or mend category (-5 where unknown)"
        )


def check_motion(table: pd.DataFrame, where: str) -> None:
    """Refuse storms that jump: a wrong place, or two storms under one id.

    Args:
        table: By storm and time, each time once.
        where: What messages call it.

    Raises:
        EarthSSLError: If a storm moves faster than `SPEED_M_S` between two records, or is gone for `LONGEST_GAP`.
    """
    same = (table["storm"] == table["storm"].shift()).to_numpy()
    lat, lon = np.deg2rad(table["lat"].to_numpy()), np.deg2rad(table["lon"].to_numpy())
    when = table["time"].to_numpy()
    hours = np.zeros(len(table))
    away = np.zeros(len(table))
    hours[1:] = np.diff(when) / np.timedelta64(1, "h")
    half = np.sin(np.diff(lat) / 2) ** 2 + np.cos(lat[1:]) * np.cos(lat[:-1]) * np.sin(np.diff(lon) / 2) ** 2
    away[1:] = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    fast = np.flatnonzero(same & (away > hours * 3.6 * SPEED_M_S + ROUNDED_KM))
    if len(fast):
        k = int(fast[0])
        one = table.iloc[k]
        raise EarthSSLError(
            f"{where}: expected places (columns 'lat', 'lon') that a storm can reach, but storm {one['storm']} moves "
            f"{away[k]:.0f} km in {hours[k]:g} h to {one['lat']:g}°, {one['lon']:g}° at {one['time']} ({len(fast)} "
            "such jumps); mend the place, or give two storms two ids"
        )
    gone = np.flatnonzero(same & (hours > LONGEST_GAP / np.timedelta64(1, "h")))
    if len(gone):
        one = table.iloc[int(gone[0])]
        raise EarthSSLError(
            f"{where}: expected records of one storm (column 'storm') that follow each other, but {one['storm']} is "
            f"gone for {hours[gone[0]] / 24:.0f} days before {one['time']} ({len(gone)} such); give two storms two ids"
        )
