"""Pictures of forecasts of rapid intensification: reliability, and Brier skill by basin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...results.figures import MARKS

LEAST_SHARE = 0.01


def reliability_figure(table: pd.DataFrame, rows: Sequence[str], title: str) -> Figure:
    """Return observed frequency against mean forecast, a point a bin; bins hold about equally many samples.

    Bins with less than 1 % of the samples, which equal forecasts can leave, are in the table only.

    Args:
        table: Columns row, seed, forecast, observed, share; the first seed of a row is drawn.
        rows: Those to draw.
        title: Of the picture.
    """
    drawn = Figure(figsize=(7.5, 5.4), layout="constrained")
    axis = drawn.subplots()
    found = table[table["row"].isin(rows) & (table["share"] >= LEAST_SHARE)]
    edge = 1.05 * float(found[["forecast", "observed"]].max().max())
    axis.plot([0, edge], [0, edge], color="0.5", lw=0.8, label="reliable")
    for k, row in enumerate(rows):
        own = found[found["row"] == row]
        own = own[own["seed"] == own["seed"].iloc[0]]
        axis.plot(own["forecast"], own["observed"], marker=MARKS[k % len(MARKS)], ms=4, lw=1.1, label=row)
    axis.set_ylabel("observed frequency")
    axis.set_xlabel("forecast probability")
    axis.legend(fontsize=7, frameon=False)
    axis.set_title(title, fontsize=9, loc="left")
    return drawn


def basin_figure(table: pd.DataFrame, metric: str, title: str) -> Figure:
    """Return rows × basins of a metric as a coloured table, each with its interval."""
    own = table[table["metric"] == metric]
    rows, basins = list(dict.fromkeys(own["row"])), list(dict.fromkeys(own["basin"]))
    drawn = Figure(figsize=(1.15 * len(basins) + 4.2, 0.36 * len(rows) + 1.0), layout="constrained")
    axis = drawn.subplots()
    wide = own.pivot_table(index="row", columns="basin", values=["value", "low", "high"]).reindex(index=rows)
    values = wide["value"][basins].to_numpy()
    axis.imshow(np.clip(values, -0.25, 0.25), cmap="RdBu", vmin=-0.25, vmax=0.25, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        low, high = (wide[bound][basins].to_numpy()[i, j] for bound in ("low", "high"))
        axis.text(j, i, f"{values[i, j]:.3f}\n[{low:.2f}, {high:.2f}]", ha="center", va="center", fontsize=5.5,
                  color="white" if abs(values[i, j]) > 0.17 else "black")  # fmt: skip
    samples = own.drop_duplicates("basin").set_index("basin")["n"]
    axis.set_xticks(range(len(basins)), [f"{basin}\nn = {samples[basin]}" for basin in basins], fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.set_title(title, fontsize=9, loc="left")
    return drawn
