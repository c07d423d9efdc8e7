"""Labels: a user's own targets by time, and by place where they have one; refused where unclear."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.grid import LatLonGrid

LAT, LON = "lat", "lon"

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
