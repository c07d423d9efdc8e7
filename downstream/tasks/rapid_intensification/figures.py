"""Pictures of forecasts of rapid intensification: reliability, Brier skill by row, by basin, and by labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

MARKS = "os^DvXP*<>"
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


def skill_figure(scores: pd.DataFrame, target: str, metric: str) -> Figure:
    """Return a bar a row with its interval; what lies below -0.2 is cut off there, and its number says how far."""
    own = scores[(scores["target"] == target) & (scores["metric"] == metric) & (scores["seed"] == "")]
    drawn = Figure(figsize=(8.5, 0.28 * len(own) + 1.2), layout="constrained")
    axis = drawn.subplots()
    at = np.arange(len(own))[::-1]
    value = own["value"].to_numpy(float)
    least = min(-0.02, max(-0.2, float(value.min(initial=0))) * 1.1)
    axis.barh(at, np.maximum(value, least), color="0.72")
    low, high = (own[name].to_numpy(float) for name in ("low", "high"))
    shown = value > least
    axis.errorbar(value[shown], at[shown], xerr=[(value - low)[shown], (high - value)[shown]], fmt="none",
                  ecolor="black", elinewidth=1, capsize=2)  # fmt: skip
    axis.axvline(0, color="0.3", lw=0.8)
    labels = [row if v > least else f"{row}  ({v:.2f})" for row, v in zip(own["row"], value, strict=True)]
    axis.set_yticks(at, labels, fontsize=7)
    axis.set_xlim(left=least)
    axis.set_xlabel(f"{metric}, {target}, with 95 % interval over test storms", fontsize=8)
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


def label_figure(draws: pd.DataFrame, metric: str, label: str, title: str) -> Figure:
    """Return the mean over draws and seeds of a metric by the share of labels, with the range of the draws.

    Args:
        draws: Columns row, seed, used, draw, and the metric.
        metric: Column to draw; what lies below -0.5 is cut off: how far a fit on a few storms fails says nothing.
        label: Of the axis of `used`.
        title: Of the picture.
    """
    drawn = Figure(figsize=(6.6, 4.2), layout="constrained")
    axis = drawn.subplots()
    for k, (row, own) in enumerate(draws.groupby("row", sort=False)):
        by_draw = own.groupby(["used", "draw"])[metric].mean().groupby("used")  # over seeds first
        mean = by_draw.mean()
        (line,) = axis.plot(mean.index, mean, marker=MARKS[k % len(MARKS)], ms=4, lw=1.2, label=str(row))
        axis.fill_between(mean.index, by_draw.min(), by_draw.max(), color=line.get_color(), alpha=0.12, lw=0)
    axis.axhline(0, color="0.4", lw=0.8)
    axis.set_xscale("log")
    axis.set_ylim(bottom=max(-0.5, axis.get_ylim()[0]))
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylabel(metric, fontsize=8)
    axis.legend(fontsize=7, frameon=False)
    axis.set_title(title, fontsize=9, loc="left")
    return drawn
