"""Other people's labels beside one's own: taken where there are none, listed where they differ, nothing overwritten."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...downstream.finetune.read_labels import read_labels
from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import write_text
from .journal import Journal, Mark
from .outlines import centre
from .region_tables import is_outlines, read_outlines

CONFLICTS = "conflicts.csv"
SAME = 0.5  # share of the cells of either that two outlines of one region have in common at least


@dataclass(frozen=True)
class Merged:
    """What came of the labels of a file.

    Attributes:
        taken: How many are new here.
        same: How many say what was said here.
        absent: How many are of times that the store does not have.
        conflicts: Own mark and theirs, where they differ: the own one stays.
    """

    taken: int
    same: int
    absent: int
    conflicts: list[tuple[Mark, Mark]]

    def __str__(self) -> str:
        return (
            f"{self.taken} labels taken, {self.same} the same, {len(self.conflicts)} differ (the own ones stay), "
            f"{self.absent} of times that the store does not have"
        )


def merge(journal: Journal, files: list[Path], times: np.ndarray) -> list[Merged]:
    """Take the labels of tables that `Journal` writes and list all conflicts in `conflicts.csv` beside its own.

    Args:
        journal: One's own.
        files: Of others: a column `label`, and `lat` and `lon` for places, or `outline` for regions.
        times: Of the store, datetime64[s].

    Raises:
        EarthSSLError: If a file is no such table, or a class is no word.
    """
    known = set(times.tolist())
    found, rows = [], []
    for file in files:
        one = _merged_regions(journal, file, known) if is_outlines(file) else _merged(journal, file, known)
        found.append(one)
        rows += [(own.time, *_place(own), own.label, theirs.label, file) for own, theirs in one.conflicts]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("time", "lat", "lon", "own", "theirs", "file"), *rows])
    write_text(journal.folder / CONFLICTS, text.getvalue())
    return found


def _merged(journal: Journal, file: Path, known: set[object]) -> Merged:
    labels = read_labels(str(file), ["label"], "classification", missing="drop")
    own = {mark.key: mark for mark in journal.current() if mark.outline is None}
    taken = same = absent = 0
    conflicts = []
    for k, (time, word) in enumerate(zip(labels.times, labels.values, strict=True)):
        if time.item() not in known:
            absent += 1
            continue
        lat, lon = (None, None) if labels.places is None else map(float, labels.places[k])
        theirs = Mark(str(time), str(word), lat, lon)
        mine = own.get(theirs.key)
        if mine is None:
            journal.add(theirs)
            own[theirs.key] = theirs
            taken += 1
        elif mine.label == theirs.label:
            same += 1
        else:
            conflicts.append((mine, theirs))
    return Merged(taken, same, absent, conflicts)


def _merged_regions(journal: Journal, file: Path, known: set[object]) -> Merged:
    """Take regions that meet none that stood before; those of half of their cells and the class in common are the same.

    Those of the file may meet each other, as regions of two classes do; only what cannot stand beside another is none.
    """
    own: dict[str, list[Mark]] = {}
    new: dict[str, list[Mark]] = {}
    for mark in journal.current():
        if mark.kind in ("region", "nothing"):
            own.setdefault(mark.time, []).append(mark)
    taken = same = absent = 0
    conflicts = []
    for time, word, outline in read_outlines(file):
        if np.datetime64(time).item() not in known:
            absent += 1
            continue
        theirs = Mark(time, word, outline=outline)
        before, here = own.get(time, []), new.setdefault(time, [])
        met = [mark for mark in before if _meet(journal, mark, theirs)]
        met += [mark for mark in here if mark.outline == theirs.outline or not (mark.outline and theirs.outline)]
        alike = [mark for mark in (*before, *here) if mark.label == theirs.label]
        if any(_common(journal, mark, theirs) >= SAME for mark in alike):
            same += 1
        elif met:
            conflicts += [(mark, theirs) for mark in met]
        else:
            try:
                journal.add(theirs)
            except EarthSSLError as error:
                raise EarthSSLError(f"{file}: {error}") from None
            here.append(theirs)
            taken += 1
    return Merged(taken, same, absent, conflicts)


def _meet(journal: Journal, one: Mark, other: Mark) -> bool:
    """Return whether two marks speak of the same: regions with a cell in common, or that there is none."""
    if not one.outline or not other.outline:
        return True
    return bool((journal.cells(one.outline) & journal.cells(other.outline)).any())


def _common(journal: Journal, one: Mark, other: Mark) -> float:
    """Return the share of all their cells that two regions have in common; 1 for two that say there is none."""
    if not one.outline or not other.outline:
        return float(one.outline == other.outline)
    a, b = journal.cells(one.outline), journal.cells(other.outline)
    return float((a & b).sum() / (a | b).sum())


def _place(mark: Mark) -> tuple[float | None, float | None]:
    """Return latitude and longitude of a place or of the middle of a region."""
    return centre(mark.outline) if mark.outline else (mark.lat, mark.lon)
