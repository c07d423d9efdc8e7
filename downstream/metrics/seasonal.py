"""Deterministic scores of seasonal forecasts, and Row: one method's forecasts, ready to be scored.

Everything is folded to (…, lead, target year, target calendar month) first, because the scores average
over calendar months and the bootstrap resamples years.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ...ssl.common.errors import EarthSSLError

# A correlation over fewer pairs than this says nothing (two points always give ±1).
FEWEST_PAIRS = 3


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the comparison: the forecasts of one method (and seed) for the test samples.

    Attributes:
        name: What the row is called in tables; rows that differ only in `seed` share it.
        seed: Seed of the run behind it, None where nothing is random.
        forecast: Predicted 3-month means, K, dims (lead, init_time); NaN where (init, lead) is no test sample.
        settings: How it was made: chosen hyperparameters and validation scores, plain values only.
    """

    name: str
    seed: int | None
    forecast: xr.DataArray
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.forecast.dims != ("lead", "init_time"):
            raise EarthSSLError(
                f"expected forecasts with dims ('lead', 'init_time') in row '{self.name}', "
                f"got {self.forecast.dims}; transpose them"
            )


def fold(values: np.ndarray, init: np.ndarray, leads: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (target years, values by target year and calendar month); absent cells are NaN.

    Args:
        values: One number a lead and initial month, shape (…, lead, init).
        init: Last input month of each sample, datetime64[M], shape (init,).
        leads: Months from `init` to the central month of the target.

    Returns:
        Years, shape (years,), and the values, shape (…, lead, years, 12).
    """
    start = init.astype("datetime64[M]").astype(int)
    target = start[None, :] + np.asarray(leads, dtype=int)[:, None]
    first = int(target.min()) // 12
    years = np.arange(first, int(target.max()) // 12 + 1)
    folded = np.full((*values.shape[:-1], len(years), 12), np.nan)
    for j in range(len(leads)):
        folded[..., j, target[j] // 12 - first, target[j] % 12] = values[..., j, :]
    return years + 1970, folded


def pearson(forecast: np.ndarray, observed: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return Pearson's r along `axis` over the pairs in which both are finite.

    A constant forecast explains nothing, so its r is 0, not undefined. NaN where fewer than three pairs
    exist or the observations are constant.
    """
    forecast, observed = np.broadcast_arrays(forecast, observed)
    valid = np.isfinite(forecast) & np.isfinite(observed)
    count = valid.sum(axis=axis)
    f, o = (_deviation(values, valid, axis) for values in (forecast, observed))
    covariance, f_power, o_power = (f * o).sum(axis=axis), (f * f).sum(axis=axis), (o * o).sum(axis=axis)
    usable = (count >= FEWEST_PAIRS) & (o_power > _rounding(observed, valid, axis))
    moving = f_power > _rounding(forecast, valid, axis)
    scale = np.sqrt(np.where(usable & moving, f_power * o_power, 1.0))
    return np.where(usable, np.where(moving, np.clip(covariance / scale, -1, 1), 0.0), np.nan)


def _deviation(values: np.ndarray, valid: np.ndarray, axis: int) -> np.ndarray:
    """Return deviations from the mean over the valid entries; 0 at the others."""
    filled = np.where(valid, values, 0.0)
    mean = filled.sum(axis=axis, keepdims=True) / np.maximum(valid.sum(axis=axis, keepdims=True), 1)
    return np.where(valid, filled - mean, 0.0)


def _rounding(values: np.ndarray, valid: np.ndarray, axis: int) -> np.ndarray:
    """Return the sum of squared deviations that rounding alone can leave in a constant."""
    return 1e-24 * (np.where(valid, values, 0.0) ** 2).sum(axis=axis)


def valid_mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Return the mean over the finite entries along `axis`, NaN (and no warning) where there are none."""
    valid = np.isfinite(values)
    count = valid.sum(axis=axis)
    total = np.where(valid, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def all_season_skill(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the mean over the 12 target calendar months of r over the years (Ham et al. 2019).

    Args:
        forecast, observed: Folded values, shape (…, years, 12).

    Returns:
        Skill, shape (…,).
    """
    return valid_mean(pearson(forecast, observed, axis=-2), axis=-1)


def root_mean_square_error(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the RMSE over all years and months of folded values (…, years, 12), in their unit."""
    return np.sqrt(valid_mean((forecast - observed) ** 2, axis=(-2, -1)))


def std_ratio(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return std(forecast) / std(observed) over all years and months of folded values (…, years, 12).

    Below 1 the forecasts are damped, as least squares makes them where little can be predicted.
    """
    forecast, observed = np.broadcast_arrays(forecast, observed)
    valid = np.isfinite(forecast) & np.isfinite(observed)
    f, o = (
        (_deviation(v.reshape(*v.shape[:-2], -1), valid.reshape(*v.shape[:-2], -1), -1) ** 2).sum(axis=-1)
        for v in (forecast, observed)
    )
    return np.sqrt(np.where(o > 0, f / np.where(o > 0, o, 1.0), np.nan))


def last_skilful_lead(skill: np.ndarray, leads: Sequence[int], threshold: float = 0.5) -> int | None:
    """Return the last lead before skill first falls below `threshold`; None if the first lead fails.

    A later return above the threshold does not count: it would reward noise at long leads.
    """
    last = None
    for lead, value in zip(leads, np.asarray(skill), strict=True):
        if not value >= threshold:
            break
        last = int(lead)
    return last


def fold_array(values: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return `fold` of a DataArray with dims (lead, init_time)."""
    init = values["init_time"].values.astype("datetime64[M]")
    return fold(values.values.astype(np.float64), init, [int(lead) for lead in values["lead"].values])


def score(row: Row, observed: xr.DataArray) -> xr.Dataset:
    """Return all deterministic scores of one row against the observed targets.

    Args:
        row: The forecasts.
        observed: Observed 3-month means of the test samples, K, dims (lead, init_time).

    Returns:
        `skill` (lead), `rmse` (lead, K), `std_ratio` (lead), `season_skill` (lead, target_month 1…12: r by
        target season, which shows the spring barrier), `pairs` (lead: number of verified forecasts); the
        attribute `last_skilful_lead` is -1 where no lead reaches r = .5.

    Raises:
        EarthSSLError: If the row lacks a forecast for a test sample.
    """
    forecast = aligned(row, observed)
    _, f = fold_array(forecast)
    _, o = fold_array(observed)
    skill = all_season_skill(f, o)
    last = last_skilful_lead(skill, [int(lead) for lead in observed["lead"].values])
    return xr.Dataset(
        {
            "skill": ("lead", skill),
            "rmse": ("lead", root_mean_square_error(f, o), {"units": "K"}),
            "std_ratio": ("lead", std_ratio(f, o)),
            "season_skill": (("lead", "target_month"), pearson(f, o, axis=-2)),
            "pairs": ("lead", np.isfinite(f + o).sum(axis=(-2, -1))),
        },
        coords={"lead": observed["lead"].values, "target_month": np.arange(1, 13)},
        attrs={"row": row.name, "last_skilful_lead": -1 if last is None else last},
    )


def aligned(row: Row, observed: xr.DataArray) -> xr.DataArray:
    """Return the row's forecasts on the axes of `observed`, NaN where nothing was observed.

    Raises:
        EarthSSLError: If a forecast is missing for an observed sample: rows scored on different
            samples could not be compared.
    """
    forecast = row.forecast.reindex(lead=observed["lead"], init_time=observed["init_time"])
    wanted = np.isfinite(observed.values)
    missing = int((wanted & ~np.isfinite(forecast.values)).sum())
    if missing:
        raise EarthSSLError(
            f"expected a forecast for each of {int(wanted.sum())} test samples in row '{row.name}', "
            f"{missing} are missing; build the row with the same task as the observations"
        )
    return forecast.where(wanted)
