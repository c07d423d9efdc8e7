"""Other people's labels beside one's own: taken where there are none, listed where they differ, nothing overwritten."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..downstream.finetune.read_labels import read_labels
from ..ssl.common.files import write_text
from .label_journal import Journal, Mark

CONFLICTS = "conflicts.csv"


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
        files: Of others: a column `label`, and `lat` and `lon` for places.
        times: Of the store, datetime64[s].

    Raises:
        EarthSSLError: If a file is no such table, or a class is no word.
    """
    known = set(times.tolist())
    found, rows = [], []
    for file in files:
        one = _merged(journal, file, known)
        found.append(one)
        rows += [(own.time, own.lat, own.lon, own.label, theirs.label, file) for own, theirs in one.conflicts]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("time", "lat", "lon", "own", "theirs", "file"), *rows])
    write_text(journal.folder / CONFLICTS, text.getvalue())
    return found


def _merged(journal: Journal, file: Path, known: set[object]) -> Merged:
    labels = read_labels(str(file), ["label"], "classification", missing="drop")
    own = {mark.key: mark for mark in journal.current()}
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
