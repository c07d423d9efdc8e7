"""The picture of one test date: the true mask and what each row calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ....ssl.fields.grid import LatLonGrid

WIDE = 3


def mask_figure(masks: Mapping[str, np.ndarray], grid: LatLonGrid, classes: Sequence[str], title: str) -> Figure:
    """Return maps of masks (row, column) by name, one colour a class."""
    colours = ["0.93", *(mpl.colormaps["tab10"](k % 10) for k in range(len(classes) - 1))]
    high = -(-len(masks) // WIDE)
    drawn = Figure(figsize=(3.6 * WIDE, 1.9 * high + 0.8), layout="constrained")
    places = drawn.subplots(high, WIDE, squeeze=False).ravel()
    for axes, (name, mask) in zip(places, masks.items(), strict=False):
        axes.pcolormesh(grid.lon_bounds, grid.lat_bounds, mask, cmap=ListedColormap(colours), vmin=-0.5,
                        vmax=len(classes) - 0.5)  # fmt: skip
        axes.set_title(name, fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
    for axes in places[len(masks) :]:
        axes.set_axis_off()
    entries = [Patch(color=colour, label=name) for colour, name in zip(colours, classes, strict=True)]
    drawn.legend(handles=entries, loc="outside lower center", ncols=len(classes), fontsize=8, frameon=False)
    drawn.suptitle(title, fontsize=9)
    return drawn
