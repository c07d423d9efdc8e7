"""Scores of probabilistic forecasts of numbers: CRPS, coverage and intervals, spread and skill, PIT.

Gneiting & Raftery 2007 (doi 10.1198/016214506000001437); CRPS in closed form for Gaussians, fair for ensembles
(Ferro 2014, doi 10.1002/qj.2270), by quantiles otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scoringrules

from ...ssl.common.errors import EarthSSLError

LEVELS = tuple(float(level) for level in (np.arange(20) + 0.5) / 20)


def crps_gaussian(observed: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the CRPS of Gaussian forecasts, in the unit of the target, same shape.

    Raises:
        EarthSSLError: If a standard deviation is not positive.
    """
    if not (np.asarray(std) > 0).all():
        raise EarthSSLError("expected positive standard deviations of Gaussian forecasts, got one that is not")
    return np.asarray(scoringrules.crps_normal(observed, mean, std))


def crps_ensemble(
    observed: np.ndarray, members: np.ndarray, *, fair: bool = True, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return the CRPS of ensemble forecasts, shape (n,).

    Args:
        observed: Shape (n,).
        members: Shape (n, member).
        fair: Score the distribution that the members are drawn from, unbiased however few they are; False:
            score the members as the whole distribution.
        weights: Of the members, shape (member,), for an ensemble that is a whole distribution.

    Raises:
        EarthSSLError: If there are fewer than two members for the fair score, or weights with it.
    """
    m = members.shape[-1]
    if fair and (m < 2 or weights is not None):
        raise EarthSSLError(f"fair CRPS: expected at least two members without weights, got {m}; use fair=False")
    if weights is None:
        return np.asarray(scoringrules.crps_ensemble(observed, members, estimator="fair" if fair else "qd"))
    share = np.broadcast_to(np.asarray(weights, dtype=float) / np.sum(weights), members.shape)
    return np.asarray(scoringrules.crps_ensemble(observed, members, ens_w=share, estimator="qd"))


def crps_quantiles(observed: np.ndarray, quantiles: np.ndarray, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Return the CRPS as twice the mean pinball loss over levels that are spread evenly, shape (n,).

    Args:
        observed: Shape (n,).
        quantiles: Shape (n, level).
        levels: Midpoints of equal parts of (0, 1), (j - ½) / m: other levels would weigh the tails wrongly.
    """
    tau = np.asarray(levels, dtype=float)
    m = len(tau)
    if quantiles.shape != (len(observed), m) or not np.allclose(tau, (np.arange(m) + 0.5) / m):
        raise EarthSSLError(
            f"expected quantiles (n, {m}) at the midpoints of {m} equal parts of (0, 1), got shape {quantiles.shape} "
            f"at {list(tau[:3])} …"
        )
    return np.asarray(scoringrules.crps_quantile(observed, quantiles, tau))


def pinball(observed: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the pinball loss of each quantile, shape (n, level)."""
    error = observed[:, None] - quantiles
    return np.maximum(levels * error, (levels - 1) * error)


def covered(observed: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return whether each closed interval holds what was observed, shape (n,)."""
    return (observed >= low) & (observed <= high)


def winkler(observed: np.ndarray, low: np.ndarray, high: np.ndarray, alpha: float = 0.1) -> np.ndarray:
    """Return the interval score: width, and 2/α times how far outside the observation lies, shape (n,)."""
    return np.asarray(scoringrules.interval_score(observed, low, high, alpha))


def spread_skill(
    observed: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    members: int | None = None,
    weights: np.ndarray | None = None,
) -> float:
    """Return the root mean variance over the RMSE of the mean: 1 is calibrated, below 1 overconfident.

    Args:
        observed, mean, std: Shape (n,); the standard deviation of an ensemble with ddof 1.
        members: Size of the ensemble, whose mean errs by its own sampling: factor √((M + 1) / M).
        weights: Of the samples.
    """
    w = np.ones(len(observed)) if weights is None else weights
    error = (w * (observed - mean) ** 2).sum()
    if not error > 0:
        raise EarthSSLError("expected a mean forecast that errs somewhere, got none; the ratio has no value")
    return math.sqrt((w * std**2).sum() / error * ((members + 1) / members if members else 1.0))


def pit_chi2(pit: np.ndarray, bins: int = 10) -> float:
    """Return χ² of the PIT histogram over its degrees of freedom: near 1 where flat, for independent samples."""
    expected = len(pit) / bins
    if expected < 5:
        raise EarthSSLError(f"expected at least {5 * bins} samples for {bins} bins, got {len(pit)}; use fewer bins")
    counts = np.histogram(pit, bins=bins, range=(0, 1))[0]
    return float(((counts - expected) ** 2 / expected).sum() / (bins - 1))


def pit_ensemble(observed: np.ndarray, members: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the share of the members below what was observed, ties counted half, in (0, 1), shape (n,)."""
    m = members.shape[-1]
    w = np.full(m, 1 / m) if weights is None else weights / weights.sum()
    below = (members < observed[:, None]) @ w + 0.5 * ((members == observed[:, None]) @ w)
    return np.clip((below * m + 0.5) / (m + 1), 0, 1)
