"""Pictures of classifications: confusion matrices, and skill by the number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = "os^DvXP*<>"


def confusion_figure(counts: Mapping[str, np.ndarray], classes: Sequence[str], title: str) -> Figure:
    """Return one matrix a row: observed classes down, called ones across, shares of the observed class."""
    from matplotlib.figure import Figure

    wide = min(4, len(counts))
    high = -(-len(counts) // wide)
    drawn = Figure(figsize=(2.3 * wide + 0.6, 2.3 * high + 0.6), layout="constrained")
    for k, (name, matrix) in enumerate(counts.items()):
        axes = drawn.add_subplot(high, wide, k + 1)
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*share.shape):
            axes.text(j, i, f"{share[i, j]:.2f}", ha="center", va="center", fontsize=8,
                      color="white" if share[i, j] > 0.6 else "black")  # fmt: skip
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_xticks(range(len(classes)), classes, fontsize=7, rotation=30, ha="right")
        axes.set_yticks(range(len(classes)), classes if k % wide == 0 else [""] * len(classes), fontsize=7)
        if k % wide == 0:
            axes.set_ylabel("observed", fontsize=8)
        if k // wide == high - 1:
            axes.set_xlabel("called", fontsize=8)
    drawn.suptitle(title, fontsize=9)
    return drawn


def curve_figure(curve: pd.DataFrame, label: str, metric: str = "brier_skill") -> Figure:
    """Return the mean over draws and seeds of a metric by the number of labels, with the range of the draws.

    Args:
        curve: Columns row, lead, used, draw, and the metric.
        label: Of the axis of `used`.
        metric: Column to draw.
    """
    from matplotlib.figure import Figure

    leads = sorted(curve["lead"].unique()) if len(curve) else [0]
    drawn = Figure(figsize=(3.6 * len(leads) + 0.6, 3.4), layout="constrained")
    panels = drawn.subplots(1, len(leads), sharey=True, squeeze=False)[0]
    for axes, lead in zip(panels, leads, strict=True):
        own = curve[curve["lead"] == lead] if len(curve) else curve
        for k, (name, part) in enumerate(own.groupby("row", sort=False) if len(own) else []):
            # Over seeds first, so that the band is the spread of the draws of labels.
            by_draw = part.groupby(["used", "draw"])[metric].mean().groupby("used")
            mean, low, high = by_draw.mean(), by_draw.min(), by_draw.max()
            (line,) = axes.plot(mean.index, mean, marker=MARKS[k % len(MARKS)], ms=4, lw=1.2, label=str(name))
            axes.fill_between(mean.index, low, high, color=line.get_color(), alpha=0.12, lw=0)
        axes.axhline(0, color="0.4", lw=0.8)
        axes.set_xscale("log")
        axes.set_title(f"lead {lead} months", fontsize=9, loc="left")
        axes.set_xlabel(label, fontsize=8)
        # A head on a handful of labels can be far below 0; how far says nothing.
        axes.set_ylim(bottom=max(-1.0, axes.get_ylim()[0]))
    panels[0].set_ylabel(metric.replace("_", " "), fontsize=8)
    if len(curve):
        panels[0].legend(fontsize=7)
    return drawn
