"""Deterministic scores of seasonal forecasts; all-season skill as a function of the weights of samples.

What is bootstrapped is folded to (…, lead, target year, target calendar month) first, because the scores average over
calendar months and the bootstrap resamples years.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .paired_bootstrap import Resampled

# A correlation over fewer pairs than this says nothing (two points always give ±1).
FEWEST_PAIRS = 3


def pearson(
    forecast: np.ndarray, observed: np.ndarray, axis: int = -1, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return Pearson's r along `axis` over the pairs in which both are finite, each with its weight (1 by default).

    A constant forecast explains nothing, so its r is 0, not undefined. NaN where fewer than three pairs
    exist or the observations are constant.
    """
    forecast, observed = np.broadcast_arrays(forecast, observed)
    valid = np.isfinite(forecast) & np.isfinite(observed)
    weight = valid * (1.0 if weights is None else weights)
    count = (weight > 0).sum(axis=axis)
    f, o = (_deviation(values, valid, weight, axis) for values in (forecast, observed))
    covariance, f_power, o_power = ((weight * product).sum(axis=axis) for product in (f * o, f * f, o * o))
    usable = (count >= FEWEST_PAIRS) & (o_power > _rounding(observed, valid, axis))
    moving = f_power > _rounding(forecast, valid, axis)
    scale = np.sqrt(np.where(usable & moving, f_power * o_power, 1.0))
    return np.where(usable, np.where(moving, np.clip(covariance / scale, -1, 1), 0.0), np.nan)


def _deviation(values: np.ndarray, valid: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Return deviations from the weighted mean over the valid entries; 0 at the others."""
    filled = np.where(valid, values, 0.0)
    total = weight.sum(axis=axis, keepdims=True)
    mean = (weight * filled).sum(axis=axis, keepdims=True) / np.where(total > 0, total, 1.0)
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


def all_season_skill(forecast: np.ndarray, observed: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Return the mean over the calendar months of r over the years (Ham et al. 2019), shape (…,).

    Args:
        forecast, observed: Shape (…, sample), NaN where there is none.
        month: Calendar month of each sample, of its start or of its target, (sample,).
    """
    found = [pearson(forecast[..., month == m], observed[..., month == m]) for m in np.unique(month)]
    return valid_mean(np.stack(found), axis=0)


def std_ratio(forecast: np.ndarray, observed: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return std(forecast) / std(observed) of samples (…, sample), each with its weight (1 by default).

    Below 1 the forecasts are damped, as least squares makes them where little can be predicted.
    """
    weight = np.ones(observed.shape[-1]) if weights is None else weights
    valid = np.ones(1, dtype=bool)
    f, o = ((_deviation(v, valid, weight, -1) ** 2) @ weight for v in (forecast, observed))
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


class SeasonalSkill(Resampled):
    """All-season r of several rows, averaged over leads, as a function of the weights of samples, or of all draws.

    Attributes:
        forecasts: Folded, (row, lead, year, 12).
        truth: Folded, (lead, year, 12).
    """

    def __init__(
        self, forecasts: np.ndarray, truth: np.ndarray, years: np.ndarray, months: np.ndarray, leads: np.ndarray
    ) -> None:
        """Fold the samples.

        Args:
            forecasts: Of each row, (row, sample).
            truth: (sample,).
            years, months, leads: Target year, target calendar month (0 to 11) and lead of each sample.
        """
        which, where = (np.unique(values, return_inverse=True) for values in (leads, years))
        self._shape = (len(which[0]), len(where[0]), 12)
        self._place = np.ravel_multi_index((which[1], where[1], months), self._shape)
        self.forecasts, self.truth = self._folded(forecasts, np.nan), self._folded(truth, np.nan)

    def _folded(self, values: np.ndarray, absent: float) -> np.ndarray:
        full = np.full((*values.shape[:-1], int(np.prod(self._shape))), absent)
        full[..., self._place] = values
        return full.reshape(*values.shape[:-1], *self._shape)

    def season_skill(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return r by target season, which shows the spring barrier, (row, lead, 12)."""
        folded = None if weights is None else self._folded(weights, 0.0)
        return pearson(self.forecasts, self.truth, axis=-2, weights=folded)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return each row's skill, (row,), for a weight of each sample, (sample,)."""
        return valid_mean(self.season_skill(weights), axis=-1).mean(axis=-1)

    def resample(self, counts: np.ndarray) -> np.ndarray:
        """Return each draw's skill, (draw, row), for how often each year occurs in it, (draw, year)."""
        return np.stack([resampled_skill(one, self.truth, counts).mean(axis=-1) for one in self.forecasts], axis=1)


def resampled_skill(forecast: np.ndarray, observed: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the all-season r of each draw, shape (draws, lead).

    A draw is a set of weights, so all of them are a few matrix products with the years' moments.

    Args:
        forecast, observed: Folded values, shape (lead, years, 12), missing in the same places.
        counts: Times each year occurs, shape (draws, years).
    """
    valid = np.isfinite(forecast) & np.isfinite(observed)
    f, o = (_deviation(values, valid, valid, 1) for values in (forecast, observed))  # small moments lose no digits
    moments = (valid.astype(float), f, o, f * f, o * o, f * o)
    n, f1, o1, f2, o2, fo = (np.tensordot(counts, values, (1, 1)) for values in moments)
    f_power, o_power, covariance = n * f2 - f1**2, n * o2 - o1**2, n * fo - f1 * o1
    # Below these a variance is rounding: of a constant forecast, or of a draw that repeats one year.
    f_floor, o_floor = (_floor(values, valid) * n**2 for values in (forecast, observed))
    usable, moving = o_power > o_floor, f_power > f_floor
    scale = np.sqrt(np.where(usable & moving, f_power * o_power, 1.0))
    r = np.where(usable & moving, np.clip(covariance / scale, -1, 1), 0.0)
    months = usable.sum(axis=-1)
    return np.where(months > 0, r.sum(axis=-1) / np.maximum(months, 1), np.nan)


def _floor(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return 1e-20 * (np.where(valid, values, 0.0) ** 2).max(axis=1)[None]
