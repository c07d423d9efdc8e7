"""The report's second half: data card, training curves, health, an example, and what it all took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from ...ssl.common.errors import EarthSSLError, in_a_line
from ...ssl.fields.grid import LatLonGrid
from ...ssl.store.store import Store
from ..results.maps import Maps
from ..results.numbers import number
from ..results.page import Section
from ..results.target import weighted_r
from .plots import Line, Panel, example_maps, scale_of, small_multiples
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
TEMPLATE = "report/sections.html"
VIOLATION = "violation_"  # of constraints, in the names of the history


def checks(store: Store, runs: Sequence[Run], record: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return what can be checked about leaks and provenance, given a probe's record: (holds, what)."""
    proof = store.manifest["split_proof"]
    gaps = ", ".join(f"{pair} {days:.0f} days" for pair, days in proof["gaps_days"].items())
    apart = f"Blocks lie apart by at least the embargo of {proof['embargo_days']:g} days ({gaps})"
    found = [(bool(proof["disjoint"]), apart)]
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
    m, statistics, times = store.manifest, store.statistics, store.times.astype("datetime64[s]")
    kind = "mean of each calendar month" if statistics.groups == "month" else "mean of each hour of the day"
    kind += f" with {statistics.harmonics} harmonics of the year" if statistics.harmonics else ""
    whole = (times[-1] - times[0]) / np.timedelta64(1, "s") or 1.0
    bars = []
    for part, block in m["split_proof"]["blocks"].items():
        ends = [np.datetime64(block[end], "s") for end in ("first", "last")]
        a, b = (100 * ((instant - times[0]) / np.timedelta64(1, "s")) / whole for instant in ends)
        words = (part, block["first"][:10], block["last"][:10], block["steps"])
        bars.append((words, f"left:{a:.2f}%;width:{b - a:.2f}%"))
    content = {
        "manifest": m,
        "synthetic": store.synthetic,
        "variables": [f"{name} [{unit}], {100 * m['valid_share'][name]:.0f} % of cells"
                      for name, unit in zip(m["variables"], m["units"], strict=True)],
        "grid": str(store.grid),
        "times": f"{str(times[0])[:10]} … {str(times[-1])[:10]}, {len(times)} steps (UTC)",
        "climatology": f"{kind}, fitted on training times only",
        "fingerprint": store.fingerprint,
        "bars": bars,
        "checks": found,
    }  # fmt: skip
    return Section("data", "Data and splits", content, TEMPLATE)


def training_section(runs: Sequence[Run]) -> Section:
    """Return loss curves and pretext scores by step; empty without runs."""
    names = run_names(runs)
    terms = sorted({n for run in runs for prefix in ("train/", "val/") for n in run.names(prefix)})
    losses = [n for n in terms if n.split("/")[-1] == "loss"]
    # The sum of all losses first; scores of single variables go into the table.
    losses.sort(key=lambda n: (n != "loss", n))
    scores = [n for n in terms if n not in losses and not n.split("/")[-1].startswith(("skill_", VIOLATION))]
    drawn = []
    for chosen, name, what in ((losses, "losses", "Losses"), (scores, "scores", "Scores of the pretext tasks")):
        if chosen:
            panels = [_both_parts(n, runs, names) for n in chosen[:MOST_PANELS]]
            drawn.append((what, small_multiples(panels, name, what), any("skill" in n for n in chosen)))
    last = []
    for term in sorted({name for run in runs for name in run.names("val/")}):
        ends = [run.series(f"val/{term}")[1] for run in runs]
        last.append([term, *[number(float(y[-1])) if len(y) else "–" for y in ends]])
    held = [row for name, run in zip(names, runs, strict=True) for row in _violations(name, run)]
    content = {"names": names, "drawn": drawn, "last": last, "held": held} if terms else {}
    return Section("training", "Pretraining", content, TEMPLATE)


def _violations(name: str, run: Run) -> list[list[str]]:
    """Return a row for each constraint of each task of a run: violation at its end, before the layers, of the truth."""
    rows = []
    for term in run.names("val/"):
        task, _, what = term.rpartition("/")
        if not what.startswith(VIOLATION) or what.endswith(("_before", "_truth")):
            continue
        ends = [run.series(f"val/{term}{end}")[1] for end in ("", "_before", "_truth")]
        rows.append([name, task, what.removeprefix(VIOLATION), *[f"{y[-1]:.3g}" if len(y) else "–" for y in ends]])
    return rows


def _both_parts(term: str, runs: Sequence[Run], names: Sequence[str]) -> Panel:
    lines = []
    for k, (run, name) in enumerate(zip(runs, names, strict=True)):
        for prefix, word in (("train", "training"), ("val", "validation")):
            x, y = run.series(f"{prefix}/{term}")
            if len(x):
                lines.append(Line(word if len(runs) == 1 else f"{name}, {word}", x, y, k, faint=prefix == "train"))
    return Panel("all tasks: loss" if term == "loss" else term.replace("/", ": "), lines)


def health_section(runs: Sequence[Run]) -> Section:
    """Return the encoder's health by step with the warnings in words, and the online probe."""
    names = run_names(runs)

    def panel(term: str, title: str, zero: bool = False, top: float | None = None) -> Panel:
        found = [(name, *run.series(term)) for name, run in zip(names, runs, strict=True)]
        return Panel(title, [Line(n, x, y, k) for k, (n, x, y) in enumerate(found) if len(x)], zero, top)

    said = [f"{name}, {words}" if len(runs) > 1 else words for name, run in zip(names, runs, strict=True)
            for words in run.record.get("health_warnings", [])]  # fmt: skip
    health = [panel(f"health/{key}", *how) for key, how in HEALTH.items()]
    online = [
        panel(f"probe/{label}", label) for label in sorted({label for run in runs for label in run.names("probe/")})
    ]
    content = {
        "said": said,
        "drawn": small_multiples(health, "health", "Health of the encoder"),
        "online": small_multiples(online, "online", "Online probe"),
    }
    return Section("health", "Health of the encoder", content if any(content.values()) else {}, TEMPLATE)


def example_section(runs: Sequence[Run], synthetic: bool) -> Section:
    """Return maps of a masked window of the first run that left one, with scores on the hidden cells."""
    run = next((run for run in runs if run.example is not None), None)
    if run is None or run.example is None:
        return Section("example", "Masked and rebuilt", {}, TEMPLATE)
    data = _read_example(run.example)
    names = data["variable"].values.tolist()
    units = dict(zip(names, json.loads(data.attrs.get("units", "[]")), strict=False))
    labels = [f"{name} [{units.get(name, '')}]" for name in names]
    grid = LatLonGrid(data["lat"].values, data["lon"].values)
    known = np.isfinite(data["truth"].values)
    hidden = known & ~np.isfinite(data["shown"].values)
    # The step with most cells hidden among those that show some; else with most of all.
    share = hidden.mean(axis=(0, 2, 3)) / np.maximum(known.mean(axis=(0, 2, 3)), 1e-9)
    step = int(np.argmax(np.where(share < 0.999, share, share - 1)))
    masked = [k for k in range(len(hidden)) if hidden[k].any()] or list(range(len(hidden)))
    shown = data.isel(variable=masked[:MOST_VARIABLES], time=step)
    land = ~known.any(axis=1)[masked]
    content = {
        "drawn": example_maps(shown, units, land, grid.lat_bounds, grid.lon_bounds, "example"),
        "maps": _example_maps(shown, units, grid),
        "run": run,
        "synthetic": synthetic,
        "step": step + 1,
        "steps": data.sizes["time"],
        "when": str(data["time"].values[step])[:16].removesuffix("T00:00"),
        "scores": [[label, *_hidden_scores(data, hidden, k, grid.area)] for k, label in enumerate(labels)],
    }
    return Section("example", "Masked and rebuilt", content, TEMPLATE)


def _example_maps(fields: xr.Dataset, units: Mapping[str, str], grid: LatLonGrid) -> Maps:
    """Return what was shown, rebuilt and true of every variable, on the scale of the variable's truth."""
    shown, ends, of = {}, [], []
    for k, variable in enumerate(fields["variable"].values.tolist()):
        top = scale_of(fields["truth"].values[k])
        for title in ("shown", "rebuilt", "truth"):
            shown[f"{variable}: {title}"] = fields[title].values[k]
            ends.append((-top, top))
            of.append(units.get(variable, ""))
    return Maps.of(shown, grid, ends, of)


def _read_example(file: Path) -> xr.Dataset:
    try:
        with xr.open_dataset(file) as opened:
            return opened[["truth", "shown", "rebuilt"]].transpose("variable", "time", "lat", "lon").load()
    except (KeyError, ValueError, OSError) as error:
        raise EarthSSLError(
            f"{file}: expected truth, shown and rebuilt fields ({in_a_line(error, None)}); remove it or run anew"
        ) from None


def _hidden_scores(data: xr.Dataset, hidden: np.ndarray, k: int, area: np.ndarray) -> list[str]:
    where = hidden[k]
    truth, rebuilt = (data[name].values[k][where].astype(float) for name in ("truth", "rebuilt"))
    if len(truth) < 3:
        return [str(len(truth)), "–", "–", "–"]
    weight = np.broadcast_to(area, where.shape)[where]
    r = weighted_r(rebuilt[None], truth)(weight)[0] if np.ptp(truth) and np.ptp(rebuilt) else np.nan
    errors = [float(np.average(e**2, weights=weight) ** 0.5) for e in (rebuilt - truth, truth)]
    return [str(len(truth)), number(r), *[f"{error:.3g}" for error in errors]]


def cost_section(runs: Sequence[Run], record: Mapping[str, Any]) -> Section:
    """Return configs, versions, time, memory, seeds and the command: what it takes to run it again.

    Args:
        runs: Pretrainings.
        record: Of the probe.
    """
    names = run_names(runs)
    configs = {"Probe": record.get("config")} | {f"Run {n}": run.identity for n, run in zip(names, runs, strict=True)}
    content = {
        "runs": [_cost(name, run) for name, run in zip(names, runs, strict=True)],
        "took": duration(float(record["seconds"])) if record.get("seconds") is not None else "",
        "checkpoints": [f"{one['path']} (seed {one.get('seed')}, {one.get('steps')} steps)"
                        for one in record.get("encoders", []) if "path" in one],
        "command": record.get("command"),
        "versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()),
        "configs": [
            (name, yaml.safe_dump(one, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110))
            for name, one in configs.items() if one
        ],
    }  # fmt: skip
    return Section("again", "To run it again", content, TEMPLATE)


def _cost(name: str, run: Run) -> list[str]:
    r = run.record
    speed = run.series("samples_per_s")[1]
    counted = ("peak_memory_mib", "encoder_parameters", "head_parameters", "train_windows")
    return [
        name, run.seed, _count(r.get("steps")), duration(float(r.get("seconds", "nan"))),
        *[_count(r.get(key)) for key in counted],
        _count(np.median(speed) if len(speed) else None), f"{r.get('processor', '–')} × {r.get('threads', '–')}",
    ]  # fmt: skip


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
