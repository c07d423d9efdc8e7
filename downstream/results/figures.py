"""The pictures that tasks share: scores with intervals, curves over labels, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...ssl.fields.grid import LatLonGrid
from .maps import MapFigure, Maps
from .numbers import thinned
from .row import Role

F = TypeVar("F", bound=Figure)
COLOURS = {  # readable in grey and for most colour-blind readers (Okabe & Ito 2008)
    Role.PRETRAINED: "#D55E00", Role.TUNED: "#CC79A7", Role.UNTRAINED: "#0072B2", Role.SCRATCH: "#009E73",
    Role.BASELINE: "#7a7a7a", Role.KNOWN: "#000000",
}  # fmt: skip
MARKS = "osD^vXP*<>"
MOST_PANELS = 6
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
DASHES = ("-", "--", ":", "-.")
ABREAST = 3
LEAST_SHOWN = -1.0  # skill below this says nothing but that it is bad


def score_figure(scores: pd.DataFrame, roles: Mapping[str, Role], main: Sequence[tuple[str, str]]) -> Figure:
    """Return the main score of every row at every target with its interval; the best rows on top.

    Args:
        scores: Columns of `SCORES`.
        roles: Of each row, which sets its colour.
        main: Target and metric of each panel; of many, some evenly chosen.
    """
    chosen = thinned(main, MOST_PANELS)
    means = scores[scores["seed"].fillna("").astype(str) == ""]
    by_panel = [_at(means, target, metric) for target, metric in chosen]
    # Of several metrics, which may point either way, the first one orders the rows.
    leading = [one["value"] for one, (_, metric) in zip(by_panel, chosen, strict=True) if metric == chosen[0][1]]
    names = dict.fromkeys(name for one in by_panel for name in one.index)
    order = pd.concat(leading, axis=1).mean(axis=1).reindex(list(names)).sort_values(na_position="first").index
    drawn = Figure(figsize=(3.2 + 2.3 * len(chosen), 1.1 + 0.24 * len(order)), layout="constrained")
    panels = drawn.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axes, own, (target, metric) in zip(panels, by_panel, chosen, strict=True):
        for k, name in enumerate(order):
            if name not in own.index or not np.isfinite(own.loc[name, "value"]):
                continue
            value, low, high = (float(own.loc[name, column]) for column in ("value", "low", "high"))
            colour = COLOURS[roles.get(str(name), Role.BASELINE)]
            if np.isfinite(low) and np.isfinite(high):
                axes.plot([low, high], [k, k], color=colour, lw=1.6, alpha=0.55, solid_capstyle="butt")
            axes.plot(value, k, "o", color=colour, ms=5)
        left, right = axes.get_xlim()
        if left < LEAST_SHOWN < right:
            axes.set_xlim(left=LEAST_SHOWN)
        axes.axvline(0, color="0.6", lw=0.8, zorder=0)
        axes.grid(axis="x", color="0.9", lw=0.6)
        axes.set_title(target, fontsize=9, loc="left")
        axes.set_xlabel(metric.replace("_", " "), fontsize=8)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(order)), list(order), fontsize=8)
    for text in panels[0].get_yticklabels():
        text.set_color(COLOURS[roles.get(text.get_text(), Role.BASELINE)])
    return drawn


def curve_figures(means: pd.DataFrame, roles: Mapping[str, Role], unit: str, count: int) -> dict[str, Figure]:
    """Return the picture of skill by number of units (years, storms, weeks) with labels; none without a curve.

    Args:
        means: Columns row, target, metric, used (share of the units), value, low, high.
        roles: Of each row, which sets its colour.
        unit: What is independent of its like.
        count: Of the units in the training block.
    """
    if not len(means):
        return {}
    counted = means.assign(used=(means["used"].astype(float) * count).round())
    return {"label_curve": band_figure(counted, roles, f"training {unit}s with labels")}


def band_figure(means: pd.DataFrame, roles: Mapping[str, Role], label: str, scale: str = "log") -> Figure:
    """Return a panel a target with a line and its band for each row, over what was used.

    Args:
        means: Columns row, target, metric, used, value, low, high; NaN bounds: no band.
        roles: Of rows, which set their colours.
        label: What was used, in words.
        scale: Of that axis, "log" or "linear".
    """
    chosen = thinned(list(dict.fromkeys(zip(means["target"], means["metric"], strict=True))), MOST_PANELS)
    drawn = Figure(figsize=(1.2 + 3.3 * len(chosen), 3.9), layout="constrained")
    panels = drawn.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    ticks = sorted(set(means["used"]))
    for axes, (target, metric) in zip(panels, chosen, strict=True):
        own = means[(means["target"] == target) & (means["metric"] == metric)]
        for k, name in enumerate(dict.fromkeys(means["row"])):
            line = own.loc[own["row"] == name, ["used", "value", "low", "high"]].sort_values("used")
            x, y, low, high = line.to_numpy(float).T
            colour = COLOURS[roles[name]] if name in roles else f"C{k}"
            axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
            axes.plot(x, y, marker=MARKS[k % len(MARKS)], ms=4, lw=1.4, color=colour, label=name)
        axes.axhline(0, color="0.6", lw=0.8, zorder=0)
        axes.set_xscale(scale)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(target, fontsize=9, loc="left")
        axes.set_xlabel(label, fontsize=8)
        axes.tick_params(labelsize=8)
    # Shared, so only once all are drawn. A head on a handful of labels can be far below 0; how far says nothing.
    panels[0].set_ylim(bottom=max(LEAST_SHOWN, panels[0].get_ylim()[0]))
    panels[0].set_ylabel(chosen[0][1].replace("_", " "), fontsize=8)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return drawn


def confusion_figure(counts: Mapping[str, np.ndarray], classes: Sequence[str], title: str) -> Figure:
    """Return one matrix a row: observed classes down, called ones across, shares of the observed class."""
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


def shots_figure(curve: pd.DataFrame) -> Figure:
    """Return the Brier skill by the number of examples a class, the mean over draws and seeds, and the draws' range.

    Args:
        curve: Columns row, target, used, draw, brier_skill.
    """
    # Over seeds first, so that the band is the spread of the draws of labels.
    by_draw = curve.groupby(["target", "row", "used", "draw"], sort=False)["brier_skill"].mean()
    draws = by_draw.groupby(["target", "row", "used"], sort=False)
    means = pd.DataFrame({"value": draws.mean(), "low": draws.min(), "high": draws.max()}).reset_index()
    return band_figure(means.assign(metric="brier_skill"), {}, "examples a class")


def style(number: int) -> tuple[str, str]:
    """Return colour and dash of a row: any two of thirty-two differ in one of them."""
    return LINE_COLOURS[number % len(LINE_COLOURS)], DASHES[number // len(LINE_COLOURS) % len(DASHES)]


def line_figure(
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]],
    xlabel: str,
    ylabel: str = "",
    bold: tuple[str, ...] = (),
    marker: str = ".",
    levels: Sequence[float] = (),
) -> Figure:
    """Return lines (x, y) of rows by name in panels by title, with one legend; a panel may lack some rows.

    Rows whose names begin with one of `bold` are drawn thick; `levels` are drawn behind the lines.
    """
    drawn, places = _abreast(Figure, len(panels), 4.3, 3.8, beside=2.6)
    rows = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    entries = {}
    for axes, (title, lines) in zip(places, panels.items(), strict=False):
        for name, (x, y) in lines.items():
            colour, dash = style(rows.index(name))
            wide = 2.2 if bold and name.startswith(bold) else 1.2
            (entries[name],) = axes.plot(x, y, dash, color=colour, lw=wide, marker=marker, label=name)
        for level in levels:
            axes.axhline(level, color="0.6", lw=0.7, zorder=0)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel(xlabel)
    places[0].set_ylabel(ylabel)
    drawn.legend(entries.values(), entries.keys(), loc="outside right center", fontsize=8, frameon=False)
    return drawn


def calibration_figure(scores: pd.DataFrame, histogram: pd.DataFrame, rows: Sequence[str], alone: str) -> Figure:
    """Return coverage by the share that intervals are to hold, and histograms of PIT or ranks, means over targets.

    Args:
        scores: Columns row, distribution, metric (coverage_50, …), value.
        histogram: Columns row, distribution, from, to, share.
        rows: Those to draw, and the means of their seeds.
        alone: Distribution that is an ensemble of few members: only its ranks are drawn.
    """
    scores, histogram = (one[[_of_rows(name, rows) for name in one["row"]]] for one in (scores, histogram))
    panels: dict[str, dict[str, tuple[Any, Any]]] = {}
    covered = scores[scores["metric"].str.startswith("coverage_") & (scores["distribution"] != alone)]
    covered = covered.assign(share=covered["metric"].str.removeprefix("coverage_").astype(float) / 100)
    for kind, own in covered.groupby("distribution", sort=False):
        means = own.groupby(["row", "share"], sort=False)["value"].mean().dropna()
        panels[f"coverage, {kind}"] = {str(name): (one.index.get_level_values("share"), one.to_numpy())
                                       for name, one in means.groupby("row", sort=False)}  # fmt: skip
    flat = len(panels)
    for kind, own in histogram.groupby("distribution", sort=False):
        shares = own.groupby(["row", "from", "to"], sort=False)["share"].mean().reset_index()
        panels[f"PIT, {kind}"] = {
            str(name): ((one["from"] + one["to"]) / 2, one["share"] / (one["to"] - one["from"]))
            for name, one in shares.groupby("row", sort=False)
        }
    drawn = line_figure(panels, "", bold=("pretrained",))
    for k, axes in enumerate(drawn.axes[: len(panels)]):
        if k < flat:
            axes.axline((0.75, 0.75), slope=1, color="0.6", lw=0.8, zorder=0)
        else:
            axes.axhline(1, color="0.6", lw=0.8, zorder=0)
            axes.set_ylim(bottom=0)
        axes.set_xlabel("share to be held" if k < flat else "place in the distribution")
        axes.set_ylabel("share held" if k < flat else "density")
    return drawn


def _of_rows(name: str, rows: Sequence[str]) -> bool:
    return name in rows or any(name.startswith(f"{row}, mean of ") for row in rows)


def reliability_figure(bins: pd.DataFrame, rows: Sequence[str], least: float = 0.01) -> Figure:
    """Return how often classes came over the chances that they were given, a panel a target and class.

    Args:
        bins: Columns row, target, class, share (of the samples), chance, frequency.
        rows: Those to draw.
        least: Share of the samples that a point needs.
    """
    own = bins[bins["row"].isin(rows) & (bins["share"] >= least)]
    places = thinned(list(dict.fromkeys(zip(bins["target"], bins["class"], strict=True))), MOST_PANELS)
    panels = {}
    for target, one in places:
        here = own[(own["target"] == target) & (own["class"] == one)]
        panels[f"{target}: {one}"] = {str(name): (lines["chance"], lines["frequency"])
                                      for name, lines in here.groupby("row", sort=False)}  # fmt: skip
    drawn = line_figure(panels, "chance", "frequency")
    for axes in drawn.axes[: len(panels)]:
        axes.axline((0, 0), slope=1, color="0.6", lw=0.8, zorder=0)
    return drawn


def map_figure(
    fields: Mapping[str, np.ndarray],
    grid: LatLonGrid,
    limit: float,
    label: str,
    title: str,
    units: str,
    shares: bool = False,
    classes: bool = False,
) -> MapFigure:
    """Return maps of fields (row, column) by name on one scale from -limit (of shares, 0) to limit; NaN is grey.

    Where values are numbers of `classes`, no means of them are shown.
    """
    low, colours = (0.0, "viridis") if shares else (-limit, "RdBu_r")
    drawn, places = _abreast(MapFigure, len(fields), 4.3, 2.3, above=0.6)
    drawn.maps = Maps.of(fields, grid, (low, limit), units, classes=classes)
    for axes, (name, field) in zip(places, fields.items(), strict=False):
        axes.set_facecolor("0.85")
        shown = axes.pcolormesh(
            grid.lon_bounds, grid.lat_bounds, np.ma.masked_invalid(field), cmap=colours, vmin=low, vmax=limit
        )
        axes.set_title(name, loc="left", fontsize=8)
        axes.tick_params(labelsize=6)
    drawn.colorbar(shown, ax=places, label=label, shrink=0.7)
    drawn.suptitle(title, fontsize=10)
    return drawn


def _abreast(
    kind: type[F], count: int, wide: float, high: float, beside: float = 0, above: float = 0
) -> tuple[F, list[Any]]:
    """Return a figure and so many of its panels, of a size in inches, with room beside and above."""
    columns = min(ABREAST, count)
    lines = -(-count // columns)
    drawn = kind(figsize=(wide * columns + beside, high * lines + above), layout="constrained")
    places = list(drawn.subplots(lines, columns, squeeze=False).ravel())
    for axes in places[count:]:
        axes.set_axis_off()
    return drawn, places


def _at(means: pd.DataFrame, target: str, metric: str) -> pd.DataFrame:
    own = means[(means["target"].astype(str) == target) & (means["metric"] == metric)]
    return own.set_index("row")[["value", "low", "high"]]
