"""What the page may ask for: fields, states, analogues, known labels, marks, and what to label next."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..downstream.evaluation.label_tables import csv_table
from ..downstream.finetune.read_labels import read_labels
from ..downstream.results.assets import shared_files
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import sha256
from ..ssl.inference.frozen_encoder import FrozenEncoder
from ..ssl.store.store import Store
from .active import STRATEGIES, at_random, held_out, propose
from .fields import Fields
from .labels.journal import Journal, Mark
from .labels.netcdf_lock import NETCDF_LOCK
from .labels.outlines import check_outline, check_place
from .rebuilt import Decoders
from .run_maps import RunMaps
from .server import Answer, as_json
from .states import SPACES, Progress, States, analogues, cached, fits, points
from .umap_layout import layout

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json",
         ".svg": "image/svg+xml"}  # fmt: skip
MOST_COLUMNS = 64
CURVE = 8  # points of the curve of scores
APART_DAYS = 5.0  # between two proposals, or the steps of a store where they are longer


def page_files() -> dict[str, bytes]:
    """Return the files of the page by name; colours, type, controls and globes are those of the reports."""
    folder = resources.files("earthssl.look").joinpath("page")
    files = {file.name: file.read_bytes() for file in folder.iterdir() if Path(file.name).suffix in KINDS}
    return {**shared_files(), **files}


class Look:
    """The page's answers about one store, with or without an encoder.

    Attributes:
        fields: Of the store.
        journal: Labels given here.
        progress: Of the features.
    """

    def __init__(self, store: Store, journal: Journal, *, frozen: FrozenEncoder | None = None, checkpoint: str = "",
                 labels: Path | None = None, decoders: Decoders | None = None, maps: RunMaps | None = None,
                 ) -> None:  # fmt: skip
        """Look at the store; nothing of the encoder is computed before `start`.

        Args:
            store: The store.
            journal: Where labels go; its folder keeps the features, too.
            frozen: The encoder, if there is one.
            checkpoint: What it is called.
            labels: A table of labels that are known already, to colour points by.
            decoders: Of the encoder's pretext tasks.
            maps: Of a run.

        Raises:
            EarthSSLError: If the store or the labels cannot be read, or the encoder does not fit.
        """
        if frozen is not None:
            fits(frozen, store)
        self.store, self.journal, self.frozen, self.checkpoint = store, journal, frozen, checkpoint
        self.fields = Fields(store)
        self.files = page_files()
        self.progress = Progress()
        self.labels, self.decoders, self.maps = labels, decoders, maps
        self.columns = _columns(labels) if labels else []
        self._scores: dict[bytes, dict[str, Any] | None] = {}
        self._heavy = threading.Lock()  # one at a time: memory is bounded, and two would take longer than one
        self._known = cache(self._read_known)
        self._umap = cache(lambda: layout(self.progress.states().features, self.journal.folder))

    def start(self, weights: Path) -> threading.Thread:
        """Compute the features in the background and return its thread; `weights` names the encoder's file."""
        thread = threading.Thread(target=self._compute, args=(weights,), name="features", daemon=True)
        thread.start()
        return thread

    def get(self, name: str, query: Mapping[str, str]) -> Answer | None:
        """Return a file of the page, or an answer of the interface (`api/…`)."""
        if not name.startswith("api/"):
            body = self.files.get(name or "index.html")
            kind = KINDS[Path(name or "index.html").suffix] if body is not None else ""
            return None if body is None else Answer(body, f"{kind}; charset=utf-8")
        answers = {
            "meta": self._meta, "times": self._times, "field": self._field, "mean": self._mean, "states": self._states,
            "points": self._points, "analogues": self._analogues, "known": self._column, "labels": self._labels,
            "proposals": self._proposals, "tasks": self._tasks, "rebuilt": self._rebuilt, "maps": self._maps,
            "map": self._map, "umap": self._umap_points,
        }  # fmt: skip
        how = answers.get(name.removeprefix("api/"))
        return None if how is None else how(query)

    def post(self, name: str, record: dict[str, Any]) -> Answer | None:
        """Keep a mark (`api/labels`) or an unfinished region (`api/draft`), or undo (`api/undo`), and return all."""
        if name == "api/undo":
            undone = self.journal.undo()
            return as_json({**self.journal.describe(), "undone": None if undone is None else undone.time})
        if name not in ("api/labels", "api/draft"):
            return None
        step, label = record.get("step"), record.get("label")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < len(self.store.times):
            raise EarthSSLError(f"step: expected 0…{len(self.store.times) - 1}, got {str(step)[:40]}")
        if not isinstance(label, str):
            raise EarthSSLError('label: expected a word, or "" to take the mark away')
        time, place, region = str(self.store.times[step]), record.get("place"), record.get("region")
        if name == "api/draft":
            self.journal.keep_draft(time, label, region)
            return as_json(self.journal.describe())
        if place is not None and region is not None:
            raise EarthSSLError("expected a place or a region, got both")
        lat, lon = (None, None) if place is None else check_place(place)
        outline = None if region is None else () if region == [] else check_outline(region)
        self.journal.add(Mark(time, label, lat, lon, outline))
        if outline and label:
            self.journal.keep_draft(time, label, [])
        return as_json(self.journal.describe())

    # ---- answers ---------------------------------------------------------------------------------------------

    def _meta(self, query: Mapping[str, str]) -> Answer:
        return as_json(self.meta())

    def meta(self) -> dict[str, Any]:
        """Return what the page needs before its first picture."""
        return {
            **self.fields.describe(), "store": Path(self.store.address).name, "checkpoint": self.checkpoint,
            "encoder": self.frozen is not None, "known": self.columns, "spaces": list(SPACES),
            "strategies": list(STRATEGIES), "window": self.frozen.record.encoder.window if self.frozen else 1,
            "decoders": self.decoders is not None, "maps": self.maps is not None,
        }  # fmt: skip

    def _times(self, query: Mapping[str, str]) -> Answer:
        return Answer(self.fields.seconds.astype("<f8").tobytes())

    def _field(self, query: Mapping[str, str]) -> Answer:
        first, count = _whole(query, "first"), _whole(query, "count", 1)
        block = self.fields.block(query.get("variable", ""), query.get("kind", ""), first, count)
        return Answer(block.astype("<f4").tobytes())

    def _mean(self, query: Mapping[str, str]) -> Answer:
        states = self.progress.states()
        if query.get("layout", "components") == "umap":
            with self._heavy:
                x, y = self._umap().T
        else:
            x, y = (states.features[:, self._axis(query, name, states)] for name in ("x", "y"))
        west, east, south, north = (_number(query, name) for name in ("x0", "x1", "y0", "y1"))
        inside = (x >= west) & (x <= east) & (y >= south) & (y <= north)
        with self._heavy:
            field, used = self.fields.mean(query.get("variable", ""), query.get("kind", ""), states.rows[inside])
        return Answer(field.astype("<f4").tobytes(), headers={"X-Count": str(int(inside.sum())), "X-Used": str(used)})

    def _axis(self, query: Mapping[str, str], name: str, states: States) -> int:
        axis = _whole(query, name)
        if not 0 <= axis < states.features.shape[1]:
            raise EarthSSLError(f"{name}: expected a component 0…{states.features.shape[1] - 1}, got {axis}")
        return axis

    def _states(self, query: Mapping[str, str]) -> Answer:
        progress = self.progress
        found = {"share": round(progress.share, 4), "error": progress.error, "ready": progress.ready is not None}
        if progress.ready is not None:
            found["explained"] = points(progress.ready)["explained"]
        return as_json(found)

    def _points(self, query: Mapping[str, str]) -> Answer:
        found = points(self.progress.states())
        body = found["rows"].astype("<i4").tobytes() + found["values"].astype("<f4").tobytes()
        return Answer(body, headers={"X-Count": str(len(found["rows"]))})

    def _umap_points(self, query: Mapping[str, str]) -> Answer:
        self.progress.states()
        with self._heavy:
            return Answer(self._umap().astype("<f4").tobytes())

    def _analogues(self, query: Mapping[str, str]) -> Answer:
        states, step = self.progress.states(), _whole(query, "step")
        exclude, count = _number(query, "exclude", 30.0), int(np.clip(_whole(query, "count", 4), 1, 20))
        with self._heavy:
            found = {
                space: [vars(one) for one in analogues(states, self.store, step, space, count, exclude)]
                for space in dict.fromkeys(query.get("spaces", ",".join(SPACES)).split(","))
            }
        return as_json(found)

    def _tasks(self, query: Mapping[str, str]) -> Answer:
        with self._heavy:
            return as_json([] if self.decoders is None else self.decoders.describe())

    def _rebuilt(self, query: Mapping[str, str]) -> Answer:
        if self.decoders is None:
            raise EarthSSLError("expected a checkpoint with its pretext tasks, got none; start with --checkpoint")
        step, draw, lead = _whole(query, "step"), _whole(query, "draw", 0), _whole(query, "lead", 0)
        with self._heavy:
            found = self.decoders.show(query.get("task", ""), query.get("variable", ""), step, draw, lead)
        fields = np.stack([found.truth, found.shown, found.made, found.error])
        return Answer(
            fields.astype("<f4").tobytes(), headers={"X-RMS": f"{found.rms:g}", "X-Usual": f"{found.usual:g}"}
        )

    def _column(self, query: Mapping[str, str]) -> Answer:
        name = query.get("column", "")
        if self.labels is None or name not in self.columns:
            raise EarthSSLError(f"column: expected one of {', '.join(self.columns) or 'none'}, got '{name[:60]}'")
        with self._heavy:
            return as_json(self._known(name))

    def _maps(self, query: Mapping[str, str]) -> Answer | None:
        return None if self.maps is None else as_json(self.maps.describe())

    def _map(self, query: Mapping[str, str]) -> Answer | None:
        if self.maps is None:
            return None
        at = [_whole({"at": word}, "at") for word in query.get("at", "").split(",") if word]
        return Answer(self.maps.read(_whole(query, "number"), at).astype("<f4").tobytes())

    def _labels(self, query: Mapping[str, str]) -> Answer:
        return as_json(self.journal.describe())

    def _proposals(self, query: Mapping[str, str]) -> Answer:
        """Return what to label next and how good the head is, by the classes of dates and of regions at them.

        Of eight, six are chosen in the training block, one in validation, and one is drawn at random in test:
        `finetune` needs labels in each, and its scores a fair sample. What labels of test dates say reaches nothing.
        """
        states = self.progress.states()
        steps, words = self._marked(states)
        labelled = np.searchsorted(states.rows, steps)
        days = self.store.times[states.rows].astype(np.float64) / 86400
        count, apart = min(_whole(query, "count", 8), 64), max(APART_DAYS, self.store.step_days)
        when = self.store.times[states.rows].astype("datetime64[ns]")
        inside = {part: self.store.splits.inside(when, part) for part in ("train", "val", "test")}
        chooser = np.random.default_rng(len(labelled))
        fair = at_random(days, labelled, count // 8, apart, inside["test"], chooser)
        ours = ~inside["test"][labelled]  # what test says must reach neither a choice nor the score one labels by
        labelled, words = labelled[ours], [word for word, own in zip(words, ours, strict=True) if own]
        classes = sorted(set(words))
        numbers = np.array([classes.index(word) for word in words], int)
        shares = {"train": count - count // 8 - len(fair), "val": count // 8}
        with self._heavy:
            chosen = [k for part, share in shares.items()
                      for k in propose(states.features, days, labelled, numbers, query.get("how", "both"), share, apart,
                                       inside[part])] + fair  # fmt: skip
            sizes = np.unique(np.linspace(0, len(labelled), CURVE + 1).astype(int)[1:])
            scores = [self._score(states, labelled[:n], numbers[:n]) for n in sizes]
        proposed = [int(states.rows[k]) for k in chosen]
        last = scores[-1] if scores else None
        return as_json({"steps": proposed, "score": last, "scores": [one for one in scores if one is not None]})

    def _score(self, states: States, labelled: np.ndarray, numbers: np.ndarray) -> dict[str, Any] | None:
        """Return the head's score with these labels, kept for the next time; None where they are too few."""
        key = labelled.tobytes() + numbers.tobytes()
        if key not in self._scores:
            years = self.store.times[states.rows[labelled]].astype("datetime64[Y]").astype(int)
            found = held_out(states.features[labelled], numbers, years)
            self._scores[key] = None if found is None else dict(vars(found))
        return self._scores[key]

    def _marked(self, states: States) -> tuple[np.ndarray, list[str]]:
        """Return the steps with a label where a window ends, the newest last, and their classes.

        A date that has no class of its own but regions has theirs, joined by " + ".
        """
        at = {str(time): k for k, time in enumerate(self.store.times)}
        ends, marks = set(states.rows.tolist()), self.journal.ordered()
        words = {mark.time: {mark.label} for mark in marks if mark.kind == "date"}
        drawn: dict[str, set[str]] = {}
        for mark in marks:
            if mark.kind in ("region", "nothing") and mark.time not in words:
                drawn.setdefault(mark.time, set()).add(mark.label)
        order = dict.fromkeys(mark.time for mark in marks if mark.time in words or mark.time in drawn)
        found = [(at[time], " + ".join(sorted({**words, **drawn}[time]))) for time in order if time in at]
        found = [(step, word) for step, word in found if step in ends]
        return np.array([step for step, _ in found], int), [word for _, word in found]

    def _read_known(self, name: str) -> dict[str, Any]:
        """Return a column of the known labels at the store's steps: numbers (None where missing), or classes."""
        path = str(self.labels)
        with NETCDF_LOCK:  # a name that ends in .nc is opened as such
            try:
                found = read_labels(path, [name], "regression", missing="drop")
                values: list[Any] = found.values[:, 0].tolist()
            except EarthSSLError:
                found = read_labels(path, [name], "classification", missing="drop")
                values = found.values.tolist()
        unit = "datetime64[M]" if self.store.step_days > 20 else "datetime64[s]"
        at = {time: k for k, time in enumerate(self.store.times.astype(unit).astype(np.int64).tolist())}
        when = found.times.astype(unit).astype(np.int64).tolist()
        pairs = [(at[time], value) for time, value in zip(when, values, strict=True) if time in at]
        words = any(isinstance(value, str) for _, value in pairs)
        return {"name": name, "classes": words, "steps": [k for k, _ in pairs], "values": [v for _, v in pairs]}

    def _compute(self, weights: Path) -> None:
        assert self.frozen is not None
        try:
            self.progress.ready = cached(self.journal.folder, self.frozen, self.store, sha256(weights), self.progress)
        except EarthSSLError as error:
            self.progress.error = str(error)
        except Exception as error:
            self.progress.error = f"{type(error).__name__}: {error}"[:600]


def _columns(file: Path) -> list[str]:
    """Return the names of a CSV file's columns that hold labels."""
    try:
        header, _ = csv_table(file)
    except OSError as error:
        raise EarthSSLError(f"--labels {file}: expected a CSV file in UTF-8, got none ({error})") from None
    if "time" not in header or len(header) < 2:
        raise EarthSSLError(f"{file}, line 1: expected columns 'time' and of labels, got {', '.join(header)[:200]}")
    return [name for name in header if name not in ("time", "lat", "lon")][:MOST_COLUMNS]


def _whole(query: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = query.get(name, "" if otherwise is None else str(otherwise))
    try:
        return int(text)
    except ValueError:
        raise EarthSSLError(f"{name}: expected a whole number, got '{text[:40]}'") from None


def _number(query: Mapping[str, str], name: str, otherwise: float | None = None) -> float:
    text = query.get(name, "" if otherwise is None else str(otherwise))
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise EarthSSLError(f"{name}: expected a number, got '{text[:40]}'")
    return found
