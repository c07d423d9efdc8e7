"""Figures of the forecast task: error by lead, one forecast on the map, and what is left of each scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .samples import ForecastSamples
from .scores import RMSE, Scored, target_name

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
DASHES = ("-", "--", ":", "-.")


def style(number: int) -> tuple[str, str]:
    """Return colour and dash of a row: any two of thirty-two differ in one of them."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def error_by_lead(scores: pd.DataFrame, samples: ForecastSamples) -> Figure:
    """Return RMSE by lead, a panel for each variable and a line for each row."""
    drawn = Figure(figsize=(4.6 * len(samples.names) + 2.6, 4.2), layout="constrained")
    panels = drawn.subplots(1, len(samples.names), squeeze=False)[0]
    own = scores[(scores["metric"] == RMSE) & (scores["seed"] == "")].set_index(["row", "target"])["value"]
    rows = list(dict.fromkeys(scores["row"]))
    for axes, name in zip(panels, samples.names, strict=True):
        targets = [target_name(name, lead, samples) for lead in samples.leads]
        for k, row in enumerate(rows):
            colour, dash = style(k)
            axes.plot(range(len(targets)), [own[row, t] for t in targets], dash, color=colour, marker=".", label=row)
        axes.set_xticks(range(len(targets)), [samples.label(lead) for lead in samples.leads])
        axes.set_title(f"RMSE of {name}, {samples.unit(name)}", loc="left", fontsize=10)
        axes.set_xlabel("lead")
        axes.set_ylim(bottom=0)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return drawn


def spectra(scored: Mapping[tuple[str, int | None], Scored], samples: ForecastSamples) -> Figure | None:
    """Return forecast over true power by zonal wavenumber at the longest lead; None where rows have gaps."""
    lead = samples.leads[-1]
    names = [n for n in samples.names if any(len(one.spectrum[n, lead]) for one in scored.values())]
    if not names:
        return None
    drawn = Figure(figsize=(4.6 * len(names) + 2.6, 4.2), layout="constrained")
    panels = drawn.subplots(1, len(names), squeeze=False)[0]
    rows = list(dict.fromkeys(row for row, _ in scored))
    for axes, name in zip(panels, names, strict=True):
        for k, row in enumerate(rows):
            ratios = [one.spectrum[name, lead] for (own, _), one in scored.items() if own == row]
            ratio = np.mean(ratios, axis=0)[1:]
            colour, dash = style(k)
            axes.loglog(np.arange(1, len(ratio) + 1), np.maximum(ratio, 1e-4), dash, color=colour, label=row)
        axes.axhline(0.5, color="0.6", lw=0.8)
        axes.set_ylim(5e-3, 5)
        axes.set_xlabel("zonal wavenumber (30–60° N and S)")
        axes.set_title(f"{name}, {samples.label(lead)}: power / true power", loc="left", fontsize=10)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return drawn


def one_forecast(forecasts: Mapping[str, np.ndarray], samples: ForecastSamples, init: int, lead: int) -> Figure:
    """Return maps of one forecast of the first variable: anomalies, in units, the truth first.

    Args:
        forecasts: Normalised anomalies (row, column) of the first variable by name, "truth" among them.
        samples: Says where the cells lie.
        init: Last input step.
        lead: Steps ahead.
    """
    grid, name = samples.store.grid, samples.names[0]
    scale = samples.store.statistics.scale[samples.positions[0]] / samples.factor(name)
    limit = float(np.nanpercentile(np.abs(forecasts["truth"] * scale), 99))
    columns = min(3, len(forecasts))
    lines = -(-len(forecasts) // columns)
    drawn = Figure(figsize=(4.4 * columns, 2.5 * lines + 0.6), layout="constrained")
    panels = drawn.subplots(lines, columns, squeeze=False).ravel()
    shown = None
    for axes, (label, field) in zip(panels, forecasts.items(), strict=False):
        shown = axes.pcolormesh(
            grid.lon_bounds,
            grid.lat_bounds,
            np.ma.masked_invalid(field * scale),
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
        )
        axes.set_title(label, loc="left", fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[len(forecasts) :]:
        axes.set_axis_off()
    assert shown is not None
    drawn.colorbar(shown, ax=list(panels), label=f"{name} anomaly, {samples.unit(name)}", shrink=0.8)
    target = samples.times[init + lead].astype("datetime64[m]")
    drawn.suptitle(f"{name} {samples.label(lead)} ahead, valid {target} UTC", fontsize=10)
    return drawn
