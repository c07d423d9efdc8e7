"""Pictures of filled gaps: maps of one month, and the error by distance and by share observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from ...results.row import Row
    from .anomalies import Anomalies
    from .gappy import Gappy

COLUMNS = 3
LEAST_SHARE = 0.005  # of the hidden cells: bins with fewer are noise, and in the table only
# The rows drawn thick: what an encoder is to be compared with, and the encoder.
BOLD = ("pretrained", "optimal interpolation")


def maps_figure(
    anomalies: Anomalies,
    gappy: Gappy,
    rows: Sequence[Row],
    ends: np.ndarray,
    number: int,
    target: str,
    unit: str,
) -> Figure:
    """Return maps of the truth, of what is observed and of every row's filled field (its first seed) at one time."""
    step = ends[number]
    truth, shown = anomalies.values[step], gappy.observed(ends[number : number + 1])[0]
    panels = {"truth": truth, "observed": shown}
    for row in rows:
        panels.setdefault(row.name, np.where(np.isfinite(shown), shown, row.forecast[target][number]))
    lines = -(-len(panels) // COLUMNS)
    drawn = Figure(figsize=(4.2 * COLUMNS, 2.0 * lines + 0.6), layout="constrained")
    limit = float(np.nanquantile(np.abs(truth), 0.98)) or 1.0
    grid = anomalies.store.grid
    extent: Any = (*grid.lon_bounds[[0, -1]], *grid.lat_bounds[[-1, 0]])
    axes = drawn.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, panels.items(), strict=False):
        axis.set_facecolor("0.85")
        image = axis.imshow(anomalies.on_grid(values), cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent,
                            aspect="auto", interpolation="nearest")  # fmt: skip
        axis.set_title(name, fontsize=8, loc="left")
        axis.tick_params(labelsize=6)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    drawn.colorbar(image, ax=axes, label=f"{anomalies.variable} anomaly ({unit})", shrink=0.6)
    drawn.suptitle(f"{target}, {str(anomalies.store.times[step])[:10]}", fontsize=10)
    return drawn


def by_distance_figure(table: pd.DataFrame, unit: str) -> Figure | None:
    """Return the error of every row by distance to the nearest observation, a panel a target; None without any."""
    table = table[table["share_of_hidden"] >= LEAST_SHARE]
    if table.empty:
        return None
    targets = list(dict.fromkeys(table["target"]))
    drawn = Figure(figsize=(4.0 * min(3, len(targets)) + 2.6, 3.0 * -(-len(targets) // 3)), layout="constrained")
    axes = drawn.subplots(-(-len(targets) // 3), min(3, len(targets)), squeeze=False, sharey=True).ravel()
    for axis, target in zip(axes, targets, strict=False):
        own = table[table["target"] == target]
        for name, line in own.groupby("row", sort=False):
            # The last bin is open: it is drawn at its near edge.
            middle = np.where(line["to_km"] > 1e4, line["from_km"], (line["from_km"] + line["to_km"]) / 2)
            axis.plot(middle, line["rmse"], "o-", ms=3, lw=_width(str(name)), label=str(name))
        axis.set_title(target, fontsize=9, loc="left")
        axis.set_xlabel("km to the nearest observation")
    for axis in axes[len(targets) :]:
        axis.set_axis_off()
    axes[0].set_ylabel(f"RMSE of hidden cells ({unit})")
    _legend(drawn, axes)
    return drawn


def by_fraction_figure(table: pd.DataFrame, unit: str) -> Figure:
    """Return the error of every row against the share of cells that is observed."""
    drawn = Figure(figsize=(7.5, 3.6), layout="constrained")
    axis = drawn.subplots()
    for name, line in table.groupby("row", sort=False):
        axis.semilogx(100 * line["observed"], line["rmse"], "o-", ms=3, lw=_width(str(name)), label=str(name))
    axis.set_xlabel("cells observed at random (%)")
    axis.set_ylabel(f"RMSE of hidden cells ({unit})")
    _legend(drawn, [axis])
    return drawn


def _width(name: str) -> float:
    return 2.2 if name.startswith(BOLD) else 1.0


def _legend(drawn: Figure, axes: Any) -> None:
    """Put every row once in a legend on the right; a target may lack some."""
    entries: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    drawn.legend(entries.values(), entries.keys(), loc="outside right upper", fontsize=7, frameon=False)
