"""Labels: a user's own targets by time, and by place where they have one, read from CSV and refused where unclear.

A CSV file has a header, a column of ISO times in UTC, a column for each target, and lat and lon (degrees) where
labels belong to places. NetCDF is read by label_fields.py.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ssl.errors import EarthSSLError, nearest
from ..ssl.grid import LatLonGrid

KINDS = ("regression", "classification", "field")
MISSING = ("refuse", "drop")
LAT, LON = "lat", "lon"
ISO = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?)?)?)?(Z|[+-]\d{2}:?\d{2})?$")
NO_VALUE = {"", "nan", "na", "n/a", "null", "none", "-"}
MARKS = (-99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -9999.0, -9999.9, -99999.0, 999.0, 999.9, 9999.0, 99999.0, 1e20)
FIRST_YEAR, LAST_YEAR = 1678, 2261  # datetime64[ns] wraps round in silence outside


@dataclass(frozen=True, eq=False)
class Labels:
    """Targets by time.

    Attributes:
        kind: regression, classification or field.
        names: Of the targets; one for classification and field.
        units: Of each target, "" where the file does not say.
        times: datetime64[s], UTC, ascending, (label,).
        values: Numbers (label, target), the words of the classes (label,), or fields (label, row, column), NaN where
            nothing is known.
        places: Latitude and longitude of each label, degrees, longitude in [0, 360), (label, 2); None for labels of the
            whole field.
        lines: Line of the file that each came from, (label,); 0 for NetCDF.
        where: The file.
        grid: Of fields.
        dropped: Labels left out for want of a value.
    """

    kind: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    times: np.ndarray
    values: np.ndarray
    places: np.ndarray | None
    lines: np.ndarray
    where: str
    grid: LatLonGrid | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.times)

    def line(self, k: int) -> str:
        """Return where a label stands, in words."""
        return f"line {self.lines[k]}" if self.lines[k] else f"time {self.times[k]}"


def read_labels(path: str, targets: Sequence[str], kind: str, *, time: str = "time", missing: str = "refuse") -> Labels:
    """Return the labels in a CSV or NetCDF file.

    Args:
        path: The file; NetCDF where its name ends in .nc, .nc4 or .cdf.
        targets: Columns or variables; one for classification and field.
        kind: regression, classification or field.
        time: Name of the column or coordinate of time.
        missing: "refuse" labels without a value, or "drop" (leave out and count) them.

    Raises:
        EarthSSLError: If the file is not clear: what was expected, what came, in which line, and the remedy.
    """
    if kind not in KINDS:
        raise EarthSSLError(f"finetune.kind: expected {', '.join(KINDS)}, got '{kind}'." + nearest(kind, KINDS))
    if missing not in MISSING:
        raise EarthSSLError(
            f"finetune.missing: expected {' or '.join(MISSING)}, got '{missing}'." + nearest(missing, MISSING)
        )
    if not targets or len(set(targets)) < len(targets) or (kind != "regression" and len(targets) > 1):
        some = "different names" if kind == "regression" else "one name"
        raise EarthSSLError(f"finetune.target: expected {some} of what to predict, got {list(targets)}")
    file = Path(path)
    if not file.is_file():
        raise EarthSSLError(f"finetune.labels: expected a CSV or NetCDF file at {file}, found none; check the path")
    if file.suffix in (".nc", ".nc4", ".cdf"):
        from .label_fields import read_netcdf

        return read_netcdf(file, targets, kind, time, missing)
    if kind == "field":
        raise EarthSSLError(f"{file}: expected fields as NetCDF (.nc) with dimensions {time}, lat, lon, got a table")
    return _from_rows(file, targets, kind, time, missing)


def _from_rows(file: Path, targets: Sequence[str], kind: str, time: str, missing: str) -> Labels:
    header, rows = _table(file)
    places = [name for name in (LAT, LON) if name in header]
    if len(places) == 1:
        raise EarthSSLError(f"{file}: expected both columns lat and lon, or neither, got only '{places[0]}'")
    for name in (time, *targets):
        if name not in header:
            raise EarthSSLError(
                f"{file}, line 1: expected the column '{name}', got {', '.join(header)}." + nearest(name, header)
            )
    at = {name: header.index(name) for name in (time, *targets, *places)}
    times, values, found, lines, dropped = [], [], [], [], 0
    for line, row in rows:
        cells = [row[at[name]].strip() for name in targets]
        empty = [name for name, cell in zip(targets, cells, strict=True) if cell.lower() in NO_VALUE]
        if empty and missing == "refuse":
            raise EarthSSLError(
                f"{file}, line {line}: expected a value of '{empty[0]}', got '{row[at[empty[0]]]}'; fill it in, leave "
                "the line out, or set missing: drop"
            )
        if empty:
            dropped += 1
            continue
        times.append((line, row[at[time]].strip()))
        values.append(cells)
        lines.append(line)
        if places:
            found.append(_place(file, line, row[at[LAT]], row[at[LON]]))
    if not lines:
        raise EarthSSLError(f"{file}: expected labels, got none ({dropped} lines without a value)")
    words = np.asarray(values, dtype=object)
    if kind == "classification":
        found_values = class_words(file, targets[0], words[:, 0], lines)
    else:
        found_values = _numbers(file, targets, words, lines)
    made = Labels(
        kind,
        tuple(targets),
        ("",) * len(targets),
        _times(file, times),
        found_values,
        np.asarray(found) if places else None,
        np.asarray(lines),
        str(file),
        dropped=dropped,
    )  # fmt: skip
    return ordered(made)


def _table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the lines of a CSV file with their numbers."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EarthSSLError(f"{file}: expected CSV in UTF-8, but it cannot be parsed ({error}); save it anew") from None
    if not rows:
        raise EarthSSLError(f"{file}: expected a header and lines of labels, got an empty file")
    header = [name.strip() for name in rows[0][1]]
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


def _times(file: Path, found: Sequence[tuple[int, str]]) -> np.ndarray:
    """Return ISO times as datetime64[s], UTC; those without a zone are UTC, if all are so."""
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


def _numbers(file: Path, targets: Sequence[str], words: np.ndarray, lines: Sequence[int]) -> np.ndarray:
    out = np.empty(words.shape)
    for k, name in enumerate(targets):
        for j, word in enumerate(words[:, k]):
            try:
                out[j, k] = float(word)
            except ValueError:
                hint = "; write 0.5, not 0,5" if "," in word else "; for words set kind: classification"
                raise EarthSSLError(
                    f"{file}, line {lines[j]}: expected a number of '{name}', got '{word}'{hint}"
                ) from None
            if not math.isfinite(out[j, k]):
                raise EarthSSLError(f"{file}, line {lines[j]}: expected a finite number of '{name}', got '{word}'")
        refuse_marks(out[:, k], name, lambda j: f"{file}, line {lines[j]}")
    return out


def refuse_marks(values: np.ndarray, name: str, where: Callable[[int], str]) -> None:
    """Raise where a number that files often put for a missing value lies far from all that is usual among the labels.

    Args:
        values: Of one target, (label,); what is not finite is not looked at.
        name: Of the target.
        where: Says where a label stands.

    Raises:
        EarthSSLError: Naming the first.
    """
    marks = np.isclose(values[:, None], MARKS, rtol=1e-6, atol=0).any(1)
    known = values[np.isfinite(values) & ~marks]
    if not len(known):
        return
    low, middle, high = np.percentile(known, [10, 50, 90])
    wrong = np.flatnonzero(marks & (np.abs(values - middle) > 10 * (high - low)))
    if len(wrong) and high > low:
        raise EarthSSLError(
            f"{where(int(wrong[0]))}: expected a value of '{name}', got {values[wrong[0]]:g}, far from the others "
            f"({low:.3g} to {high:.3g}) and a usual mark of what is missing ({len(wrong)} such); leave these empty and "
            "set missing: drop"
        )


def class_words(file: Path, name: str, words: np.ndarray, lines: Sequence[int]) -> np.ndarray:
    """Return the classes as words, whole numbers in one spelling."""
    kinds = [_class_word(word) for word in words]
    first = kinds[0][0]
    for line, word, (number, _) in zip(lines, words, kinds, strict=True):
        if number != first:
            expected = "a number" if first else "a word"
            raise EarthSSLError(
                f"{file}, line {line}: expected {expected} as class of '{name}', as in line {lines[0]} ('{words[0]}'), "
                f"got '{word}'; spell the classes in one way"
            )
    fractions = [k for k, (number, word) in enumerate(kinds) if number and "." in word]
    if fractions:
        raise EarthSSLError(
            f"{file}, line {lines[fractions[0]]}: expected whole numbers or words as classes of '{name}', got "
            f"'{words[fractions[0]]}'; for numbers set kind: regression"
        )
    return np.asarray([word for _, word in kinds])


def _class_word(word: str) -> tuple[bool, str]:
    try:
        value = float(word)
    except ValueError:
        return False, word
    return True, str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def _place(file: Path, line: int, lat: str, lon: str) -> tuple[float, float]:
    try:
        y, x = float(lat), float(lon)
    except ValueError:
        y = x = math.nan
    if not (-90 <= y <= 90 and -180 <= x <= 360):
        raise EarthSSLError(
            f"{file}, line {line}: expected a latitude within ±90° and a longitude within -180°…360°, got "
            f"'{lat}', '{lon}'; mend or leave out the line"
        )
    return y, x % 360


def ordered(labels: Labels) -> Labels:
    """Return the labels by time (and place), none twice; a series out of order is refused, as it may be misread.

    Raises:
        EarthSSLError: If a time (at a place) comes twice, or a series without places is not in order of time.
    """
    times, places = labels.times, labels.places
    back = np.flatnonzero(np.diff(times) < np.timedelta64(0, "s"))
    if places is None and len(back):
        k = int(back[0]) + 1
        raise EarthSSLError(
            f"{labels.where}, {labels.line(k)}: expected times in ascending order, got {times[k]} after "
            f"{times[k - 1]}; sort the file by time, or check how the dates are written"
        )
    keys = (times,) if places is None else (places[:, 1], places[:, 0], times)
    order = np.lexsort(keys)
    same = times[order][1:] == times[order][:-1]
    if places is not None:
        same &= (places[order][1:] == places[order][:-1]).all(1)
    if same.any():
        a, b = sorted((int(order[same.argmax()]), int(order[same.argmax() + 1])))
        place = "" if places is None else f" at {places[b][0]:g}°, {places[b][1]:g}°"
        raise EarthSSLError(
            f"{labels.where}, {labels.line(b)}: expected each time once, got {times[b]}{place} again (first in "
            f"{labels.line(a)}); keep one, or give lat and lon"
        )
    return _taken(labels, order)


def _taken(labels: Labels, rows: np.ndarray) -> Labels:
    made: Mapping[str, object] = {
        **vars(labels), "times": labels.times[rows], "values": labels.values[rows], "lines": labels.lines[rows],
        "places": None if labels.places is None else labels.places[rows],
    }  # fmt: skip
    return Labels(**made)  # type: ignore[arg-type]
