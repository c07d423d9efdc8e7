"""Pictures of ENSO: skill by lead, and by target season and lead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...results.figures import COLOURS, MARKS
from ...results.row import Role, Row, names_of
from .labels import MEAN

SKILL = "skill"
SEASONS = ("DJF", "JFM", "FMA", "MAM", "AMJ", "MJJ", "JJA", "JAS", "ASO", "SON", "OND", "NDJ")
BASELINES_DRAWN = ("persistence", "cyclostationary LIM", "PCA", "raw window [ridge]")


def drawn_names(rows: Sequence[Row]) -> list[str]:
    """Return the few rows that a picture can hold: every kind of network, and some baselines."""
    return names_of([row for row in rows if row.name in BASELINES_DRAWN or row.role is not Role.BASELINE])


def skill_figure(scores: pd.DataFrame, rows: Sequence[Row]) -> Figure:
    """Return all-season skill by lead with intervals of the frozen rows, and the line r = .5."""
    means = scores[(scores["seed"] == "") & (scores["metric"] == SKILL) & (scores["target"] != MEAN)]
    means = means.assign(lead=means["target"].str.removeprefix("lead ").astype(int)).sort_values("lead")
    leads = sorted(set(means["lead"]))
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0.5, color="0.5", lw=0.8, ls="--", zorder=0)
    roles = {row.name: row.role for row in rows}
    for k, name in enumerate(drawn_names(rows)):
        own, role = means[means["row"] == name], roles[name]
        colour = COLOURS[role]
        if role in (Role.PRETRAINED, Role.UNTRAINED):
            axes.fill_between(own["lead"], own["low"], own["high"], color=colour, alpha=0.13, lw=0)
        axes.plot(own["lead"], own["value"], color=colour, marker=MARKS[k % len(MARKS)], ms=4,
                  lw=2.2 if role is Role.PRETRAINED else 1.2, label=name)  # fmt: skip
    axes.set_xticks([leads[k] for k in _ticks(leads)])
    axes.set_xlabel("lead (months)")
    axes.set_ylabel("all-season skill, r")
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.0)
    axes.grid(axis="y", color="0.9", lw=0.6)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def season_figure(seasons: pd.DataFrame, rows: Sequence[Row]) -> Figure:
    """Return r by target season and lead of the frozen rows and the tuned PCA.

    Args:
        seasons: Columns row, lead, target_month, r.
        rows: Those that may be drawn.
    """
    wanted = names_of([row for row in rows if row.name == "PCA" or row.role in (Role.PRETRAINED, Role.UNTRAINED)])
    figure = Figure(figsize=(1.2 + 3.0 * len(wanted), 3.6), layout="constrained")
    panels = figure.subplots(1, len(wanted), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, wanted, strict=True):
        values = seasons[seasons["row"] == name].pivot(index="target_month", columns="lead", values="r")
        leads, found = list(values.columns), values.to_numpy(float)
        mesh = axes.imshow(found, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(_ticks(leads), [str(leads[k]) for k in _ticks(leads)])
        axes.set_yticks(range(12), SEASONS, fontsize=8)
        axes.set_xlabel("lead (months)")
        finite = found[np.isfinite(found)]
        if len(leads) > 1 and finite.size and finite.min() < 0.5 < finite.max():
            axes.contour(found, levels=[0.5], colors="white", linewidths=1.2)
        axes.set_title(name, fontsize=9, loc="left")
    figure.colorbar(mesh, ax=list(panels), label="r (below 0 shown as 0)", shrink=0.8)
    return figure


def _ticks(leads: Sequence[int]) -> list[int]:
    """Return the positions of the leads that are written out: of many, the first and every third month."""
    return [k for k, lead in enumerate(leads) if len(leads) <= 7 or k == 0 or lead % 3 == 0]
