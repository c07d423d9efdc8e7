"""Scores of the rapid-intensification rows on the test storms, their paired differences, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .paired import compare
from .probability import (
    Contingency,
    Ranking,
    best_threshold,
    brier_skill,
    check,
    expected_calibration_error,
    murphy,
    reliability_table,
)
from .rapid_rows import CLIMATOLOGY, TRACK_ROW, Forecasts, Problem

METRICS = ("BSS", "AUC", "AP")


def scored(
    rows: Sequence[Forecasts], problem: Problem, target: str, draws: int
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return scores, paired differences and the tables by row, basin and bin, of the test block."""
    test = problem.test
    event = problem.event[test]
    basins, storms = problem.table["basin"].to_numpy()[test], problem.table["storm"].to_numpy()[test]
    codes = np.unique(basins, return_inverse=True)[1]
    trained = rows[0].probability[test]
    smooth = [row for row in rows if not row.rule]
    for row in smooth:
        check(row.probability[test], event, row.name)
    names = list(dict.fromkeys(row.name for row in smooth))
    rankings = [Ranking(row.probability[test], event) for row in smooth]
    members = {name: [k for k, row in enumerate(smooth) if row.name == name] for name in names}

    def over_seeds(values: Sequence[float]) -> np.ndarray:
        return np.array([np.mean([values[k] for k in members[name]]) for name in names])

    def skills(weights: np.ndarray) -> np.ndarray:
        total = np.bincount(codes, weights)
        rate = np.bincount(codes, weights * event) / np.where(total > 0, total, 1)
        return over_seeds([brier_skill(row.probability[test], event, rate[codes], weights) for row in smooth])

    statistics = {
        "BSS": skills,
        "AUC": lambda w: over_seeds([one.auc(w) for one in rankings]),
        "AP": lambda w: over_seeds([one.average_precision(w) for one in rankings]),
    }
    references = [n for n in (CLIMATOLOGY, TRACK_ROW, "untrained", "untrained + track", "PCA of the crops + track")
                  if n in names]  # fmt: skip
    scores, differences = [], []
    for metric in METRICS:
        found, paired = compare(statistics[metric], storms, names, references, draws=draws)
        scores.append(found.assign(seed="", target=target, metric=metric))
        differences.append(paired.assign(target=target, metric=metric))
    extra = _extra(rows, names, problem, event, trained)
    scores.append(
        extra.melt(id_vars=["row"], var_name="metric", value_name="value")
        .assign(seed="", target=target, low=np.nan, high=np.nan)
        .dropna(subset=["value"])
    )
    tables = {
        "by_basin": _by_basin(smooth, names, problem, basins, event).assign(target=target),
        "reliability": pd.concat(
            [reliability_table(r.probability[test], event).assign(row=r.name, seed=r.seed) for r in smooth]
        ).assign(target=target),
        "murphy": pd.DataFrame(
            [{"row": r.name, "seed": r.seed, **asdict(murphy(r.probability[test], event))} for r in smooth]
        ).assign(target=target),
        "chosen": pd.DataFrame([{"row": r.name, "seed": r.seed, "settings": str(dict(r.settings))} for r in rows])
        .assign(target=target),
    }  # fmt: skip
    return pd.concat(scores, ignore_index=True), pd.concat(differences, ignore_index=True), tables


def _extra(
    rows: Sequence[Forecasts], names: Sequence[str], problem: Problem, event: np.ndarray, trained: np.ndarray
) -> pd.DataFrame:
    """Return for each row, mean over seeds: BSS against training frequencies, ECE, and the warnings' scores."""
    test, val = problem.test, problem.val
    lines = []
    for row in rows:
        p = row.probability[test]
        line: dict[str, Any] = {"row": row.name}
        if not row.rule:
            line["BSS train"] = brier_skill(p, event, trained)
            line["ECE"] = expected_calibration_error(p, event)
        for name in ("pss", "hss"):
            limit = 0.5 if row.rule else best_threshold(row.probability[val], problem.event[val], name)
            warned = Contingency.of(p >= limit, event)
            line[name.upper()] = getattr(warned, name)
            line[f"POD at {name.upper()}"], line[f"FAR at {name.upper()}"] = warned.pod, warned.far
        lines.append(line)
    return pd.DataFrame(lines).groupby("row", sort=False).mean().reset_index()


def _by_basin(
    rows: Sequence[Forecasts], names: Sequence[str], problem: Problem, basins: np.ndarray, event: np.ndarray
) -> pd.DataFrame:
    """Return BSS, AUC and AP in each basin, mean over seeds; basins with one class only are left out."""
    lines = []
    for basin in np.unique(basins):
        own = basins == basin
        rate = event[own].mean()
        if not 0 < rate < 1:
            continue
        for row in rows:
            p, o = row.probability[problem.test][own], event[own]
            rank = Ranking(p, o)
            lines.append(
                {"row": row.name, "basin": basin, "samples": int(own.sum()), "events_percent": 100 * rate,
                 "BSS": brier_skill(p, o, np.full(len(o), rate)), "AUC": rank.auc(), "AP": rank.average_precision()}
            )  # fmt: skip
    return pd.DataFrame(lines).groupby(["row", "basin"], sort=False).mean().reset_index()


def reliability_figure(rows: Sequence[Forecasts], problem: Problem, threshold: int) -> Figure:
    """Return observed frequency against forecast probability, one line a row (the first seed of each)."""
    drawn = Figure(figsize=(6.4, 5.2))
    axes = drawn.subplots()
    shown: set[str] = set()
    for row in rows:
        if row.rule or row.name in shown or row.name == CLIMATOLOGY:
            continue
        shown.add(row.name)
        found = reliability_table(row.probability[problem.test], problem.event[problem.test])
        found = found[found["weight"] >= 20]
        style = "--" if "balanced" in row.name else "-"
        axes.plot(found["forecast"], found["frequency"], style, marker="o", ms=3, lw=1.2, label=row.name)
    axes.plot([0, 1], [0, 1], color="0.5", lw=0.8)
    axes.set_xlabel("forecast probability")
    axes.set_ylabel("observed frequency (bins of at least 20 samples)")
    axes.set_title(f"at least {threshold} kt in 24 h, test storms", loc="left", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    return drawn


def skill_figure(scores: pd.DataFrame, threshold: int) -> Figure:
    """Return Brier skill with intervals, one bar a row; what falls below -.2 is cut off."""
    own = scores[scores["metric"] == "BSS"].iloc[::-1]
    drawn = Figure(figsize=(7.5, 0.34 * len(own) + 1.2))
    axes = drawn.subplots()
    shown = own["value"].clip(lower=-0.2)
    spread = np.maximum(np.stack([shown - own["low"].clip(lower=-0.2), own["high"].clip(lower=-0.2) - shown]), 0)
    axes.barh(range(len(own)), shown, xerr=spread, color="#0072b2", ecolor="black", error_kw={"lw": 1})
    axes.set_yticks(range(len(own)), own["row"], fontsize=8)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(f"Brier skill against test-basin frequencies, {threshold} kt (cut off at −.2)")
    return drawn
