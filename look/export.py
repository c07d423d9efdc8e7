"""The page as one HTML file that works without a server: some steps, the points, and the labels."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import write_text
from .application import Look
from .fields import KINDS
from .states import points

MODULES = ("state", "colours", "projection", "fieldview", "source", "scatter", "fieldpanel", "featurepanel",
           "analoguepanel", "encoderpanel", "mapspanel", "regionpanel", "labelpanel", "app")  # fmt: skip
MISSING = -32768
MOST_POINTS = 20_000
MOST_BYTES = 64 * 2**20
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def export(look: Look, weights: Path | None, file: Path, most: int = 120, dates: str = "") -> Path:
    """Write the page with some steps of every variable and return the file.

    Args:
        look: What is shown.
        weights: The encoder's file, where its states are to be shown.
        file: To be written, atomically.
        most: Steps, evenly spread over the dates.
        dates: FIRST:LAST, ISO; "" for all.

    Raises:
        EarthSSLError: If no step lies within the dates, or the file would be too large to be opened.
    """
    steps = _chosen(look, most, dates)
    store = look.store
    size = len(steps) * int(np.prod(store.shape[1:])) * 2 * len(KINDS)
    if size > MOST_BYTES:
        raise EarthSSLError(
            f"--export: expected at most {MOST_BYTES >> 20} MiB of fields, got {size / 2**20:.0f}; take fewer --steps"
        )
    states: dict[str, Any] | None = None
    if weights is not None:
        look.start(weights).join()
        states = _states(look, steps)
    kept = sorted({*steps, *(states or {}).pop("all", [])})
    record = {
        "meta": {**look.meta(), "known": []},
        "times": _packed(look.fields.seconds, "<f8"),
        "steps": steps,
        "fields": _fields(look, np.array(steps)),
        "points": states,
        "known": {},
        "labels": _labels(look, set(kept)),
        "coastlines": json.loads(look.files["coastlines.json"]),
    }
    write_text(file, _page(look.files, record))
    return file


def _chosen(look: Look, most: int, dates: str) -> list[int]:
    times = look.store.times
    inside = np.ones(len(times), bool)
    if dates:
        try:
            first, last = (np.datetime64(word) for word in dates.split(":", 1))
        except ValueError:
            raise EarthSSLError(f"--dates: expected FIRST:LAST such as 1997-01:1998-06, got '{dates}'") from None
        inside = (times >= first) & (times < last + 1)
    steps = np.flatnonzero(inside)
    if not len(steps) or most < 1:
        raise EarthSSLError(f"--dates {dates}: expected some step of the store ({times[0]} … {times[-1]}), got none")
    return [int(k) for k in steps[np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).astype(int))]]


def _fields(look: Look, steps: np.ndarray) -> dict[str, Any]:
    """Return every variable and kind in 16 bits: value = offset + scale × code."""
    found = {}
    for variable in look.store.variables:
        for kind in KINDS:
            values = np.concatenate([look.fields.block(variable, kind, int(step), 1) for step in steps])
            finite = values[np.isfinite(values)]
            low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
            offset, scale = (low + high) / 2, (high - low) / 65000 or 1.0
            codes = np.round(np.where(np.isfinite(values), (values - offset) / scale, MISSING)).astype("<i2")
            found[f"{variable}/{kind}"] = {"offset": offset, "scale": scale, "data": _packed(codes, "<i2")}
    return found


def _states(look: Look, steps: list[int]) -> dict[str, Any]:
    found = points(look.progress.states())
    rows, values = found["rows"], found["values"]
    if len(rows) > MOST_POINTS:  # those whose fields are there, and others evenly
        chosen = np.zeros(len(rows), bool)
        chosen[np.linspace(0, len(rows) - 1, MOST_POINTS - len(steps)).astype(int)] = True
        chosen |= np.isin(rows, steps)
        rows, values = rows[chosen], values[chosen]
    return {"rows": _packed(rows, "<i4"), "values": _packed(values, "<f4"), "explained": found["explained"],
            "all": rows.tolist()}  # fmt: skip


def _labels(look: Look, steps: set[int]) -> dict[str, Any]:
    at = {str(time): k for k, time in enumerate(look.store.times)}
    found = look.journal.describe()
    marks = [{**mark, "step": at[mark["time"]]} for mark in found["marks"] if at.get(mark["time"]) in steps]
    return {"marks": marks, "given": 0, "classes": found["classes"]}


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def _page(files: dict[str, bytes], record: dict[str, Any]) -> str:
    """Return the page with its style, its modules joined to one, and its data inside it."""
    text = {name: body.decode() for name, body in files.items()}
    script = re.sub(r"^import .*;$\n", "", "\n".join(text[f"{name}.js"] for name in MODULES), flags=re.M)
    script = re.sub(r"^export (?=const|let|class|function|async)", "", script, flags=re.M)
    style = text["theme.css"] + text["style.css"]
    data = json.dumps(record, allow_nan=False).replace("<", "\\u003c")  # nothing in it can end its element
    page = re.sub(r'<link rel="stylesheet".*>\n', "", text["index.html"])
    coded = '<meta charset="utf-8">\n'
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    page = page.replace(coded, f"{coded}{policy}<style>\n{style}</style>\n")
    inside = f'<script type="application/json" id="embedded">{data}</script>\n'
    inside += f'<script type="module">\n{script}</script>\n'
    return page.replace('<script type="module" src="app.js"></script>\n', "").replace("</body>", inside + "</body>")
