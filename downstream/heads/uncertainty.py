"""Uncertainty of a linear head: predictive distributions of numbers on frozen features, and their scores.

The uncertainty is that of the head and of the noise, for a given encoder: what another pretraining would give
is not in it. Every method is fitted on train and calibrated on validation, years apart; test is read once.

Scores (CRPS, coverage and intervals, spread and skill, PIT): Gneiting & Raftery 2007
(doi 10.1198/016214506000001437); CRPS in closed form for Gaussians, by quantiles or members otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scoringrules
from scipy.interpolate import make_interp_spline
from scipy.optimize import minimize
from scipy.special import erfinv, ndtr

from ...ssl.common.errors import EarthSSLError
from ..metrics.paired_bootstrap import compare
from .ridge_path import PENALTIES, RidgePath

LEVELS = tuple(float(level) for level in (np.arange(20) + 0.5) / 20)
SMOOTHING = 0.02  # of the pinball loss's corner, standard deviations of the target


def conformal_quantile(
    scores: np.ndarray, alpha: float = 0.1, blocks: np.ndarray | None = None, share: np.ndarray | None = None
) -> float:
    """Return the score that a new sample stays below with a chance of at least 1 - α.

    Without blocks, the ⌈(n + 1)(1 - α)⌉-th smallest of n exchangeable scores. With blocks (years), whole
    blocks are what is exchangeable: each of B blocks counts 1 / (B + 1), shared evenly among its samples, and
    so does the unknown new one, at infinity (Dunn, Wasserman & Ramdas 2022, doi 10.1080/01621459.2022.2060112).
    One sample a block gives the first case again.

    Args:
        scores: Of the calibration samples, |residual|, shape (n,).
        alpha: Chance of a miss, in (0, 1).
        blocks: Block of each sample.
        share: Weight of each sample within its block; None: all alike.

    Raises:
        EarthSSLError: If there are too few blocks for that α.
    """
    if not 0 < alpha < 1:
        raise EarthSSLError(f"conformal: expected α in (0, 1), got {alpha}")
    blocks = np.arange(len(scores)) if blocks is None else blocks
    weights, number = block_weights(blocks, share), len(np.unique(blocks))
    need = math.ceil((1 - alpha) / alpha - 1e-9)
    if number < need:
        raise EarthSSLError(
            f"conformal: expected at least {need} calibration blocks for α = {alpha:g}, got {number}; lengthen "
            "the validation block or raise α"
        )
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order]) * number / (number + 1)
    # The last sum may miss its level by rounding alone, which grows with the number of samples.
    at = int(np.searchsorted(reached, 1 - alpha - 1e-9))
    return float(scores[order][min(at, len(scores) - 1)])


def block_weights(blocks: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    """Return weights that sum to 1, the same for every block, and in it for every sample or as `share` says."""
    _, at = np.unique(blocks, return_inverse=True)
    own = np.ones(len(at)) if share is None else share
    total = np.bincount(at, own)
    return own / (len(total) * total[at])


@dataclass(frozen=True)
class RidgePosterior:
    """Bayesian ridge regression: y = w·z + ε, ε ~ N(0, σ²), w ~ N(0, σ² / (penalty n)), flat intercept and log σ.

    Attributes:
        path: The decomposed problem, one target.
        penalty: Multiple of n.
        sigma: σ, from the evidence.
    """

    path: RidgePath
    penalty: float
    sigma: float

    @classmethod
    def fit(cls, features: np.ndarray, target: np.ndarray) -> RidgePosterior:
        """Return the posterior with the penalty of the largest evidence, which takes no validation block."""
        path = RidgePath.fit(features, target[:, None])
        found = [evidence(path, target - path.target_mean[0, 0], penalty) for penalty in PENALTIES]
        best = int(np.argmax([value for value, _ in found]))
        return cls(path, PENALTIES[best], found[best][1])

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the target at new features, both (n,)."""
        mean = self.path.predict(features, [self.penalty])[0, :, 0]
        return mean, self.sigma * self.path.widths(features, [self.penalty])[0]


def evidence(path: RidgePath, centred: np.ndarray, penalty: float) -> tuple[float, float]:
    """Return the log marginal likelihood (up to a constant) with σ at its best, and that σ.

    Args:
        path: Of one target.
        centred: That target less its mean, (n,).
        penalty: Multiple of n.
    """
    ridge = penalty * path.samples
    free = path.samples - 1
    misfit = float(centred @ centred - (path.loadings[:, 0] ** 2 / (path.power + ridge)).sum())
    variance = max(misfit, 1e-12 * float(centred @ centred)) / free
    return -0.5 * (free * math.log(variance) + float(np.log1p(path.power / ridge).sum())), math.sqrt(variance)


@dataclass(frozen=True)
class QuantileHead:
    """Linear quantiles at several levels, by a pinball loss with a rounded corner and an L2 penalty, by L-BFGS.

    Attributes:
        coefficients: Target per standardised feature, (feature, level).
        intercepts: (level,).
        mean, scale: Of the features.
    """

    coefficients: np.ndarray
    intercepts: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, target: np.ndarray, penalty: float = 0.0) -> QuantileHead:
        """Return the fitted head, for all of `LEVELS`.

        Args:
            features: Shape (n, feature).
            target: Shape (n,).
            penalty: Weight of ½ |w|² (per standardised feature and standardised target) against the mean loss.
        """
        mean, spread = features.mean(axis=0), features.std(axis=0)
        scale = np.where(spread > 1e-12 * np.abs(features).max(axis=0, initial=0.0), spread, np.inf)
        z, tau = (features - mean) / scale, np.asarray(LEVELS)
        unit = float(target.std())
        if not unit > 0:
            raise EarthSSLError("quantile regression: expected a target that varies, got a constant; check the labels")
        y, shape = target / unit, (z.shape[1] + 1, len(tau))
        start = np.zeros(shape)
        start[-1] = np.quantile(y, tau)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            w = flat.reshape(shape)
            error = y[:, None] - z @ w[:-1] - w[-1]
            inner = np.abs(error) <= SMOOTHING
            # |e| rounded to a parabola within ± SMOOTHING (Huber), then tilted to the level.
            size = np.where(inner, error**2 / (2 * SMOOTHING) + SMOOTHING / 2, np.abs(error))
            slope = np.where(inner, error / SMOOTHING, np.sign(error)) / 2 + (tau - 0.5)
            gradient = np.empty(shape)
            gradient[:-1] = -z.T @ slope / len(y) + penalty * w[:-1]
            gradient[-1] = -slope.mean(axis=0)
            value = (size / 2 + (tau - 0.5) * error).mean(axis=0).sum() + penalty / 2 * (w[:-1] ** 2).sum()
            return float(value), gradient.ravel()

        found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
        w = found.x.reshape(shape) * unit
        return cls(w[:-1], w[-1], mean, scale)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the quantiles in ascending order, (n, level): where they would cross, they are sorted."""
        return np.sort((features - self.mean) / self.scale @ self.coefficients + self.intercepts, axis=1)


@dataclass(frozen=True, eq=False)
class Predictive:
    """One method's forecasts of n samples, as the scores need them; all (n,).

    Attributes:
        mean, std: Of the distribution.
        low, high: Ends of the central interval.
        crps: Against what was observed.
        pit: Probability below what was observed.
    """

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    crps: np.ndarray
    pit: np.ndarray


def gaussian(observed: np.ndarray, mean: np.ndarray, std: np.ndarray, alpha: float = 0.1) -> Predictive:
    """Return Gaussian forecasts, scored."""
    std = np.broadcast_to(std, mean.shape)
    half = math.sqrt(2) * erfinv(1 - alpha) * std
    crps, pit = np.asarray(scoringrules.crps_normal(observed, mean, std)), ndtr((observed - mean) / std)
    return Predictive(mean, std, mean - half, mean + half, crps, pit)


def empirical(
    observed: np.ndarray, members: np.ndarray, low: np.ndarray, high: np.ndarray, weights: np.ndarray | None = None
) -> Predictive:
    """Return forecasts that are the members themselves, as a whole distribution, with a given interval, scored."""
    w = np.full(members.shape[1], 1 / members.shape[1]) if weights is None else weights / weights.sum()
    mean = members @ w
    std = np.sqrt(((members - mean[:, None]) ** 2) @ w)
    share = np.broadcast_to(w, members.shape)
    crps = np.asarray(scoringrules.crps_ensemble(observed, members, ens_w=share, estimator="qd"))
    return Predictive(mean, std, low, high, crps, pit_ensemble(observed, members, w))


def predictives(
    features: np.ndarray,
    target: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    years: np.ndarray,
    *,
    alpha: float = 0.1,
) -> dict[str, Predictive]:
    """Return every method's forecasts for the test samples.

    * climatology: the training targets, whatever the features;
    * Gaussian around ridge: one width everywhere, the RMSE on validation; penalty chosen there;
    * ridge posterior: width from noise and weights, penalty by evidence, no validation (it takes the samples for
      independent, so overlapping seasons make it too narrow);
    * quantile regression: L2 penalty chosen on validation by CRPS;
    * conformal: ridge by evidence on train, width and shape from the validation residuals, by years.

    Args:
        features: Shape (n, feature), finite in the blocks.
        target: Shape (n,).
        blocks: Masks "train", "val" and "test", (n,).
        years: Year of each sample, (n,).
        alpha: Chance of a miss of the intervals.

    Raises:
        EarthSSLError: If a block is empty or there are too few validation years for α.
    """
    (x, y), (xv, yv), (xt, yt) = (_part(features, target, blocks, name) for name in ("train", "val", "test"))
    path = RidgePath.fit(x, y[:, None])
    misses = ((path.predict(xv, PENALTIES)[:, :, 0] - yv) ** 2).mean(axis=1)
    best = PENALTIES[int(np.argmin(misses))]
    posterior = RidgePosterior.fit(x, y)
    mean, std = posterior.predict(xt)
    residual = yv - posterior.predict(xv)[0]
    own_years = years[blocks["val"]]
    half = conformal_quantile(np.abs(residual), alpha, own_years)
    heads = [QuantileHead.fit(x, y, penalty=p) for p in (1e-3, 1e-2, 1e-1, 1.0)]
    head = min(heads, key=lambda one: float(crps_quantiles(yv, one.predict(xv)).mean()))
    quantiles = head.predict(xt)
    # Between the levels by straight lines, the last two of which are prolonged beyond the ends.
    ends = make_interp_spline(LEVELS, quantiles, k=1, axis=1)([alpha / 2, 1 - alpha / 2]).T
    clim = np.broadcast_to(y, (len(yt), len(y)))
    ends_clim = [np.full(len(yt), np.quantile(y, level)) for level in (alpha / 2, 1 - alpha / 2)]
    return {
        "climatology": empirical(yt, clim, *ends_clim),
        "Gaussian around ridge": gaussian(
            yt, path.predict(xt, [best])[0, :, 0], np.array(math.sqrt(misses.min())), alpha
        ),
        "ridge posterior": gaussian(yt, mean, std, alpha),
        "quantile regression": empirical(yt, quantiles, *ends),
        "conformal": empirical(yt, mean[:, None] + residual, mean - half, mean + half, block_weights(own_years)),
    }


def _part(
    features: np.ndarray, target: np.ndarray, blocks: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    rows = blocks[name]
    x, y = features[rows], target[rows]
    if not len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise EarthSSLError(
            f"uncertainty: expected finite features and targets in the {name} block, got {len(y)} samples, of which "
            f"{int((~np.isfinite(y)).sum() + (~np.isfinite(x)).any(axis=1).sum())} lack some; mask them out"
        )
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def uncertainty(
    features: np.ndarray,
    target: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    years: np.ndarray,
    *,
    alpha: float = 0.1,
    draws: int = 1000,
    block: int = 2,
) -> pd.DataFrame:
    """Return the table of all methods on the test block; arguments as for `predictives`.

    Returns:
        Columns method, metric, value, low, high. Metrics: crps, width and winkler in the target's unit, crpss
        (against climatology), coverage, spread_skill, pit_chi2 (no interval). Intervals: bootstrap over test
        years in blocks.
    """
    found = predictives(features, target, blocks, years, alpha=alpha)
    observed, units = target[blocks["test"]], years[blocks["test"]]
    clim = found["climatology"].crps
    rows = list(found.values())

    def mean(weights: np.ndarray, values: np.ndarray) -> float:
        return float((weights * values).sum() / weights.sum())

    scores: dict[str, Callable[[np.ndarray, Predictive], float]] = {
        "crps": lambda w, p: mean(w, p.crps),
        "crpss": lambda w, p: 1 - mean(w, p.crps) / mean(w, clim),
        "coverage": lambda w, p: mean(w, covered(observed, p.low, p.high)),
        "width": lambda w, p: mean(w, p.high - p.low),
        "winkler": lambda w, p: mean(w, scoringrules.interval_score(observed, p.low, p.high, alpha)),
        "spread_skill": lambda w, p: spread_skill(observed, p.mean, p.std, weights=w),
    }
    block = block if len(np.unique(units)) >= max(4, 2 * block) else 1
    table, _ = compare(
        lambda w: np.array([one(w, row) for one in scores.values() for row in rows]),
        units, [f"{metric} {name}" for metric in scores for name in found], [], draws=draws, block=block,
    )  # fmt: skip
    flat = [pit_chi2(row.pit) if len(observed) >= 50 else math.nan for row in rows]
    table = pd.concat([table, pd.DataFrame({"value": flat, "low": math.nan, "high": math.nan})], ignore_index=True)
    table["metric"], table["method"] = np.repeat([*scores, "pit_chi2"], len(found)), [*found] * (len(scores) + 1)
    return table[["method", "metric", "value", "low", "high"]]


# ---- Scores --------------------------------------------------------------------------------------------------


def crps_quantiles(observed: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Return the CRPS of quantiles (n, level) at `LEVELS`, twice the mean pinball loss over them, shape (n,)."""
    return np.asarray(scoringrules.crps_quantile(observed, quantiles, np.asarray(LEVELS)))


def covered(observed: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return whether each closed interval holds what was observed, shape (n,)."""
    return (observed >= low) & (observed <= high)


def spread_skill(observed: np.ndarray, mean: np.ndarray, std: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the root mean variance over the RMSE of the mean, with weights of samples, all (n,).

    1 is calibrated, below 1 overconfident.
    """
    w = np.ones(len(observed)) if weights is None else weights
    error = (w * (observed - mean) ** 2).sum()
    if not error > 0:
        raise EarthSSLError("expected a mean forecast that errs somewhere, got none; the ratio has no value")
    return math.sqrt((w * std**2).sum() / error)


def pit_chi2(pit: np.ndarray, bins: int = 10) -> float:
    """Return χ² of the PIT histogram over its degrees of freedom: near 1 where flat, for independent samples."""
    expected = len(pit) / bins
    if expected < 5:
        raise EarthSSLError(f"expected at least {5 * bins} samples for {bins} bins, got {len(pit)}; use fewer bins")
    counts = np.histogram(pit, bins=bins, range=(0, 1))[0]
    return float(((counts - expected) ** 2 / expected).sum() / (bins - 1))


def pit_ensemble(observed: np.ndarray, members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of the members below what was observed, by weights that sum to 1, ties half, in (0, 1), (n,)."""
    m = members.shape[-1]
    below = (members < observed[:, None]) @ weights + 0.5 * ((members == observed[:, None]) @ weights)
    return np.clip((below * m + 0.5) / (m + 1), 0, 1)
