"""Pictures of vortices: what crops around them show, and the skill of forecasts of their change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..ssl.store import Store
from .crops import CropConfig, StormCrops


def crops_figure(
    store: Store, samples: pd.DataFrame, ways: Mapping[str, CropConfig], label: str, count: int = 4
) -> Figure:
    """Return normalised vorticity (colours) and pressure (contours) around the strongest vortices.

    Args:
        store: Of msl and vo850.
        samples: With the columns `storm`, `time`, `lat`, `lon`, `heading`, `vorticity`.
        ways: To crop, by the words for them; a row of panels each.
        label: What the picture is of.
        count: Vortices.
    """
    strongest = samples.sort_values("vorticity", ascending=False).drop_duplicates("storm").head(count)
    names = list(store.variables)
    drawn = Figure(figsize=(2.3 * len(strongest) + 0.4, 5.4), layout="constrained")
    panels = drawn.subplots(2, len(strongest), squeeze=False)
    for across, (words, crops) in zip(panels, ways.items(), strict=True):
        fields = StormCrops(store, strongest, 1, crops).fields()[:, 0]
        extent = (-crops.radius_deg, crops.radius_deg, -crops.radius_deg, crops.radius_deg)
        for axis, field_, (_, one) in zip(across, fields, strongest.iterrows(), strict=True):
            axis.imshow(field_[names.index("vo850")], cmap="RdBu_r", vmin=-4, vmax=4, extent=extent)
            axis.contour(np.flipud(field_[names.index("msl")]), colors="black", linewidths=0.6, extent=extent)
            axis.plot(0, 0, marker="+", color="lime", ms=8)
            lat, lon, when = float(one["lat"]), float(one["lon"]), pd.Timestamp(one["time"])
            side = "S, mirrored" if lat < 0 else "N"
            where = f"{when:%d %b %HZ}, {abs(lat):g}°{side}, {lon:g}°E"
            axis.set_title(where + (words or ", north up"), fontsize=6)
            axis.tick_params(labelsize=6)
    drawn.suptitle(f"Crops: vorticity (colours), pressure (contours), normalised; {label}", fontsize=8)
    return drawn


def skill_figure(scores: pd.DataFrame, label: str) -> Figure:
    """Return the skill of every row as a bar with its interval, a panel a target.

    Args:
        scores: As in `Summary`, the metric "skill" among them.
        label: What the picture is of.
    """
    own = scores[scores["metric"] == "skill"]
    rows = list(dict.fromkeys(own["row"]))
    drawn = Figure(figsize=(9.5, 0.26 * len(rows) + 1.4), layout="constrained")
    at = np.arange(len(rows))[::-1]
    for axis, (target, part) in zip(drawn.subplots(1, 2, sharey=True), own.groupby("target", sort=False), strict=True):
        value, low, high = (part.set_index("row")[name].reindex(rows).to_numpy() for name in ("value", "low", "high"))
        axis.barh(at, np.maximum(value, -0.5), color="0.72")
        axis.errorbar(value, at, xerr=[value - low, high - value], fmt="none", ecolor="black", elinewidth=1)
        axis.axvline(0, color="0.3", lw=0.8)
        axis.set_xlim(-0.5, 1)
        axis.set_yticks(at, rows, fontsize=7)
        axis.set_title(target, fontsize=8, loc="left")
    drawn.suptitle(f"Skill against the mean change of training; {label}", fontsize=8)
    return drawn
