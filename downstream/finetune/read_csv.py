"""Labels from CSV: a header, a column of ISO times in UTC, a column for each target, perhaps lat and lon."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...ssl.common.errors import EarthSSLError, nearest
from .labels import FIRST_YEAR, LAST_YEAR, LAT, LON, Labels, class_words, ordered, refuse_marks

ISO = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?)?)?)?(Z|[+-]\d{2}:?\d{2})?$")
NO_VALUE = {"", "nan", "na", "n/a", "null", "none", "-"}


def read_csv(file: Path, targets: Sequence[str], kind: str, time: str, missing: str) -> Labels:
    """Return the labels in a CSV file.

    Raises:
        EarthSSLError: If a line is not clear: which one, what was expected, what came, and the remedy.
    """
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
