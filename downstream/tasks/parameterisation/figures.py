"""Pictures of coupled runs: their climate beside the truth's, and the spread of ensembles beside their error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .coupled import X_BINS, Course, density

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")  # Okabe & Ito
DASHES = ("-", "--", ":")
FEWEST = 50  # values of a bin of X, for a deviation of U in it


def climate_figure(courses: Mapping[str, Course], truth: Course) -> Figure:
    """Return the density of X over the truth's, and the deviation of U given X, of every row that stayed bounded."""
    drawn = Figure(figsize=(9.6, 5.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    middle, own = (X_BINS[1:] + X_BINS[:-1]) / 2, density(truth.slow)
    shown = own > 1e-4
    right.plot(middle, spread_by_state(truth), color="k", lw=2.2, label="truth")
    left.axhline(1, color="k", lw=2.2)
    for k, (name, course) in enumerate(courses.items()):
        whole = course.of(course.ended < 0)
        if len(whole.ended):
            style = {"color": COLOURS[k % 7], "ls": DASHES[k // 7 % 3], "lw": 1.1}
            left.plot(middle[shown], density(whole.slow)[shown] / own[shown], **style)
            right.plot(middle, spread_by_state(whole), label=name, **style)
    for axes, words in ((left, "density of X over the truth's"), (right, "standard deviation of U given X")):
        axes.set_xlabel("X", fontsize=8)
        axes.set_title(words, fontsize=9, loc="left")
    left.set_ylim(0, 3)
    drawn.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return drawn


def spread_by_state(course: Course) -> np.ndarray:
    """Return the standard deviation of U in each bin of X, (bin,); NaN where there are few values."""
    bins = np.clip(np.digitize(course.slow.ravel(), X_BINS) - 1, 0, len(X_BINS) - 2)
    count, total, square = (np.bincount(bins, weight, len(X_BINS) - 1)
                            for weight in (None, course.subgrid.ravel(), course.subgrid.ravel() ** 2))  # fmt: skip
    share = np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(square / share - (total / share) ** 2, 0))
    return np.asarray(np.where(count >= FEWEST, deviation, np.nan))


def spread_figure(scores: pd.DataFrame) -> Figure:
    """Return the spread of ensembles over the error of their mean by lead, of rows with noise."""
    own = scores[(scores["metric"] == "spread_over_error") & (scores["seed"].astype(str) == "") & (scores["value"] > 0)]
    wide = own.pivot_table(index="row", columns="target", values="value", sort=False)
    drawn = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = drawn.subplots()
    axes.axhline(1, color="k", lw=1)
    for k, (name, values) in enumerate(wide.iterrows()):
        axes.plot(wide.columns, values, marker="o", color=COLOURS[k % 7], ls=DASHES[k // 7 % 3], ms=4, label=str(name))
    axes.set_ylabel("spread over RMSE of the mean", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="best")
    return drawn
