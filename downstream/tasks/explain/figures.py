"""Pictures of explanations: maps by method and variable, deletion and insertion, and random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ....ssl.fields.grid import LatLonGrid
from ...results.figures import line_figure
from ...results.maps import MapFigure, Maps
from ..enso.labels import NINO34
from .checks import FRACTIONS, Curves

LAND = "0.78"


def map_figure(
    rows: Mapping[str, np.ndarray], variables: Sequence[str], units: Mapping[str, str], grid: LatLonGrid, title: str
) -> MapFigure:
    """Return one row of maps for each entry, one column for each variable; the colours of a row share a scale.

    Args:
        rows: (variable, row, column) each, NaN where nothing is known (grey).
        variables: Names of the columns.
        units: Of each row's colours.
        grid: Of the maps; the box of Niño 3.4 is drawn.
        title: Over it all.
    """
    south, north, west, east = NINO34
    span = float(abs(grid.lat_bounds[-1] - grid.lat_bounds[0]) / (grid.lon_bounds[-1] - grid.lon_bounds[0]))
    wide = 3.1 if len(variables) < 4 else 2.4
    high = float(np.clip(wide * span, 0.8, 1.9))
    width, height = wide * len(variables) + 1.6, (high + 0.4) * len(rows) + 0.9
    drawn = MapFigure(figsize=(width, height))
    shown: dict[str, np.ndarray] = {}
    ends, of = [], []
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
            shown[f"{name}: {variable}"] = values
            ends.append((-top, top))
            of.append(units[name])
            mesh = axes.pcolormesh(grid.lon_bounds, grid.lat_bounds, values, cmap="RdBu_r", vmin=-top, vmax=top)
            if west >= grid.lon_bounds[0] and east <= grid.lon_bounds[-1]:
                axes.add_patch(Rectangle((west, south), east - west, north - south, fill=False, lw=0.8))
            axes.set_title(f"{name}: {variable}", fontsize=8, loc="left", pad=3, y=1)
            axes.tick_params(labelsize=7, length=2)
        place = across[-1].get_position()
        strip = drawn.add_axes((place.x1 + 0.1 / width, place.y0, 0.09 / width, place.height))
        bar = drawn.colorbar(mesh, cax=strip, ticks=[-top, 0, top], format=FuncFormatter(lambda v, _: f"{v:.2g}"))
        bar.set_label(units[name], fontsize=7)
        bar.ax.tick_params(labelsize=6, length=2)
    for axis in (panels[0, 0].xaxis, panels[0, 0].yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 1.5, 2, 3, 4.5, 6, 10]))
    for axes in panels[-1]:
        axes.set_xlabel("longitude (°E)", fontsize=7)
    for axes in panels[:, 0]:
        axes.set_ylabel("latitude (°N)", fontsize=7)
    drawn.suptitle(title, fontsize=9, y=1 - 0.12 / height, va="top")
    drawn.maps = Maps.of(shown, grid, ends, of)
    return drawn


def curve_figure(curves: Mapping[str, Curves], title: str) -> Figure:
    """Return the share of the change that is left (deletion) and there (insertion) by the share of blocks.

    Args:
        curves: Of each order.
        title: Over it.
    """
    panels = {}
    for kind, words in (("deletion", "deletion: lower is better"), ("insertion", "insertion: higher is better")):
        lines = {name: getattr(one, kind).sum(axis=0) / one.change.sum() for name, one in curves.items()}
        panels[words] = {name: (100 * FRACTIONS, share) for name, share in lines.items()}
    blocks = "blocks set to the climatology, or shown (%)"
    drawn = line_figure(panels, blocks, "share of f(x) − f(climatology)", levels=(0, 1))
    drawn.suptitle(title, fontsize=9)
    return drawn


def randomisation_figure(table: pd.DataFrame, title: str) -> Figure:
    """Return the rank correlation with the trained network's maps by what is random, a panel an encoder.

    Args:
        table: Columns encoder, method, stage, rank_correlation.
        title: Over it.
    """
    panels: dict[str, dict[str, tuple[Any, Any]]] = {}
    for (encoder, method), part in table.groupby(["encoder", "method"], sort=False):
        panels.setdefault(str(encoder), {})[str(method)] = ["none", *part["stage"]], [1.0, *part["rank_correlation"]]
    drawn = line_figure(panels, "drawn anew", "rank correlation of |attribution|", levels=(0, 1))
    drawn.suptitle(title, fontsize=9)
    return drawn
