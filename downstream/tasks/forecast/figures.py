"""Figures of the forecast task: error by lead, one forecast on the map, and what is left of each scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...results.figures import line_figure, map_figure
from .samples import ForecastSamples
from .scores import RMSE, Scored, target_name


def error_by_lead(scores: pd.DataFrame, samples: ForecastSamples) -> Figure:
    """Return RMSE by lead, a panel for each variable and a line for each row."""
    own = scores[(scores["metric"] == RMSE) & (scores["seed"] == "")].set_index(["row", "target"])["value"]
    at = range(len(samples.leads))
    panels = {
        f"RMSE of {name}, {samples.unit(name)}": {
            row: (at, [own[row, target_name(name, lead, samples)] for lead in samples.leads])
            for row in dict.fromkeys(scores["row"])
        }
        for name in samples.names
    }
    drawn = line_figure(panels, "lead")
    for axes in drawn.axes[: len(panels)]:
        axes.set_xticks(at, [samples.label(lead) for lead in samples.leads])
        axes.set_ylim(bottom=0)
    return drawn


def spectra(scored: Mapping[tuple[str, Any], Scored], samples: ForecastSamples) -> Figure | None:
    """Return forecast over true power by zonal wavenumber at the longest lead; None where rows have gaps."""
    lead = samples.leads[-1]
    panels: dict[str, dict[str, Any]] = {}
    for name in samples.names:
        if not any(len(one.spectrum[name, lead]) for one in scored.values()):
            continue
        lines = panels[f"{name}, {samples.label(lead)}: power / true power"] = {}
        for row in dict.fromkeys(row for row, _ in scored):
            ratios = [one.spectrum[name, lead] for (own, _), one in scored.items() if own == row]
            ratio = np.mean(ratios, axis=0)[1:]
            lines[row] = np.arange(1, len(ratio) + 1), np.maximum(ratio, 1e-4)
    if not panels:
        return None
    drawn = line_figure(panels, "zonal wavenumber (30–60° N and S)")
    for axes in drawn.axes[: len(panels)]:
        axes.axhline(0.5, color="0.6", lw=0.8)
        axes.set(xscale="log", yscale="log", ylim=(5e-3, 5))
    return drawn


def one_forecast(forecasts: Mapping[str, np.ndarray], samples: ForecastSamples, init: int, lead: int) -> Figure:
    """Return maps of one forecast of the first variable: anomalies, in units, the truth first.

    Args:
        forecasts: Normalised anomalies (row, column) of the first variable by name, "truth" among them.
        samples: Says where the cells lie.
        init: Last input step.
        lead: Steps ahead.
    """
    name = samples.names[0]
    scale = samples.store.statistics.scale[samples.positions[0]] / samples.factor(name)
    fields = {label: field * scale for label, field in forecasts.items()}
    limit = float(np.nanpercentile(np.abs(fields["truth"]), 99))
    title = f"{name} {samples.label(lead)} ahead, valid {samples.times[init + lead].astype('datetime64[m]')} UTC"
    unit = samples.unit(name)
    return map_figure(fields, samples.store.grid, limit, f"{name} anomaly, {unit}", title, unit)
