"""Labels given on the page: every mark is on disk before it is answered, and stands in CSV that `finetune` reads.

`labels.jsonl` is a journal that is only appended to; the tables `labels.csv` (time, label) and `places.csv` (time, lat,
lon, label) are written anew from it, atomically, after every mark. A last line cut short by a kill is passed over.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..downstream.finetune.read_labels import NO_VALUE
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import disk_full_is_clear, no_link, write_text

JOURNAL, DATES, PLACES = "labels.jsonl", "labels.csv", "places.csv"
PLACES_DIGITS = 4  # of a degree
LONGEST = 40
MOST = 24  # classes


@dataclass(frozen=True)
class Mark:
    """A class of a date or of a place at it.

    Attributes:
        time: ISO, UTC.
        label: The class; "" takes the mark away.
        lat, lon: Degrees; None for the whole field.
    """

    time: str
    label: str
    lat: float | None = None
    lon: float | None = None

    def __post_init__(self) -> None:
        """Round the place to what the table holds: people who click the same place mean the same."""
        for name in ("lat", "lon"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, round(float(value), PLACES_DIGITS))

    @property
    def key(self) -> tuple[str, float | None, float | None]:
        """What it is a class of."""
        return self.time, self.lat, self.lon


def check_class(word: str) -> str:
    """Return the name of a class, stripped.

    Raises:
        EarthSSLError: If `finetune` or a spreadsheet would read something else in it.
    """
    name = word.strip()
    try:
        float(name)
        number = True
    except ValueError:
        number = False
    if not name or len(name) > LONGEST or not name.isprintable():
        raise EarthSSLError(f"class: expected a word of 1 to {LONGEST} signs, got '{name[: LONGEST + 1]}'")
    if number or name.lower() in NO_VALUE or name[0] in "=+-@'\"":
        raise EarthSSLError(f"class: expected a word such as blocked, got '{name}', which is read as something else")
    return name


class Journal:
    """The marks in a folder; safe for several threads, and for one process at a time (`ssl.common.files.locked`)."""

    def __init__(self, folder: Path) -> None:
        """Read what was marked before.

        Raises:
            EarthSSLError: If the journal is damaged before its last line.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._marks: list[Mark] = []  # as given, less those undone
        self._read()
        self._write_tables()

    def add(self, mark: Mark) -> None:
        """Keep a mark.

        Raises:
            EarthSSLError: If the class is no word, there are too many, or the disk is full.
        """
        if mark.label:
            mark = Mark(mark.time, check_class(mark.label), mark.lat, mark.lon)
        with self._lock:
            known = {one.label for one in self._marks}
            if mark.label and mark.label not in known and len(known) >= MOST:
                raise EarthSSLError(f"expected at most {MOST} classes, got another: '{mark.label}'")
            self._append(asdict(mark))
            self._marks.append(mark)
            self._write_tables()

    def undo(self) -> Mark | None:
        """Take the last mark back and return it; None where there is none."""
        with self._lock:
            if not self._marks:
                return None
            self._append({"undo": True})
            mark = self._marks.pop()
            self._write_tables()
            return mark

    def current(self) -> list[Mark]:
        """Return the marks that stand, by time and place: the last of each."""
        with self._lock:
            return self._current()

    def ordered(self) -> list[Mark]:
        """Return the marks that stand, the newest last."""
        with self._lock:
            standing = {mark.key: (k, mark) for k, mark in enumerate(self._marks)}
            return [mark for _, mark in sorted(standing.values(), key=lambda one: one[0]) if mark.label]

    def describe(self) -> dict[str, Any]:
        """Return the marks that stand, the newest last, and the classes, as plain JSON."""
        kept = self.ordered()
        with self._lock:
            classes = list(dict.fromkeys(mark.label for mark in self._marks if mark.label))  # in order of first use
            return {"marks": [asdict(mark) for mark in kept], "given": len(self._marks), "classes": classes}

    def _current(self) -> list[Mark]:
        standing = {mark.key: mark for mark in self._marks}
        kept = [mark for mark in standing.values() if mark.label]
        return sorted(kept, key=lambda m: (m.time, m.lat is not None, m.lat or 0.0, m.lon or 0.0))

    def _read(self) -> None:
        file = self.folder / JOURNAL
        if not file.is_file():
            return
        whole, _, cut = file.read_bytes().rpartition(b"\n")
        if cut:  # a kill while it was written: it was never answered
            with open(file, "r+b", opener=no_link) as handle:
                handle.truncate(len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.splitlines() if whole else [], 1):
            try:
                record = json.loads(line)
                if record.get("undo"):
                    self._marks.pop()
                    continue
                mark = Mark(**record)
                np.datetime64(mark.time)
            except (ValueError, TypeError, AttributeError, IndexError) as error:
                raise EarthSSLError(
                    f"{file}, line {number}: expected a mark, but it cannot be read ({error}); take the line out, or "
                    "start anew with another --out"
                ) from None
            self._marks.append(mark)

    def _append(self, record: dict[str, Any]) -> None:
        file, line = self.folder / JOURNAL, json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with disk_full_is_clear(file), open(file, "ab", buffering=0, opener=no_link) as handle:
            before = handle.seek(0, os.SEEK_END)
            try:
                if handle.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(before)  # half a line would spoil the next one
                raise

    def _write_tables(self) -> None:
        marks = self._current()
        dates = [(mark.time, mark.label) for mark in marks if mark.lat is None]
        places = [
            (m.time, f"{m.lat:.{PLACES_DIGITS}f}", f"{m.lon:.{PLACES_DIGITS}f}", m.label)
            for m in marks
            if m.lat is not None
        ]
        for name, header, rows in (
            (DATES, ("time", "label"), dates),
            (PLACES, ("time", "lat", "lon", "label"), places),
        ):
            file = self.folder / name
            if not rows and not file.exists():
                continue
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([header, *rows])
            write_text(file, text.getvalue())
