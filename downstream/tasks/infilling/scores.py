"""How well hidden cells were filled, month by month, and the metrics made of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...results.row import Row
from ...results.target import Numbers, Target, additive

# Name -> formula of the sums over months of what `score` returns, and of the weights of the months.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "skill": lambda s, months: 1 - s[0] / s[1],
    "rmse": lambda s, months: np.sqrt(s[0] / s[2]),
    "r": lambda s, months: s[3] / months.sum(),
    "global rmse": lambda s, months: np.sqrt(s[4] / months.sum()),
    "std ratio": lambda s, months: np.sqrt(s[5] / s[6]),
}


def metrics(parts: np.ndarray, months: np.ndarray | None = None) -> dict[str, float]:
    """Return all scores from what `score` returned, each month counted by a weight, 1 by default."""
    weight = np.ones(parts.shape[1]) if months is None else months
    return {name: float(formula(parts @ weight, weight)) for name, formula in METRICS.items()}


def score(estimate: np.ndarray, truth: np.ndarray, hidden: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return the ingredients of all metrics of one row and seed, (7, month).

    Weighted squared error over the hidden cells, the same of no anomaly, weight of these cells, pattern correlation on
    them, squared difference of the global mean of the filled field from the truth's, weighted variance in space of the
    filled field and of the truth over the hidden cells.

    Args:
        estimate: Fields as rebuilt; only the hidden cells are read, shape (month, cells).
        truth: The same as observed, NaN where unknown.
        hidden: Cells to score, all known in truth, bool.
        area: Weight of each cell, shape (cells,).

    Raises:
        EarthSSLError: If nothing is hidden in some month, or an estimate is missing.
    """
    if not hidden.any(1).all():
        raise EarthSSLError("infilling: expected hidden cells in every month, got a month without; change the gaps")
    if not np.isfinite(estimate[hidden]).all():
        raise EarthSSLError("infilling: expected an estimate of every hidden cell, got NaN for some; mend the filler")
    w = np.where(hidden, area, 0.0)
    total = w.sum(1)
    x, y = np.where(hidden, estimate, 0.0), np.where(hidden, truth, 0.0)
    everywhere = np.where(np.isfinite(truth), area, 0.0).sum(1)
    x0, y0 = (x * w).sum(1) / total, (y * w).sum(1) / total
    dx, dy = x - x0[:, None], y - y0[:, None]
    xx, yy, xy = ((w * a * b).sum(1) / total for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    # A constant has no pattern; rounding must not give it one.
    flat = xx <= 1e-20 * np.maximum((w * x**2).sum(1) / total, 1e-300)
    size = np.sqrt(xx * yy)
    r = np.where(flat | (size == 0), 0.0, xy / np.where(size > 0, size, 1.0))
    error = (w * (x - y) ** 2).sum(1)
    shift = (w * (x - y)).sum(1) / everywhere
    return np.stack([error, (w * y**2).sum(1), total, r, shift**2, np.where(flat, 0.0, xx), yy])


def gap_target(
    name: str, truth: np.ndarray, hidden: np.ndarray, area: np.ndarray, years: np.ndarray, block: int
) -> Target:
    """Return the target of one kind of gaps; its independent units are months, and years for the matrix.

    Args:
        name: Of the gaps.
        truth, hidden, area: As for `score`.
        years: Of each month, (month,).
        block: Months drawn together.
    """

    def parts(row: Row) -> np.ndarray:
        return score(row.forecast[name], truth, hidden, area)

    weight = np.where(hidden, area / area.sum(), 0.0)

    def errors(estimate: np.ndarray) -> np.ndarray:
        return np.asarray((weight * np.where(hidden, estimate - truth, 0.0) ** 2).sum(1))

    judged = [
        additive(which, parts, formula, larger_is_better="rmse" not in which, compared=which != "std ratio")
        for which, formula in METRICS.items()
    ]
    return Target(
        name, np.arange(len(truth)), judged, block,
        errors=lambda row: errors(row.forecast[name]),
        reference_errors=errors(np.zeros(truth.shape)),
        matrix_units=years,
        numbers=Numbers(truth, lambda row: row.forecast[name], np.zeros(truth.shape), np.where(hidden, area, 0.0)),
    )  # fmt: skip
