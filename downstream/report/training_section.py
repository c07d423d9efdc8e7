"""The report's second half: data card, training curves, health, an example, and what it all took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.grid import LatLonGrid
from ...ssl.store.store import Store
from ..results.html import Html, Section, bullets, details, element, facts, figure, joined, table
from ..results.numbers import number
from . import plots
from .pretraining_run import Run, run_names

HEALTH = {
    "std": ("spread of features", True, 1.0),
    "effective_rank": ("effective rank", True, None),
    "mean_cosine": ("mean cosine between windows", True, 1.0),
    "season_share": ("variance that is season", True, 1.0),
    "trend_share": ("variance that is trend", True, 1.0),
    "place_share": ("variance that is place", True, 1.0),
}
MOST_PANELS = 12
MOST_VARIABLES = 4


def checks(store: Store, runs: Sequence[Run], record: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return what can be checked about leaks and provenance, given a probe's record: (holds, what)."""
    proof = store.manifest["split_proof"]
    gaps = ", ".join(f"{pair} {days:.0f} days" for pair, days in proof["gaps_days"].items())
    found = [
        (
            bool(proof["disjoint"]),
            f"Blocks lie apart by at least the embargo of {proof['embargo_days']:g} days ({gaps})",
        )
    ]
    mark = record.get("store_fingerprint")
    if mark is not None:
        found.append((mark == store.fingerprint, "The probe read the store described here (equal fingerprints)"))
    for name, run in zip(run_names(runs), runs, strict=True):
        same = run.identity.get("fingerprint") == store.fingerprint
        found.append((same, f"Run {name} was pretrained on the store described here (equal fingerprints)"))
    own = [one["fingerprint"] == store.fingerprint for one in record.get("encoders", []) if "fingerprint" in one]
    if own:
        words = f"{sum(own)} of {len(own)} probed checkpoints were pretrained on the store described here"
        found.append((all(own), words))
    return found


def data_section(store: Store, found: Sequence[tuple[bool, str]]) -> Section:
    """Return the data card: source, variables, grid, times, climatology, and the blocks with their proof."""
    m = store.manifest
    proof, attributes = m["split_proof"], m.get("attributes", {})
    shares = m["valid_share"]
    variables = [
        f"{n} [{u}], {100 * shares[n]:.0f} % of cells" for n, u in zip(m["variables"], m["units"], strict=True)
    ]
    statistics = store.statistics
    kind = "mean of each calendar month" if statistics.groups == "month" else "mean of each hour of the day"
    kind += f" with {statistics.harmonics} harmonics of the year" if statistics.harmonics else ""
    card = facts(
        [
            ("source", joined([m["source"], element("span", "synthetic", class_="badge")], " ") if store.synthetic
             else m["source"]),
            ("licence", attributes.get("licence")),
            ("citation", attributes.get("citation")),
            ("variables", joined(variables, "; ")),
            ("grid", str(store.grid)),
            ("times", f"{str(store.times[0])[:10]} … {str(store.times[-1])[:10]}, {len(store.times)} steps (UTC)"),
            ("climatology", f"{kind}, fitted on training times only"),
            ("fingerprint", element("code", store.fingerprint)),
            ("prepared", m.get("created")),
        ]
    )  # fmt: skip
    body = [[part, b["first"][:10], b["last"][:10], b["steps"]] for part, b in proof["blocks"].items()]
    blocks = table(["block", "first", "last", "steps"], body, "Blocks of time, as found in the data.", text_columns=3)
    marks = bullets([f"{'✓' if good else '✗'} {words}." for good, words in found], "checks")
    return Section("data", "Data and splits", joined([card, _timeline(store), blocks, marks]))


def _timeline(store: Store) -> Html:
    """Return the blocks as coloured bars along the record."""
    first, last = store.times[0], store.times[-1]
    whole = float((last - first) / np.timedelta64(1, "s")) or 1.0
    bars = []
    for part, block in store.manifest["split_proof"]["blocks"].items():
        a, b = (float((np.datetime64(block[end]) - first) / np.timedelta64(1, "s")) for end in ("first", "last"))
        style = f"left:{100 * a / whole:.2f}%;width:{100 * (b - a) / whole:.2f}%"
        words = f"{part} {block['first'][:10]} … {block['last'][:10]}"
        bars.append(element("span", part, class_=part, style=style, title=words))
    label = "Blocks of time along the record"
    return element("div", *bars, class_="timeline", role="img", aria_label=label)


def training_section(runs: Sequence[Run]) -> Section:
    """Return loss curves and pretext scores by step; empty without runs."""
    names = run_names(runs)
    terms = sorted({n for run in runs for prefix in ("train/", "val/") for n in run.names(prefix)})
    losses = [n for n in terms if n.split("/")[-1] == "loss"]
    # The sum of all losses first; scores of single variables go into the table.
    losses.sort(key=lambda n: (n != "loss", n))
    scores = [n for n in terms if n not in losses and not n.split("/")[-1].startswith("skill_")]
    parts = []
    who = f"Runs: {', '.join(names)}." if len(names) > 1 else ""
    for chosen, name, what in ((losses, "losses", "Losses"), (scores, "scores", "Scores of the pretext tasks")):
        panels = [p for n in chosen[:MOST_PANELS] if (p := _both_parts(n, runs, names)) is not None]
        if panels:
            extra = (
                " Skill is 0 for the trivial answer and 1 for a perfect one."
                if any("skill" in n for n in chosen)
                else ""
            )
            caption = f"{what} by step: training block (dashed) and validation block (solid).{extra} {who}"
            parts.append(figure(plots.small_multiples(panels, name, what), caption, 600))
    last = _last_values(runs, names)
    parts += [details("Last values on the validation block", last)] if last else []
    return Section("training", "Pretraining", joined(parts))


def _both_parts(term: str, runs: Sequence[Run], names: Sequence[str]) -> plots.Panel | None:
    series = []
    for k, (run, name) in enumerate(zip(runs, names, strict=True)):
        for prefix, word in (("train", "training"), ("val", "validation")):
            x, y = run.series(f"{prefix}/{term}")
            if len(x):
                label = word if len(runs) == 1 else f"{name}, {word}"
                series.append(plots.Series(label, x, y, style=k, faint=prefix == "train"))
    title = "all tasks: loss" if term == "loss" else term.replace("/", ": ")
    return plots.Panel(title, series) if series else None


def _last_values(runs: Sequence[Run], names: Sequence[str]) -> Html | None:
    terms = sorted({name for run in runs for name in run.names("val/")})
    body: list[list[Any]] = []
    for term in terms:
        ends = [run.series(f"val/{term}")[1] for run in runs]
        body.append([term, *[number(float(y[-1])) if len(y) else "–" for y in ends]])
    return table(["name", *names], body, "Validation block, last step.") if body else None


def health_section(runs: Sequence[Run]) -> Section:
    """Return the encoder's health by step with the warnings in words, and the online probe."""
    names = run_names(runs)
    panels = []
    for key, (title, zero, top) in HEALTH.items():
        series = _lines(f"health/{key}", runs, names)
        panels += [plots.Panel(title, series, zero, top)] if series else []
    parts: list[Html] = []
    said = [f"{name}, {words}" if len(runs) > 1 else words for name, run in zip(names, runs, strict=True)
            for words in run.record.get("health_warnings", [])]  # fmt: skip
    if said:
        parts.append(element("div", "The monitor warned:", bullets(said), class_="warning"))
    elif panels:
        parts.append(element("p", "The monitor raised no warning."))
    if panels:
        caption = (
            "Features of validation windows by step. Spread: standard deviation of normalised features, 1 when even, "
            "0 when collapsed. Effective rank: dimensions in use. Mean cosine: 1 when all windows point one way. "
            "Shares: how much of the features' variance the calendar month, a straight trend, or a token's place "
            "explains; near 1 the encoder knows climatology only."
        )
        parts.append(figure(plots.small_multiples(panels, "health", "Health of the encoder"), caption, 600))
    labels = sorted({label for run in runs for label in run.names("probe/")})
    online = [plots.Panel(label, s) for label in labels if (s := _lines(f"probe/{label}", runs, names))]
    if online:
        caption = "Online probe: score of a linear head on frozen features at each validation."
        parts.append(figure(plots.small_multiples(online, "online", "Online probe"), caption, 420))
    return Section("health", "Health of the encoder", joined(parts))


def _lines(name: str, runs: Sequence[Run], names: Sequence[str]) -> list[plots.Series]:
    found = [(label, *run.series(name)) for label, run in zip(names, runs, strict=True)]
    return [plots.Series(label, x, y, style=k) for k, (label, x, y) in enumerate(found) if len(x)]


def example_section(runs: Sequence[Run], synthetic: bool) -> Section:
    """Return maps of a masked window of the first run that left one, with scores on the hidden cells."""
    run = next((run for run in runs if run.example is not None), None)
    if run is None or run.example is None:
        return Section("example", "Example", Html(""))
    data = _read_example(run.example)
    units = dict(zip(data["variable"].values.tolist(), json.loads(data.attrs.get("units", "[]")), strict=False))
    grid = LatLonGrid(data["lat"].values, data["lon"].values)
    hidden = np.isfinite(data["truth"].values) & ~np.isfinite(data["shown"].values)
    body = [
        [f"{name} [{units.get(name, '')}]", *_hidden_scores(data, hidden, k, grid.area)]
        for k, name in enumerate(units or data["variable"].values.tolist())
    ]
    # The step with most cells hidden among those that show some; else with most of all.
    share = hidden.mean(axis=(0, 2, 3)) / np.maximum(np.isfinite(data["truth"].values).mean(axis=(0, 2, 3)), 1e-9)
    step = int(np.argmax(np.where(share < 0.999, share, share - 1)))
    masked = [k for k in range(len(hidden)) if hidden[k].any()] or list(range(len(hidden)))
    maps = [_map(data, k, step, units) for k in masked[:MOST_VARIABLES]]
    when = str(data["time"].values[step])[:16].removesuffix("T00:00")
    what = "synthetic planet, " if synthetic else ""
    caption = (
        f"One window of the validation block ({what}run {run.name}, seed {run.seed}), step {step + 1} of "
        f"{data.sizes['time']}, {when}: anomalies as shown to the encoder (hatched: hidden), rebuilt, and true; grey: "
        "no data. Cells that were shown are repeated in the middle."
    )
    drawn = figure(plots.example_maps(maps, grid.lat_bounds, grid.lon_bounds, "example"), caption, 720)
    head = ["variable", "hidden cells", "r", "RMSE", "RMSE of no anomaly"]
    scores = table(
        head, body, "Hidden cells of all steps of this one window, weighted by area: an example, not a score."
    )
    return Section("example", "Masked and rebuilt", joined([drawn, scores]))


def _read_example(file: Path) -> xr.Dataset:
    try:
        with xr.open_dataset(file) as opened:
            return opened[["truth", "shown", "rebuilt"]].transpose("variable", "time", "lat", "lon").load()
    except (KeyError, ValueError, OSError) as error:
        words = " ".join(str(error).split())
        raise EarthSSLError(
            f"{file}: expected truth, shown and rebuilt fields ({words}); remove it or run anew"
        ) from None


def _hidden_scores(data: xr.Dataset, hidden: np.ndarray, k: int, area: np.ndarray) -> list[str]:
    where = hidden[k]
    weight = np.broadcast_to(area, where.shape)[where]
    truth, rebuilt = (data[name].values[k][where].astype(float) for name in ("truth", "rebuilt"))
    if len(truth) < 3:
        return [str(len(truth)), "–", "–", "–"]
    weight = weight / weight.sum()
    t, f = truth - weight @ truth, rebuilt - weight @ rebuilt
    power = float((weight @ (t * t)) * (weight @ (f * f)))
    r = float(weight @ (t * f)) / power**0.5 if power > 0 else float("nan")
    errors = [float((weight @ (rebuilt - truth) ** 2) ** 0.5), float((weight @ truth**2) ** 0.5)]
    return [str(len(truth)), number(r), *[f"{error:.3g}" for error in errors]]


def _map(data: xr.Dataset, k: int, step: int, units: Mapping[str, str]) -> plots.Map:
    name = str(data["variable"].values[k])
    fields = {
        title: data[key].values[k, step]
        for title, key in (("shown", "shown"), ("rebuilt", "rebuilt"), ("truth", "truth"))
    }
    return plots.Map(name, units.get(name, ""), fields, ~np.isfinite(data["truth"].values[k]).any(axis=0))


def cost_section(runs: Sequence[Run], record: Mapping[str, Any]) -> Section:
    """Return configs, versions, time, memory, seeds and the command: what it takes to run it again.

    Args:
        runs: Pretrainings.
        record: Of the probe.
    """
    parts: list[Html] = []
    body = [_cost(name, run) for name, run in zip(run_names(runs), runs, strict=True)]
    if body:
        head = ["run", "seed", "steps", "time", "peak MiB", "encoder", "heads", "windows", "samples/s", "processor"]
        caption = (
            "Pretraining. Encoder and heads: trained parameters; windows: of the training block; samples/s: median; "
            "processor × threads."
        )
        parts.append(table(head, body, caption))
    seconds = record.get("seconds")
    checkpoints = [
        f"{one['path']} (seed {one.get('seed')}, {one.get('steps')} steps)"
        for one in record.get("encoders", [])
        if "path" in one
    ]
    command = record.get("command")
    parts.append(
        facts(
            [
                ("probe took", duration(float(seconds)) if seconds is not None else ""),
                ("checkpoints", joined([element("code", words) for words in checkpoints], ", ")),
                ("command", element("code", command) if command else ""),
                ("versions", ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items())),
            ]
        )
    )
    configs = [
        ("Probe", record.get("config")),
        *[(f"Run {n}", r.identity) for n, r in zip(run_names(runs), runs, strict=True)],
    ]
    parts += [details(f"{name}: config", element("pre", _yaml(config))) for name, config in configs if config]
    return Section("again", "To run it again", joined(parts))


def _cost(name: str, run: Run) -> list[Any]:
    r = run.record
    speed = run.series("samples_per_s")[1]
    return [
        name,
        run.seed,
        _count(r.get("steps")),
        duration(float(r.get("seconds", "nan"))),
        _count(r.get("peak_memory_mib")),
        _count(r.get("encoder_parameters")),
        _count(r.get("head_parameters")),
        _count(r.get("train_windows")),
        _count(np.median(speed) if len(speed) else None),
        f"{r.get('processor', '–')} × {r.get('threads', '–')}",
    ]


def _count(value: Any) -> str:
    return "–" if value is None else f"{float(value):,.0f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Return a time in words: "2 h 05 min", "3 min 12 s", "41 s"."""
    if not np.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _yaml(config: Any) -> str:
    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110))
