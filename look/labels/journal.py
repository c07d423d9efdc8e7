"""Labels given on the page: every mark is on disk before it is answered, and stands in files that `finetune` reads.

`labels.jsonl` is a journal that is only appended to; the tables `labels.csv` (time, label) and `places.csv` (time, lat,
lon, label), the outlines `regions.csv` and their masks `regions.nc` are written anew from it, atomically, after every
mark. A last line cut short by a kill is passed over. `draft.json` holds the corners of a region that is not closed yet.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, no_link, write_json, write_text
from ...ssl.fields.grid import LatLonGrid
from .classes import check_class, composed
from .outlines import DIGITS, Outline, cells_of, centre, check_corners, check_outline
from .region_tables import MASKS, MOST_CELLS, NOTHING, OUTLINES, Region, check_region_class, write_masks, write_outlines

JOURNAL, DATES, PLACES, DRAFT = "labels.jsonl", "labels.csv", "places.csv", "draft.json"
MOST = 24  # classes


@dataclass(frozen=True)
class Mark:
    """A class of a date, or of a place or a region at it.

    Attributes:
        time: ISO, UTC.
        label: The class; "" takes the mark away.
        lat, lon: Degrees; None for the whole field.
        outline: Of a region; () with the class `NOTHING` says that the date has none; None for dates and places.
    """

    time: str
    label: str
    lat: float | None = None
    lon: float | None = None
    outline: Outline | None = None

    def __post_init__(self) -> None:
        """Round the place to what the table holds, and compose the class: people who say the same mean the same.

        Raises:
            EarthSSLError: If the outline cannot stand.
        """
        object.__setattr__(self, "label", composed(self.label))
        for name in ("lat", "lon"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, round(float(value), DIGITS))
        if self.outline is not None:
            object.__setattr__(self, "outline", check_outline(self.outline) if self.outline else ())
            if self.label and (self.label == NOTHING) == bool(self.outline):
                raise EarthSSLError(f"region: expected an outline, or none and the class '{NOTHING}', got one of both")

    @property
    def key(self) -> tuple[str, float | None, float | None, Outline | None]:
        """What it is a class of."""
        return self.time, self.lat, self.lon, self.outline

    @property
    def kind(self) -> str:
        """date, place, region or nothing: what it is a class of, in a word."""
        if self.outline is None:
            return "date" if self.lat is None else "place"
        return "region" if self.outline else "nothing"

    def record(self) -> dict[str, Any]:
        """Return it as plain JSON; `Mark(**record)` is the inverse."""
        return {name: value for name, value in asdict(self).items() if name != "outline" or value is not None}


class Journal:
    """The marks in a folder; safe for several threads, and for one process at a time (`ssl.common.files.locked`)."""

    def __init__(self, folder: Path, grid: LatLonGrid | None = None) -> None:
        """Read what was marked before.

        Args:
            folder: Of the files; it is created.
            grid: Of the masks; without one regions are kept as outlines alone.

        Raises:
            EarthSSLError: If the journal is damaged before its last line.
        """
        self.folder, self.grid = folder, grid
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._marks: list[Mark] = []  # as given, less those undone
        self._cells: dict[Outline, np.ndarray] = {}  # packed: of regions that were asked for
        self._read()
        self._write_tables()
        self.draft = self._read_draft()

    def add(self, mark: Mark) -> None:
        """Keep a mark.

        Raises:
            EarthSSLError: If the class is no word (of a region: no name of a mask), there are too many, a region holds
                no cell's centre or is said to be none, or the disk is full.
        """
        if mark.label:
            mark = replace(mark, label=check_class(mark.label))
        with self._lock:
            known = {one.label for one in self._marks}
            if mark.label and mark.label not in known and len(known) >= MOST:
                raise EarthSSLError(f"expected at most {MOST} classes, got another: '{mark.label}'")
            if mark.label and mark.outline is not None:
                self._check_region(mark)
            self._append(mark.record())
            self._marks.append(mark)
            self._write_tables()

    def _check_region(self, mark: Mark) -> None:
        own = [one for one in self._current() if one.kind in ("region", "nothing")]
        if mark.kind == "nothing":
            if any(one.kind == "region" and one.time == mark.time for one in own):
                raise EarthSSLError(f"{mark.time}: expected no region where the date is to have none; remove it first")
            return
        check_region_class(mark.label)
        if self.grid is None or mark.outline is None:
            return
        if not self.cells(mark.outline).any():
            raise EarthSSLError("region: expected the centre of a cell of the grid inside, got none; draw it larger")
        times, classes = {one.time for one in [*own, mark]}, {one.label for one in [*own, mark]} - {NOTHING}
        if len(times) * len(classes) * int(np.prod(self.grid.shape)) > MOST_CELLS:
            raise EarthSSLError(f"regions: expected masks of at most {MOST_CELLS} cells in all; start another --out")

    def cells(self, outline: Outline) -> np.ndarray:
        """Return which cells of the grid lie inside an outline, bool (row, column)."""
        assert self.grid is not None
        if outline not in self._cells:
            self._cells[outline] = np.packbits(cells_of(outline, self.grid))
        rows, columns = self.grid.shape
        return np.unpackbits(self._cells[outline], count=rows * columns).astype(bool).reshape(rows, columns)

    def keep_draft(self, time: str, label: str, corners: Any) -> None:
        """Keep the corners of a region that is not closed yet, in place of those before; none: forget them.

        Raises:
            EarthSSLError: If they are no corners, or the disk is full.
        """
        found, word = check_corners(corners, fewest=0), check_class(label) if label else ""
        draft = {"time": time, "label": word, "corners": [list(corner) for corner in found]} if found else None
        with self._lock:
            write_json(self.folder / DRAFT, draft)
            self.draft = draft

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
            standing = {mark.key: k for k, mark in enumerate(self._marks)}
            return sorted(self._current(), key=lambda mark: standing[mark.key])

    def describe(self) -> dict[str, Any]:
        """Return the marks that stand, the newest last, and the classes, as plain JSON."""
        kept = self.ordered()
        with self._lock:
            classes = list(dict.fromkeys(mark.label for mark in self._marks if mark.label))  # in order of first use
            classes = [name for name in classes if name != NOTHING]
            return {"marks": [_described(mark) for mark in kept], "given": len(self._marks), "classes": classes,
                    "nothing": NOTHING, "draft": self.draft}  # fmt: skip

    def _current(self) -> list[Mark]:
        standing = {mark.key: mark for mark in self._marks}
        kept = [mark for mark in standing.values() if mark.label]
        drawn = {mark.time for mark in kept if mark.kind == "region"}  # a region takes back that there is none
        kept = [mark for mark in kept if mark.kind != "nothing" or mark.time not in drawn]
        return sorted(kept, key=lambda m: (m.time, m.lat is not None, m.lat or 0.0, m.lon or 0.0, m.outline or ()))

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
            except (ValueError, TypeError, AttributeError, IndexError, EarthSSLError) as error:
                raise EarthSSLError(
                    f"{file}, line {number}: expected a mark, but it cannot be read ({error}); take the line out, or "
                    "start anew with another --out"
                ) from None
            self._marks.append(mark)

    def _read_draft(self) -> dict[str, Any] | None:
        """Return the unfinished region; None where there is none, it was closed meanwhile, or it cannot be read."""
        try:
            record = json.loads((self.folder / DRAFT).read_bytes())
            corners, time = check_corners(record["corners"], fewest=1), str(np.datetime64(record["time"]))
            label = check_class(record["label"]) if record["label"] else ""
        except (OSError, ValueError, TypeError, KeyError, AttributeError, EarthSSLError):
            return None
        if any(mark.time == time and mark.outline == corners for mark in self._marks):
            return None
        return {"time": time, "label": label, "corners": [list(corner) for corner in corners]}

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
        dates = [(mark.time, mark.label) for mark in marks if mark.kind == "date"]
        places = [(m.time, f"{m.lat:.{DIGITS}f}", f"{m.lon:.{DIGITS}f}", m.label) for m in marks if m.kind == "place"]
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
        regions: list[Region] = [(m.time, m.label, m.outline) for m in marks if m.outline is not None]
        if regions or (self.folder / OUTLINES).exists():
            write_outlines(self.folder / OUTLINES, regions)
            if self.grid is not None:
                write_masks(self.folder / MASKS, regions, self.grid, self.cells)


def _described(mark: Mark) -> dict[str, Any]:
    """Return a mark as the page shows it: with its kind, and the middle of a region."""
    at = centre(mark.outline) if mark.outline else None
    return {**mark.record(), "kind": mark.kind, **({"at": list(at)} if at else {})}
