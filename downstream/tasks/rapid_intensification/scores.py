"""Scores of forecasts of rapid intensification on the test storms, and the tables and pictures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...metrics.events import CALLS, Contingency, calibration_error, log_loss, murphy, reliability
from ...metrics.paired_bootstrap import FEWEST_UNITS, Statistic
from ...results.event_metrics import HALF, call_metric, chances_of, no_calls, rank_metrics
from ...results.figures import line_figure
from ...results.row import Row
from ...results.scores import tables
from ...results.target import Metric, Target, event_chances
from .models import Problem, climatology

BSS, BSS_TRAIN, AUC, AP, PSS, HSS = "BSS", "BSS train", "AUC", "AP", "PSS", "HSS"
LEAST_SHARE = 0.01
BINS = 20  # of reliability: the last holds the highest twentieth of the forecasts
PLACES = ["basin", "n", "events", "storms", "row", "metric", "value", "low", "high"]


def event_target(name: str, event: np.ndarray, basin: np.ndarray, storms: np.ndarray) -> Target:
    """Return the target of an event: Brier skill against each basin's own frequency, AUC, average precision.

    Args:
        name: Of the target.
        event: 0 or 1, (sample,).
        basin: Number of each sample's basin, (sample,).
        storms: Storm of each sample, (sample,).
    """
    skill = Metric(BSS, lambda rows: own_skill(chances_of(rows, name), event, basin), takes=no_calls)
    chances = event_chances(name, event, no_calls)
    return Target(name, storms, [skill, *rank_metrics(name, event, AUC, AP)], chances=chances)


def target_of(problem: Problem, main: bool, block: int = 1) -> Target:
    """Return the target of a problem; the main one also has the skill against training, and scores of calls."""
    test = problem.inside("test")
    event, name = problem.event[test], problem.name
    rates = climatology(problem).test
    reference = (rates - event) ** 2

    def skill(rows: Sequence[Row]) -> Statistic:
        error = (chances_of(rows, name) - event) ** 2
        # rounded: the climatology's own skill is 0 but for the order of summation
        return lambda w: np.round(1 - error @ w / (reference @ w), 12) + 0.0

    made = event_target(name, event, problem.basin[test], problem.storms[test])
    own, *ranks = made.metrics
    calls = [call_metric(name, event, label, score) for label, score in ((PSS, "pss"), (HSS, "hss"))]
    more = [own, Metric(BSS_TRAIN, skill, takes=no_calls), *ranks, *calls]
    return replace(
        made, metrics=more if main else made.metrics, block=block,
        errors=lambda row: (row.forecast[name] - event) ** 2, reference_errors=reference,
    )  # fmt: skip


def own_skill(p: np.ndarray, event: np.ndarray, basin: np.ndarray) -> Statistic:
    """Return the Brier skill of forecasts (m, n) as a function of sample weights.

    The reference is the frequency of each basin in the (reweighted) sample itself, whose summed squared error is
    Σ W f (1 - f) over the basins.
    """
    error = (p - event) ** 2

    def skill(w: np.ndarray) -> np.ndarray:
        total, hits = np.bincount(basin, w), np.bincount(basin, w * event)
        least = float((hits * (1 - hits / np.where(total > 0, total, 1))).sum())
        return 1 - error @ w / least if least > 0 else np.full(len(p), np.nan)

    return skill


def by_basin(problem: Problem, rows: Sequence[Row], draws: int) -> pd.DataFrame:
    """Return BSS (against the basin's test frequency), AUC and AP of each basin with intervals, columns `PLACES`.

    Basins with one class only, or with fewer storms than a bootstrap needs, are left out.
    """
    test = problem.inside("test")
    parts = []
    for basin, here in _places(problem).items():
        event, storms = problem.event[test][here], problem.storms[test][here]
        if basin == "all" or not 0 < event.sum() < len(event) or len(np.unique(storms)) < FEWEST_UNITS:
            continue
        own = [replace(row, forecast={basin: row.forecast[problem.name][here]})
               for row in rows if problem.name in row.forecast]  # fmt: skip
        target = event_target(basin, event, np.zeros(len(event), int), storms)
        found, _ = tables([target], own, draws=draws, references=[])
        found = found[found["seed"] == ""].assign(
            basin=basin, n=len(event), events=int(event.sum()), storms=len(np.unique(storms))
        )
        parts.append(found[PLACES])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PLACES)


def contingency(problem: Problem, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the calls of every row by both thresholds, of all basins together and of each."""
    event, lines = problem.event[problem.inside("test")], []
    for row, p in _forecasts(problem, rows):
        for name in CALLS[:1] if row.calls else CALLS:
            least = row.threshold.get((problem.name, name), HALF)
            for basin, here in _places(problem).items():
                found = Contingency.of(p[here] >= least, event[here])
                scored = {score: float(getattr(found, score)) for score in ("pod", "far", "pofd", "pss", "hss", "csi")}
                lines.append({
                    **_key(problem, row), "basin": basin, "best": "–" if row.calls else name, "threshold": least,
                    **scored, **{k: int(v) for k, v in asdict(found).items()},
                })  # fmt: skip
    return pd.DataFrame(lines)


def murphy_parts(problem: Problem, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the Brier score of every row in parts, its calibration error and log loss."""
    event = problem.event[problem.inside("test")]
    return pd.DataFrame([
        {**_key(problem, row), **asdict(murphy(p, event, bins=BINS)),
         "ece": calibration_error(p, event, bins=BINS), "log_loss": log_loss(p, event)}
        for row, p in _forecasts(problem, rows) if not row.calls
    ])  # fmt: skip


def reliabilities(problem: Problem, rows: Sequence[Row]) -> pd.DataFrame:
    """Return observed frequency by forecast of every row, a line a bin."""
    event = problem.event[problem.inside("test")]
    parts = [reliability(p, event, bins=BINS).assign(**_key(problem, row))
             for row, p in _forecasts(problem, rows) if not row.calls]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def reliability_figure(table: pd.DataFrame, rows: Sequence[str], title: str) -> Figure:
    """Return observed frequency against mean forecast, a point a bin; bins hold about equally many samples.

    Bins with less than 1 % of the samples, which equal forecasts can leave, are in the table only.

    Args:
        table: Columns row, seed, forecast, observed, share; the first seed of a row is drawn.
        rows: Those to draw.
        title: Of the picture.
    """
    found = table[table["row"].isin(rows) & (table["share"] >= LEAST_SHARE)]
    edge = 1.05 * float(found[["forecast", "observed"]].max().max())
    lines: dict[str, tuple[Any, Any]] = {"reliable": ([0, edge], [0, edge])}
    for row in rows:
        own = found[found["row"] == row]
        own = own[own["seed"] == own["seed"].iloc[0]]
        lines[row] = own["forecast"], own["observed"]
    return line_figure({title: lines}, "forecast probability", "observed frequency")


def basin_figure(table: pd.DataFrame, metric: str, title: str) -> Figure:
    """Return rows × basins of a metric as a coloured table, each with its interval."""
    own = table[table["metric"] == metric]
    rows, basins = list(dict.fromkeys(own["row"])), list(dict.fromkeys(own["basin"]))
    drawn = Figure(figsize=(1.15 * len(basins) + 4.2, 0.36 * len(rows) + 1.0), layout="constrained")
    axis = drawn.subplots()
    wide = own.pivot_table(index="row", columns="basin", values=["value", "low", "high"]).reindex(index=rows)
    values = wide["value"][basins].to_numpy()
    axis.imshow(np.clip(values, -0.25, 0.25), cmap="RdBu", vmin=-0.25, vmax=0.25, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        low, high = (wide[bound][basins].to_numpy()[i, j] for bound in ("low", "high"))
        axis.text(j, i, f"{values[i, j]:.3f}\n[{low:.2f}, {high:.2f}]", ha="center", va="center", fontsize=5.5,
                  color="white" if abs(values[i, j]) > 0.17 else "black")  # fmt: skip
    samples = own.drop_duplicates("basin").set_index("basin")["n"]
    axis.set_xticks(range(len(basins)), [f"{basin}\nn = {samples[basin]}" for basin in basins], fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.set_title(title, fontsize=9, loc="left")
    return drawn


def _forecasts(problem: Problem, rows: Sequence[Row]) -> list[tuple[Row, np.ndarray]]:
    return [(row, row.forecast[problem.name]) for row in rows if problem.name in row.forecast]


def _key(problem: Problem, row: Row) -> dict[str, str]:
    return {"target": problem.name, "row": row.name, "seed": "" if row.seed is None else str(row.seed)}


def _places(problem: Problem) -> dict[str, np.ndarray]:
    basin = problem.basin[problem.inside("test")]
    return {"all": np.ones(len(basin), bool), **{name: basin == k for k, name in enumerate(problem.basins)}}
