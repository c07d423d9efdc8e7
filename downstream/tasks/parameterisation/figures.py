"""Pictures of coupled runs: their climate beside the truth's, and the spread of ensembles beside their error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...results.figures import line_figure
from .coupled import X_BINS, Course, density

FEWEST = 50  # values of a bin of X, for a deviation of U in it


def climate_figure(courses: Mapping[str, Course], truth: Course) -> Figure:
    """Return the density of X over the truth's, and the deviation of U given X, of every row that stayed bounded."""
    middle, own = (X_BINS[1:] + X_BINS[:-1]) / 2, density(truth.slow)
    shown = own > 1e-4
    left: dict[str, tuple[Any, Any]] = {"truth": (middle[shown], np.ones(shown.sum()))}
    right: dict[str, tuple[Any, Any]] = {"truth": (middle, spread_by_state(truth))}
    for name, course in courses.items():
        whole = course.of(course.ended < 0)
        if len(whole.ended):
            left[name] = middle[shown], density(whole.slow)[shown] / own[shown]
            right[name] = middle, spread_by_state(whole)
    panels = {"density of X over the truth's": left, "standard deviation of U given X": right}
    drawn = line_figure(panels, "X", bold=("truth",), marker="")
    drawn.axes[0].set_ylim(0, 3)
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
    lines = {str(name): (wide.columns, values) for name, values in wide.iterrows()}
    return line_figure({"": lines}, "", "spread over RMSE of the mean", levels=(1,))
