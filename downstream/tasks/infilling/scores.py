"""Scored: how well hidden cells were filled, month by month, and the metrics made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...metrics.paired_bootstrap import Statistic
from ...results.row import Row
from ...results.target import Metric, Target

METRICS = {"skill": True, "rmse": False, "r": True, "global rmse": False}  # name -> whether larger is better
ALL_METRICS = (*METRICS, "std ratio")


@dataclass(frozen=True, eq=False)
class Scored:
    """What the metrics are made of, for one row and seed, month by month.

    Attributes:
        error: Weighted squared error over the hidden cells, (month,).
        reference: The same of no anomaly, (month,).
        weight: Weight of the hidden cells, (month,).
        r: Pattern correlation on them, (month,).
        shift: Global mean of the filled field less that of the truth, (month,).
        filled, truth: Weighted variance in space of either over the hidden cells, (month,).
    """

    error: np.ndarray
    reference: np.ndarray
    weight: np.ndarray
    r: np.ndarray
    shift: np.ndarray
    filled: np.ndarray
    truth: np.ndarray

    def metric(self, name: str, months: np.ndarray) -> np.ndarray:
        """Return a score, each month counted by a weight; series may be stacked along leading axes."""
        if name == "skill":
            return 1 - (self.error @ months) / (self.reference @ months)
        if name == "rmse":
            return np.sqrt((self.error @ months) / (self.weight @ months))
        if name == "r":
            return np.asarray(self.r @ months / months.sum())
        if name == "global rmse":
            return np.sqrt(self.shift**2 @ months / months.sum())
        return np.sqrt((self.filled @ months) / (self.truth @ months))

    def metrics(self) -> dict[str, float]:
        """Return all scores over all months."""
        return {name: float(self.metric(name, np.ones(len(self.error)))) for name in ALL_METRICS}


def score(estimate: np.ndarray, truth: np.ndarray, hidden: np.ndarray, area: np.ndarray) -> Scored:
    """Return the ingredients of all metrics.

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
    return Scored(error, (w * y**2).sum(1), total, r, shift, np.where(flat, 0.0, xx), yy)


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

    def metric(which: str) -> Metric:
        def statistic(rows: Sequence[Row]) -> Statistic:
            scored = [score(row.forecast[name], truth, hidden, area) for row in rows]
            stacked = Scored(*(np.stack([getattr(one, f.name) for one in scored]) for f in fields(Scored)))
            return lambda weights: stacked.metric(which, weights)

        return Metric(which, statistic, METRICS.get(which, True), compared=which in METRICS)

    weight = np.where(hidden, area / area.sum(), 0.0)

    def errors(estimate: np.ndarray) -> np.ndarray:
        return np.asarray((weight * np.where(hidden, estimate - truth, 0.0) ** 2).sum(1))

    return Target(
        name, np.arange(len(truth)), [metric(which) for which in ALL_METRICS], block,
        errors=lambda row: errors(row.forecast[name]),
        reference_errors=errors(np.zeros(truth.shape)),
        matrix_units=years,
    )  # fmt: skip
