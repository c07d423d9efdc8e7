"""Pictures of the storm tiles: ROC curves, and where storms were, were foreseen by place alone, and were called."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from ....ssl.fields.grid import LatLonGrid


def roc_figure(chances: Mapping[str, np.ndarray], storms: np.ndarray, title: str) -> Figure:
    """Return the ROC curve of each row.

    Args:
        chances: Of each row, in any shape.
        storms: What was, in the same shape.
        title: Of the picture.
    """
    drawn = Figure(figsize=(7.4, 5.0), layout="constrained")
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
    for name, found in chances.items():
        false, true, _ = roc_curve(storms.ravel(), found.ravel())
        axes.plot(false, true, lw=1.3, label=name)
    axes.set_xlabel("share of the tiles without a storm that are called", fontsize=8)
    axes.set_ylabel("share of the tiles with a storm that are called", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    axes.set_title(title, fontsize=9, loc="left")
    return drawn


def map_figure(
    chances: Mapping[str, np.ndarray], storms: np.ndarray, tiles: np.ndarray, grid: LatLonGrid, patch: tuple[int, int]
) -> Figure:
    """Return the observed frequency of storms in each tile above the mean chance that each row gave it.

    Args:
        chances: Of each row, (time, place).
        storms: bool, (time, place).
        tiles: Number of each place's tile.
        grid: Cells that the tiles were cut from.
        patch: Rows and columns of a tile.
    """
    rows, columns = (-(-size // part) for size, part in zip(grid.shape, patch, strict=True))
    shown = {"observed": storms.mean(axis=0)} | {name: found.mean(axis=0) for name, found in chances.items()}
    largest = max(float(values.max()) for values in shown.values())
    drawn = Figure(figsize=(7.4, 1.7 * len(shown)), layout="constrained")
    edges = grid.lon_bounds[0], grid.lon_bounds[-1], grid.lat_bounds[-1], grid.lat_bounds[0]
    panels = drawn.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, shown.items(), strict=True):
        full = np.full(rows * columns, np.nan)
        full[tiles] = values
        # Tiles that reach beyond the grid are drawn whole: the extent is that of the padded grid.
        extent = (edges[0], edges[0] + (edges[1] - edges[0]) * columns * patch[1] / grid.shape[1],
                  edges[3] - (edges[3] - edges[2]) * rows * patch[0] / grid.shape[0], edges[3])  # fmt: skip
        image = axes.imshow(full.reshape(rows, columns), extent=extent, cmap="viridis", vmin=0, vmax=largest,
                            aspect="auto")  # fmt: skip
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_ylabel("°N", fontsize=7)
        axes.tick_params(labelsize=7)
    panels[-1].set_xlabel("°E", fontsize=7)
    drawn.colorbar(image, ax=list(panels), label="share of the test times", shrink=0.7)
    return drawn
