"""The page as one HTML file that works without a server: some steps, the points, and the labels."""

from __future__ import annotations

import base64
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..downstream.results.assets import joined
from ..downstream.results.maps import as_data, packed_fields
from ..downstream.results.page import CODED, policy
from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import write_text
from .application import Look
from .fields import KINDS
from .run_maps import RunMaps
from .states import States, points
from .umap_layout import kept_layout

MODULES = ("state", "colours", "numbers", "projection", "fieldview", "source", "scatter", "fieldpanel", "featurepanel",
           "analoguepanel", "encoderpanel", "mapspanel", "regionpanel", "labelpanel", "app")  # fmt: skip
MOST_POINTS = 20_000
MOST_BYTES = 64 * 2**20
MOST_MAP_BYTES = 16 * 2**20  # of a run's maps
MOST_MEMBERS = 32  # of a dimension of these


def export(
    look: Look, found: States | None, file: Path, most: int = 120, dates: str = "", map_bytes: int = MOST_MAP_BYTES
) -> Path:
    """Write the page with some steps of every variable, all states and the maps of a run, and return the file.

    The layout of UMAP is in it where it was computed before.

    Args:
        look: What is shown.
        found: States of the encoder, where they are to be shown.
        file: To be written, atomically.
        most: Steps, evenly spread over the dates.
        dates: FIRST:LAST, ISO; "" for all.
        map_bytes: Most of a run's maps; of more, some are taken.

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
    states = None if found is None else _states(look, found, steps)
    maps = _maps(look.maps, map_bytes) if look.maps is not None else None
    kept = sorted({*steps, *(states or {}).pop("all", [])})
    record = {
        "meta": {**look.meta(), "known": [], "encoder": states is not None, "maps": bool(maps)},
        "times": _packed(look.fields.seconds, "<f8"),
        "steps": steps,
        "fields": _fields(look, np.array(steps)),
        "points": states,
        "maps": maps,
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
            found[f"{variable}/{kind}"] = packed_fields(values)
    return found


def _states(look: Look, states: States, steps: list[int]) -> dict[str, Any]:
    found = points(states)
    rows, values = found["rows"], found["values"]
    umap = kept_layout(states.features, look.journal.folder)
    if len(rows) > MOST_POINTS:  # those whose fields are there, and others evenly
        chosen = np.zeros(len(rows), bool)
        chosen[np.linspace(0, len(rows) - 1, MOST_POINTS - len(steps)).astype(int)] = True
        chosen |= np.isin(rows, steps)
        rows, values, umap = rows[chosen], values[chosen], None if umap is None else umap[chosen]
    return {"rows": _packed(rows, "<i4"), "values": _packed(values, "<f4"), "explained": found["explained"],
            "all": rows.tolist(), "umap": None if umap is None else _packed(umap, "<f4")}  # fmt: skip


def _maps(maps: RunMaps, most: int) -> dict[str, Any] | None:
    """Return the maps of a run in 16 bits, of each dimension some members; None where not one has room."""
    listed: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    size = 2 * int(np.prod(maps.grid.shape))
    for number, one in enumerate(maps.describe()):
        chosen = [_spread(len(choice["members"]), MOST_MEMBERS) for choice in one["choices"]]
        while size * int(np.prod([len(at) for at in chosen])) > most and any(len(at) > 1 for at in chosen):
            longest = max(range(len(chosen)), key=lambda k: len(chosen[k]))
            chosen[longest] = chosen[longest][::2]
        most -= size * int(np.prod([len(at) for at in chosen]))
        if most < 0:
            break
        for at in itertools.product(*(range(len(members)) for members in chosen)):
            own = [members[k] for members, k in zip(chosen, at, strict=True)]
            fields[f"{len(listed)}/{','.join(map(str, at))}"] = packed_fields(maps.read(number, own))
        choices = [{"name": choice["name"], "members": [choice["members"][k] for k in at]}
                   for choice, at in zip(one["choices"], chosen, strict=True)]  # fmt: skip
        listed.append({**one, "choices": choices})
    return {"list": listed, "fields": fields} if listed else None


def _spread(count: int, most: int) -> list[int]:
    return [int(k) for k in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


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
    script = joined(files, MODULES)
    style = text["theme.css"] + text["style.css"]
    data = as_data(record)
    page = re.sub(r'<link rel="stylesheet".*>\n', "", text["index.html"])
    page = page.replace(CODED, f"{CODED}{policy(script)}<style>\n{style}</style>\n")
    inside = f'<script type="application/json" id="embedded">{data}</script>\n'
    inside += f'<script type="module">{script}</script>\n'
    return page.replace('<script type="module" src="app.js"></script>\n', "").replace("</body>", inside + "</body>")
