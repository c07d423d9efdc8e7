"""Labels: a user's own targets by time, and by place where they have one; refused where unclear."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.grid import LatLonGrid
from ..evaluation.label_tables import far_marks


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
        regridded: What was done to bring fields to another grid, in words; "" for nothing.
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
    regridded: str = ""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def place(self) -> np.ndarray:
        """Number of each label's place, (label,); 0 for labels of the whole field."""
        if self.places is None:
            return np.zeros(len(self), int)
        return np.unique(self.places, axis=0, return_inverse=True)[1].ravel()

    def line(self, k: int) -> str:
        """Return where a label stands, in words."""
        return f"line {self.lines[k]}" if self.lines[k] else f"time {self.times[k]}"

    def twice(self, when: np.ndarray) -> tuple[int, int] | None:
        """Return the first label that shares place and `when`, (label,), with one before, after that one; or None."""
        keys = pd.DataFrame({"when": when, "place": self.place})
        again = np.flatnonzero(keys.duplicated())
        return (int((keys == keys.loc[again[0]]).all(axis=1).argmax()), int(again[0])) if len(again) else None


def checked(labels: Labels) -> Labels:
    """Return the labels by time (and place), classes in one spelling; what may be misread is refused.

    Raises:
        EarthSSLError: If a time (at a place) comes twice, a series without places is not in order of time, a number
            looks like a mark of what is missing, or classes are not whole numbers or words throughout.
    """
    times, places, where = labels.times, labels.places, labels.where
    if labels.kind == "classification":
        labels = replace(labels, values=_class_words(labels))
        with contextlib.suppress(ValueError):  # words
            _refuse_marks(labels, labels.names[0], labels.values.astype(float))
    elif labels.kind == "regression":
        for name, values in zip(labels.names, labels.values.T, strict=True):
            _refuse_marks(labels, name, values)
    else:
        _refuse_marks(labels, labels.names[0], labels.values)
    back = np.flatnonzero(np.diff(times) < np.timedelta64(0, "s"))
    if places is None and len(back):
        k = int(back[0]) + 1
        raise EarthSSLError(
            f"{where}, {labels.line(k)}: expected times in ascending order, got {times[k]} after {times[k - 1]}; sort "
            "the file by time, or check how the dates are written"
        )
    same = labels.twice(times)
    if same:
        a, b = same
        place = "" if places is None else f" at {places[b][0]:g}°, {places[b][1]:g}°"
        raise EarthSSLError(
            f"{where}, {labels.line(b)}: expected each time once, got {times[b]}{place} again (first in "
            f"{labels.line(a)}); keep one, or give lat and lon"
        )
    order = np.lexsort((labels.place, times))
    return replace(
        labels, times=times[order], values=labels.values[order], lines=labels.lines[order],
        places=None if places is None else places[order],
    )  # fmt: skip


def _refuse_marks(labels: Labels, name: str, values: np.ndarray) -> None:
    """Raise where a number that files often put for a missing value lies far from all that is usual.

    Args:
        labels: For what the message says.
        name: Of the target.
        values: Of it, (label,) or (label, row, column).
    """
    marks, (low, high) = far_marks(values)
    if not marks.any():
        return
    first = tuple(int(k) for k in np.argwhere(marks)[0])
    place = ""
    if labels.grid is not None:
        place = f" at {labels.grid.lat[first[1]]:g}°, {labels.grid.lon[first[2]]:g}°"
    remedy = "leave these empty and set missing: drop" if values.ndim == 1 else "write NaN, or declare it as _FillValue"
    raise EarthSSLError(
        f"{labels.where}, {labels.line(first[0])}: expected a value of '{name}'{place}, got {values[first]:g}, far "
        f"from the others ({low:.3g} to {high:.3g}) and a usual mark of what is missing ({int(marks.sum())} such); "
        f"{remedy}"
    )


def _class_words(labels: Labels) -> np.ndarray:
    """Return the classes as words, whole numbers in one spelling."""
    words, name = labels.values, labels.names[0]
    kinds = [_class_word(word) for word in words]
    first = kinds[0][0]
    for k, (number, word) in enumerate(kinds):
        if number != first:
            raise EarthSSLError(
                f"{labels.where}, {labels.line(k)}: expected {'a number' if first else 'a word'} as class of '{name}', "
                f"as in {labels.line(0)} ('{words[0]}'), got '{words[k]}'; spell the classes in one way"
            )
        if number and "." in word:
            raise EarthSSLError(
                f"{labels.where}, {labels.line(k)}: expected whole numbers or words as classes of '{name}', got "
                f"'{words[k]}'; for numbers set kind: regression"
            )
    return np.asarray([word for _, word in kinds])


def _class_word(word: str) -> tuple[bool, str]:
    try:
        value = float(word)
    except ValueError:
        return False, word
    return True, str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
