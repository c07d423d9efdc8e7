"""Tables of labels as CSV: their lines, cells without a value, numbers, places, times, and numbers that mean nothing.

All that read labels from a CSV file pass here.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.splits import FIRST_YEAR, LAST_YEAR

LAT, LON = "lat", "lon"
ISO = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?)?)?)?(Z|[+-]\d{2}:?\d{2})?$")
NO_VALUE = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none", "missing", "-", "--", "---", ".", "?", "*"}
SPELLINGS = {"latitude": LAT, "longitude": LON, "lat": LAT, "lon": LON, "long": LON}
PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)  # float takes 1_000 and other digits, too

# Numbers that files put where nothing is known, undeclared: -999, 32767, 9.97e36 and their like.
HUGE = 1e15  # no index, no field and no count of anything here is as large
# Extremes and default fill values of whole numbers of 8, 16 and 32 bits, in netCDF and elsewhere
WHOLE = np.array([-127, -128, 255, -32767, -32768, 32767, 65535, -2147483647, -2147483648, 2147483647, 4294967295.0])
NINES = np.array([sign * (10.0**k - 1) for k in range(2, 13) for sign in (1, -1)])  # 99, -99, 999, …
SHARPER = np.array([10.0, 100.0, 1000.0])  # 99.9, 99.99
FAR = 10  # times the range of the middle 80 % of all
LARGEST_SAMPLE = 1_000_000


def csv_table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the lines of a CSV file with their numbers.

    Raises:
        EarthSSLError: If it is no CSV in UTF-8, holds no line below its header, or lines of other lengths.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EarthSSLError(f"{file}: expected CSV in UTF-8, but it cannot be parsed ({error}); save it anew") from None
    if not rows:
        raise EarthSSLError(f"{file}: expected a header and lines of labels, got an empty file")
    if len(rows) < 2:
        raise EarthSSLError(f"{file}: expected lines of labels, got a header alone ({', '.join(rows[0][1])})")
    header = [name.strip() for name in rows[0][1]]
    other = next((sign for sign in ";\t|" if len(header) == 1 and sign in rows[0][1][0]), None)
    if other is not None:
        raise EarthSSLError(f"{file}, line 1: expected commas between the cells, got {other!r}; save it with commas")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise EarthSSLError(f"{file}, line 1: expected columns with different names, got '{twice}' twice; rename one")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise EarthSSLError(
                f"{file}, line {line}: expected {len(header)} cells as in the header ({', '.join(header)}), got "
                f"{len(row)}; separate by commas, and quote cells that hold one"
            )
    return header, rows[1:]


def plain_places(file: Path, header: list[str], taken: Sequence[str]) -> list[str]:
    """Return the header with latitude and longitude called lat and lon however they were spelled.

    Args:
        file: For what the message says.
        header: Names of the columns.
        taken: Those that are something else whatever they are called.

    Raises:
        EarthSSLError: If one comes twice.
    """
    found = [name if name in taken else SPELLINGS.get(name.lower(), name) for name in header]
    for name in (LAT, LON):
        if found.count(name) > 1:
            both = [old for old, new in zip(header, found, strict=True) if new == name]
            raise EarthSSLError(f"{file}, line 1: expected one column of {name}, got {', '.join(both)}; leave one out")
    return found


def iso_times(file: Path, found: Sequence[tuple[int, str]]) -> np.ndarray:
    """Return ISO times as datetime64[s], UTC; those without a zone are UTC, if all are so.

    Args:
        file: For what the message says.
        found: Line and cell of each.

    Raises:
        EarthSSLError: If a cell is no such time, does not exist, or lies outside 1678…2261.
    """
    out, zoned = [], []
    for line, text in found:
        match = ISO.match(text)
        zone = match and match[7]
        if match is None or (zone and zone != "Z" and zone.strip("+-").replace(":", "") != "0000"):
            why = "in UTC (no zone, Z or +00:00)" if match else "such as 1997-12, 1997-12-05 or 1997-12-05T06:00Z"
            raise EarthSSLError(f"{file}, line {line}: expected an ISO time {why}, got '{text}'; convert it")
        zoned.append(bool(zone))
        plain = text[: match.start(7)] if zone else text
        if zoned[-1] != zoned[0]:
            raise EarthSSLError(
                f"{file}, line {line}: expected times all with or all without a zone, got '{text}' after "
                f"'{found[0][1]}'; a time without one may be local: write all in UTC"
            )
        try:
            when = np.datetime64(plain.replace(" ", "T"))
        except ValueError as error:
            raise EarthSSLError(f"{file}, line {line}: expected a date that exists, got '{text}' ({error})") from None
        if not FIRST_YEAR <= int(plain[:4]) <= LAST_YEAR:
            raise EarthSSLError(f"{file}, line {line}: expected a year within {FIRST_YEAR}…{LAST_YEAR}, got '{text}'")
        out.append(when.astype("datetime64[s]"))
    return np.asarray(out, "datetime64[s]")


def number(file: Path, line: int, name: str, word: str, words: str = "set kind: classification") -> float:
    """Return the number that a cell is.

    Args:
        file, line, name: Where it stands, for what the message says.
        word: The cell.
        words: What to do where it is a word by right.

    Raises:
        EarthSSLError: If it is none, or not finite.
    """
    try:
        found = float(word)
    except ValueError:
        hint = "; write 0.5, not 0,5" if "," in word else f"; for words {words}"
        raise EarthSSLError(f"{file}, line {line}: expected a number of '{name}', got '{word}'{hint}") from None
    if math.isfinite(found) and not PLAIN.fullmatch(word):
        raise EarthSSLError(f"{file}, line {line}: expected a number of '{name}', got '{word}'; write digits only")
    if not math.isfinite(found):
        raise EarthSSLError(f"{file}, line {line}: expected a finite number of '{name}', got '{word}'")
    return found


def is_mark(values: np.ndarray) -> np.ndarray:
    """Return which numbers are spelled as files spell a missing one, bool, of the same shape.

    Nines only (-999, 99.99), powers that nothing reaches (1e20, 9.97e36), limits of whole numbers (-32768); and marks
    with zeros or ones behind the nines (-9990, -9998).
    """
    wide = np.asarray(values, np.float64)
    known = np.concatenate(
        [WHOLE, NINES, *(NINES[2:] / by for by in SHARPER), *(NINES[2:] * 10.0**k for k in range(1, 10))]
    )
    known = known[np.abs(known) > 9]
    known = np.concatenate([known, [-9998.0, -8888.0, -7777.0, -9990.0, -990.0]])
    known = np.unique(np.concatenate([known, known.astype(np.float32).astype(np.float64)]))
    at = np.clip(np.searchsorted(known, wide), 1, len(known) - 1)
    near = np.minimum(np.abs(wide - known[at]), np.abs(wide - known[at - 1]))
    with np.errstate(invalid="ignore"):
        marked: np.ndarray = (near <= 1e-12 * np.abs(wide)) | (np.abs(wide) >= HUGE)
    return marked


def far_marks(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return which values are such numbers and far from the rest, bool, and what the rest lies between, 10 to 90 %.

    Args:
        values: Any shape; NaN where missing. A series may hold 999 among its like: far is more than 10 times the range
            of the middle 80 % away from the median of those that are no marks; of a large field a regular sample is
            taken for these.
    """
    flat = np.asarray(values, np.float64).ravel()
    sample = flat[:: -(-len(flat) // LARGEST_SAMPLE)] if len(flat) else flat
    known = sample[np.isfinite(sample)]
    usual = known[~is_mark(known)]
    known = usual if len(usual) else known
    if not len(known):
        return np.zeros(np.shape(values), bool), (np.nan, np.nan)
    low, middle, high = np.percentile(known, [10, 50, 90])
    if low == high:  # nearly all the same, such as rain that mostly is none
        low, high = known.min(), known.max()
    with np.errstate(invalid="ignore"):
        far = np.abs(flat - middle) > FAR * (high - low)
    far[far] = is_mark(flat[far])
    return far.reshape(np.shape(values)), (float(low), float(high))
