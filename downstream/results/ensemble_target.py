"""Scores of ensembles: of the mean, of the whole distribution, and of what its spread says, sample by sample.

Every score is a formula of sums over samples, so each row keeps, for each test sample, only what is summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scoringrules

from .target import Metric, Target, additive

# what is kept of each sample, means over the cells of a field by their area
PARTS = range(12)
ERROR2, CRPS, VARIANCE, COVERED, MEAN, TRUTH, MEAN2, TRUTH2, PRODUCT, SPREAD, ERROR, BOTH = PARTS
LEVEL = 0.8  # of the intervals whose coverage is told
VALUES_AT_ONCE = 2**22
Members = Callable[[slice], np.ndarray]  # some samples -> (sample, member, cell)


def parts_of(members: Members, count: int, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return what is summed of each sample, (sample, part), see `PARTS`.

    Variance is that of the members, unbiased and (k + 1) / k times as large, as is the error of a mean of k that truth
    might have been one of; covered is whether truth lies in the central 80 % of the members (their ranks; of fewer
    than nine members, between the outermost two). Both, and spread, are NaN for a single one, whose CRPS is its
    absolute error.

    Args:
        members: Returns the members of some samples.
        count: How many there are.
        truth: Of each sample, (sample, cell).
        weight: Of each cell.
    """
    share = weight / weight.sum()
    made = np.full((len(truth), len(PARTS)), np.nan)
    step = max(1, VALUES_AT_ONCE // (count * truth.shape[1]))
    for begin in range(0, len(truth), step):
        part = slice(begin, begin + step)
        own, seen = np.array(members(part), dtype=np.float64), truth[part]
        mean = own.mean(axis=1)
        error2 = (mean - seen) ** 2
        cells = {ERROR2: error2, MEAN: mean, TRUTH: seen, MEAN2: mean**2, TRUTH2: seen**2, PRODUCT: mean * seen}
        if count == 1:
            cells[CRPS] = np.abs(mean - seen)
        else:
            own.sort(axis=1)
            cells[CRPS] = scoringrules.crps_ensemble(seen, own, m_axis=1, sorted_ensemble=True, estimator="qd")
            cells[VARIANCE] = own.var(axis=1, ddof=1) * (count + 1) / count
            cells[COVERED] = (_rank_value(own, (1 - LEVEL) / 2) <= seen) & (seen <= _rank_value(own, (1 + LEVEL) / 2))
        for k, values in cells.items():
            made[part, k] = values @ share
        made[part, ERROR] = np.sqrt(made[part, ERROR2])
        made[part, SPREAD] = np.sqrt(made[part, VARIANCE])
        made[part, BOTH] = made[part, SPREAD] * made[part, ERROR]
    return made


def ensemble_target(name: str, climatology: np.ndarray, units: np.ndarray, block: int, centred: bool) -> Target:
    """Return the target whose rows say `parts_of` their ensembles.

    skill: 1 − squared error of the mean / that of the climatology (a departure of 0); r: correlation of the mean with
    truth, of departures as they are where there are many cells; crps_skill: 1 − CRPS / that of the climatology's
    ensemble; spread_skill: root mean variance / RMSE, 1 where the spread is right; spread_r: correlation of spread and
    error over the samples; coverage_80: of the central 80 %.

    Args:
        name: Of the target.
        climatology: Parts of the climatology's ensemble.
        units, block: As for `Target`.
        centred: Whether r is of departures from the means over the samples.
    """

    def metric(
        name: str, wanted: Sequence[int], formula: Callable[[np.ndarray, np.ndarray], np.ndarray], **options: Any
    ) -> Metric:
        return additive(name, lambda row: row.forecast[target].T[list(wanted)], formula, **options)

    target, usual = name, climatology[:, CRPS]
    spread: dict[str, Any] = {"takes": lambda row: bool(np.isfinite(row.forecast[target][:, VARIANCE]).all())}
    return Target(
        name, units,
        [
            metric("skill", [ERROR2, TRUTH2], lambda s, w: 1 - s[0] / s[1]),
            metric("r", [MEAN, TRUTH, MEAN2, TRUTH2, PRODUCT], lambda s, w: _r(s / w.sum(), centred)),
            metric("crps_skill", [CRPS], lambda s, w: 1 - s[0] / (usual @ w)),
            metric("crps", [CRPS], lambda s, w: s[0] / w.sum(), larger_is_better=False),
            metric("rmse", [ERROR2], lambda s, w: np.sqrt(s[0] / w.sum()), larger_is_better=False),
            metric("spread_skill", [VARIANCE, ERROR2], lambda s, w: np.sqrt(_ratio(s[0], s[1])),
                   compared=False, **spread),
            metric("spread_r", [SPREAD, ERROR, VARIANCE, ERROR2, BOTH], lambda s, w: _r(s / w.sum(), True),
                   **spread),
            metric("coverage_80", [COVERED], lambda s, w: s[0] / w.sum(), compared=False, **spread),
        ],
        block=block,
        errors=lambda row: row.forecast[target][:, ERROR2],
        reference_errors=climatology[:, ERROR2],
        main=("skill", "crps_skill"),
    )  # fmt: skip


def residual_quantiles(residuals: np.ndarray, count: int = 25) -> np.ndarray:
    """Return evenly spaced quantiles of residuals (sample, cell), their mean taken off, (count, cell)."""
    found = np.quantile(residuals, (np.arange(count) + 0.5) / count, axis=0)
    return np.asarray(found - found.mean(axis=0))


def dressed(forecast: np.ndarray, residuals: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the parts of forecasts (sample, cell) to whose every value the quantiles of residuals are added."""
    shift = residual_quantiles(residuals)
    return parts_of(lambda part: forecast[part][:, None] + shift, len(shift), truth, weight)


def _rank_value(ordered: np.ndarray, share: float) -> np.ndarray:
    """Return the value below which a share of truths like the sorted members (sample, member, cell) lies (Weibull)."""
    place = min(max(share * (ordered.shape[1] + 1) - 1, 0), ordered.shape[1] - 1)
    below, above = ordered[:, int(np.floor(place))], ordered[:, int(np.ceil(place))]
    return np.asarray(below + (place - np.floor(place)) * (above - below))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 1e-24))


def _r(means: np.ndarray, centred: bool) -> np.ndarray:
    """Return correlations from means of x, y, x², y², xy, (5, row); 0 for a constant one."""
    x, y, xx, yy, xy = means if centred else (0 * means[0], 0 * means[1], *means[2:])
    varies = (xx - x * x > 1e-9 * xx) & (yy - y * y > 1e-9 * yy)
    power = np.where(varies, (xx - x * x) * (yy - y * y), 1.0)
    return np.where(varies, (xy - x * y) / np.sqrt(power), 0.0)
