"""What the task shows beside the common table: each experiment apart, with its radiative forcing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ...results.row import Row
from .fluxes import Band

PRESENT = "Present day (PD)"


def by_experiment(
    rows: Sequence[Row], bands: Sequence[Band], groups: Mapping[str, np.ndarray], experiment: np.ndarray,
    site: np.ndarray, names: Mapping[int, str],
) -> pd.DataFrame:  # fmt: skip
    """Return scores of each row in each experiment, the mean over its seeds, and the radiative forcing there.

    The forcing is the net downward flux at the top less that of the present day, the mean over test sites.

    Args:
        rows: Of the table.
        bands: With the truth of all samples.
        groups: Test samples of the targets, by what follows the band in their names.
        experiment, site: Of all samples.
        names: Of the experiments.
    """
    found, first = [], next((k for k, name in names.items() if name == PRESENT), min(names))
    for row, band in ((row, band) for row in rows for band in bands):
        told = np.full_like(band.truth, np.nan)
        for group, chosen in groups.items():
            told[chosen & band.lit] = row.forecast[band.name + group]
        net = {name: down[:, 0] - up[:, 0] for name, (up, _, down) in
               (("told", band.parts(told)), ("true", band.parts(band.truth)))}  # fmt: skip
        here = band.lit & np.any(list(groups.values()), axis=0) & (experiment == first)
        base = {name: pd.Series(own[here], index=site[here]) for name, own in net.items()}
        for group, chosen in groups.items():
            for k in np.unique(experiment[chosen]):
                own = chosen & band.lit & (experiment == k)
                up, rates, down = band.parts(told[own] - band.truth[own])
                forcing = {name: (net[name][own] - base[name].reindex(site[own]).to_numpy()).mean() for name in net}
                found.append({
                    "row": row.name, "band": band.name, "experiment": names[k], "unseen": bool(group),
                    "flux_rmse": np.sqrt(((up**2).mean() + (down**2).mean()) / 2),
                    "heating_rmse": np.sqrt((rates**2).mean()),
                    "top_bias": up[:, 0].mean(), "surface_bias": down[:, -1].mean(),
                    "forcing": forcing["told"], "forcing, reference": forcing["true"],
                })  # fmt: skip
    return pd.DataFrame(found).groupby(["row", "band", "experiment", "unseen"], sort=False, as_index=False).mean()
