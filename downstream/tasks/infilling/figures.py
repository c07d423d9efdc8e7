"""Pictures of filled gaps: maps of one month, and the error by distance and by share observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...results.figures import line_figure, map_figure

if TYPE_CHECKING:
    from ...results.row import Row
    from .gappy import Gappy

LEAST_SHARE = 0.005  # of the hidden cells: bins with fewer are noise, and in the table only
# The rows drawn thick: what an encoder is to be compared with, and the encoder.
BOLD = ("pretrained", "optimal interpolation")


def maps_figure(gappy: Gappy, rows: Sequence[Row], ends: np.ndarray, number: int, target: str, unit: str) -> Figure:
    """Return maps of the truth, of what is observed and of every row's filled field (its first seed) at one time."""
    own, step = gappy.anomalies, ends[number]
    truth, shown = own.values[step], gappy.observed(ends[number : number + 1])[0]
    panels = {"truth": truth, "observed": shown}
    for row in rows:
        panels.setdefault(row.name, np.where(np.isfinite(shown), shown, row.forecast[target][number]))
    fields = {name: own.on_grid(values) for name, values in panels.items()}
    limit = float(np.nanquantile(np.abs(truth), 0.98)) or 1.0
    title = f"{target}, {str(own.store.times[step])[:10]}"
    return map_figure(fields, own.store.grid, limit, f"{own.variable} anomaly ({unit})", title, unit)


def by_distance_figure(table: pd.DataFrame, unit: str) -> Figure | None:
    """Return the error of every row by distance to the nearest observation, a panel a target; None without any."""
    table = table[table["share_of_hidden"] >= LEAST_SHARE]
    if table.empty:
        return None
    # The last bin is open: it is drawn at its near edge.
    near, far = table["from_km"], table["to_km"]
    table = table.assign(middle=np.where(far > 1e4, near, (near + far) / 2))
    panels = {
        str(target): {str(name): (line["middle"], line["rmse"]) for name, line in own.groupby("row", sort=False)}
        for target, own in table.groupby("target", sort=False)
    }
    drawn = line_figure(panels, "km to the nearest observation", f"RMSE of hidden cells ({unit})", BOLD)
    top = max(axes.get_ylim()[1] for axes in drawn.axes[: len(panels)])
    for axes in drawn.axes[: len(panels)]:
        axes.set_ylim(0, top)
    return drawn


def by_fraction_figure(table: pd.DataFrame, unit: str) -> Figure:
    """Return the error of every row against the share of cells that is observed."""
    lines = {str(name): (100 * line["observed"], line["rmse"]) for name, line in table.groupby("row", sort=False)}
    drawn = line_figure({"": lines}, "cells observed at random (%)", f"RMSE of hidden cells ({unit})", BOLD)
    drawn.axes[0].set_xscale("log")
    return drawn
