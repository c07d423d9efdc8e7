"""Pictures of explanations: maps by method and variable, deletion and insertion, and random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ....ssl.fields.grid import LatLonGrid
from ..enso.labels import NINO34
from .checks import FRACTIONS

LAND = "0.78"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#8c8c8c", "#e69f00")  # Okabe & Ito
MARKS = "os^Dvx*"


def map_figure(
    rows: Mapping[str, np.ndarray], variables: Sequence[str], units: Mapping[str, str], grid: LatLonGrid, title: str
) -> Figure:
    """Return one row of maps for each entry, one column for each variable; the colours of a row share a scale.

    Args:
        rows: (variable, row, column) each, NaN where nothing is known (grey).
        variables: Names of the columns.
        units: Of each row's colours.
        grid: Of the maps; the box of Niño 3.4 is drawn.
        title: Over it all.
    """
    span = float(abs(grid.lat_bounds[-1] - grid.lat_bounds[0]) / (grid.lon_bounds[-1] - grid.lon_bounds[0]))
    wide = 3.1 if len(variables) < 4 else 2.4
    high = float(np.clip(wide * span, 0.8, 1.9))
    width, height = wide * len(variables) + 1.6, (high + 0.4) * len(rows) + 0.9
    drawn = Figure(figsize=(width, height))
    # Placed by hand: the automatic layouts take seconds for this many panels.
    panels = drawn.subplots(
        len(rows), len(variables), squeeze=False, sharex=True, sharey=True,
        gridspec_kw={"left": 0.55 / width, "right": 1 - 1.05 / width, "top": 1 - 0.55 / height, "bottom": 0.42 / height,
                     "wspace": 0.06, "hspace": 0.4 / high},
    )  # fmt: skip
    for across, (name, maps) in zip(panels, rows.items(), strict=True):
        size = np.abs(maps[np.isfinite(maps)])
        top = float(np.quantile(size, 0.99)) if size.size and size.max() > 0 else 1.0
        for axes, values, variable in zip(across, maps, variables, strict=True):
            axes.set_facecolor(LAND)
            mesh = axes.pcolormesh(grid.lon_bounds, grid.lat_bounds, values, cmap="RdBu_r", vmin=-top, vmax=top)
            _box(axes, grid)
            axes.set_title(f"{name}: {variable}", fontsize=8, loc="left", pad=3, y=1)
            axes.tick_params(labelsize=7, length=2)
        place = across[-1].get_position()
        strip = drawn.add_axes((place.x1 + 0.1 / width, place.y0, 0.09 / width, place.height))
        bar = drawn.colorbar(mesh, cax=strip, ticks=[-top, 0, top], format=FuncFormatter(lambda v, _: f"{v:.2g}"))
        bar.set_label(units[name], fontsize=7)
        bar.ax.tick_params(labelsize=6, length=2)
    panels[0, 0].set_xticks(_ticks(grid.lon_bounds))
    panels[0, 0].set_yticks(_ticks(grid.lat_bounds))
    for axes in panels[-1]:
        axes.set_xlabel("longitude (°E)", fontsize=7)
    for axes in panels[:, 0]:
        axes.set_ylabel("latitude (°N)", fontsize=7)
    drawn.suptitle(title, fontsize=9, y=1 - 0.12 / height, va="top")
    return drawn


def _ticks(bounds: np.ndarray) -> np.ndarray:
    low, high = sorted((float(bounds[0]), float(bounds[-1])))
    step = next(s for s in (5, 10, 15, 20, 30, 45, 60, 90) if s == 90 or (high - low) / s <= 6)
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _box(axes: Any, grid: LatLonGrid) -> None:
    south, north, west, east = NINO34
    if west >= grid.lon_bounds[0] and east <= grid.lon_bounds[-1]:
        x, y = [west, east, east, west, west], [south, south, north, north, south]
        axes.plot(x, y, color="black", lw=0.8)


def curve_figure(found: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """Return the share of the change that is left (deletion) and there (insertion) by the share of columns.

    Args:
        found: "deletion" and "insertion", each order's mean curve at `FRACTIONS`, as share of the whole change.
        title: Over it.
    """
    drawn = Figure(figsize=(9.4, 3.9), layout="constrained")
    words = {"deletion": "deletion: lower is better", "insertion": "insertion: higher is better"}
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, (kind, lines) in zip(panels, found.items(), strict=True):
        for k, (name, share) in enumerate(lines.items()):
            style = "--" if k >= 4 else "-"
            axes.plot(100 * FRACTIONS, share, style, color=COLOURS[k % 7], marker=MARKS[k % 7], ms=3.5, lw=1.3,
                      label=name)  # fmt: skip
        for level in (0, 1):
            axes.axhline(level, color="0.6", lw=0.7, zorder=0)
        axes.set_title(words[kind], fontsize=8, loc="left")
        axes.set_xlabel("blocks " + ("set to the climatology" if kind == "deletion" else "shown") + " (%)",
                        fontsize=8)  # fmt: skip
        axes.tick_params(labelsize=7)
    panels[0].set_ylabel("share of f(x) − f(climatology)", fontsize=8)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    drawn.suptitle(title, fontsize=9)
    return drawn


def randomisation_figure(table: pd.DataFrame, title: str) -> Figure:
    """Return the rank correlation with the trained network's maps by what is random, a panel an encoder.

    Args:
        table: Columns encoder, method, stage, rank_correlation.
        title: Over it.
    """
    encoders = list(dict.fromkeys(table["encoder"]))
    drawn = Figure(figsize=(3.6 * len(encoders) + 0.6, 3.4), layout="constrained")
    panels = drawn.subplots(1, len(encoders), sharey=True, squeeze=False)[0]
    for axes, encoder in zip(panels, encoders, strict=True):
        own = table[table["encoder"] == encoder]
        for k, (method, part) in enumerate(own.groupby("method", sort=False)):
            stages = ["none", *part["stage"]]
            axes.plot(range(len(stages)), [1.0, *part["rank_correlation"]], color=COLOURS[k], marker=MARKS[k], ms=4,
                      lw=1.3, label=str(method))  # fmt: skip
            axes.set_xticks(range(len(stages)), stages, fontsize=7, rotation=20, ha="right")
        axes.axhline(0, color="0.6", lw=0.7, zorder=0)
        axes.set_title(encoder, fontsize=8, loc="left")
        axes.set_xlabel("drawn anew", fontsize=8)
        axes.tick_params(labelsize=7)
    panels[0].set_ylabel("rank correlation of |attribution|", fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    drawn.suptitle(title, fontsize=9)
    return drawn
