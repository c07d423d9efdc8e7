"""How ENSO forecasts are scored: all-season r, RMSE and amplitude by lead, and r averaged over leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ...metrics.paired_bootstrap import Statistic
from ...metrics.seasonal import SeasonalSkill, std_ratio
from ...results.row import Row, names_of
from ...results.target import Metric, Target
from .labels import MEAN, EnsoLabels, target_name

SKILL = "skill"


def enso_targets(enso: EnsoLabels, block: int) -> list[Target]:
    """Return the mean over leads, then each lead; the unit is the year of the target's central month.

    Args:
        enso: Labels and samples.
        block: Neighbouring test years drawn together.
    """
    mean = Target(MEAN, _calendar(enso, None)[0], [Metric(SKILL, _skill(enso, None))], block)
    return [mean, *[_at(enso, j, block) for j in range(len(enso.leads))]]


def season_skill(enso: EnsoLabels, rows: Sequence[Row]) -> pd.DataFrame:
    """Return r by target season, mean over seeds: columns row, lead, target_month (1 to 12), r."""
    found = seasonal(enso, rows).season_skill()
    names = names_of(rows)
    means = [found[[k for k, row in enumerate(rows) if row.name == name]].mean(axis=0) for name in names]
    index = pd.MultiIndex.from_product([names, enso.leads, range(1, 13)], names=["row", "lead", "target_month"])
    return pd.Series(np.stack(means).ravel(), index, name="r").reset_index()


def seasonal(enso: EnsoLabels, rows: Sequence[Row], j: int | None = None) -> SeasonalSkill:
    """Return the skill of rows at the j-th lead, or averaged over leads, as a function of the samples' weights."""
    name = MEAN if j is None else target_name(enso.leads[j])
    return SeasonalSkill(np.stack([row.forecast[name] for row in rows]), enso.of_test(enso.target)[name],
                         *_calendar(enso, j))  # fmt: skip


def forecasts(enso: EnsoLabels, rows: Sequence[Row]) -> xr.Dataset:
    """Return all forecasts of the test samples beside what was observed, K, dims (row, lead, init_time)."""
    names = pd.Index([f"{row.name}|{row.seed}" for row in rows], name="row")
    said = xr.concat([enso.array(row.forecast) for row in rows], names)
    return xr.Dataset({"forecast": said, "observed": enso.array(enso.of_test(enso.target))})


def _calendar(enso: EnsoLabels, j: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target year, target calendar month (0 to 11) and lead of the test samples, of all leads for None."""
    chosen = range(len(enso.leads)) if j is None else [j]
    months = np.concatenate([enso.time[enso.tested[k]].astype(int) + enso.leads[k] for k in chosen])
    leads = np.concatenate([np.full(len(enso.tested[k]), enso.leads[k]) for k in chosen])
    return months // 12 + 1970, months % 12, leads


def _skill(enso: EnsoLabels, j: int | None) -> Callable[[Sequence[Row]], Statistic]:
    return lambda rows: seasonal(enso, rows, j)


def _at(enso: EnsoLabels, j: int, block: int) -> Target:
    name = target_name(enso.leads[j])
    truth = enso.target[j, enso.tested[j]]

    def errors(row: Row) -> np.ndarray:
        return (row.forecast[name] - truth) ** 2

    def rmse(rows: Sequence[Row]) -> Statistic:
        squared = np.stack([errors(row) for row in rows])
        return lambda w: np.sqrt(squared @ w / w.sum())

    def ratio(rows: Sequence[Row]) -> Statistic:
        said = np.stack([row.forecast[name] for row in rows])
        return lambda w: std_ratio(said, truth, w)

    metrics = [Metric(SKILL, _skill(enso, j)), Metric("rmse", rmse, False, compared=False),
               Metric("std_ratio", ratio, compared=False)]  # fmt: skip
    return Target(name, _calendar(enso, j)[0], metrics, block, errors, truth**2)
