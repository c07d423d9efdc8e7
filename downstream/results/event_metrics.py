"""Metrics of the chance of an event: ranks and yes/no calls, for the targets of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..metrics.events import Contingency, Ranking
from ..metrics.paired_bootstrap import Statistic
from .row import Row
from .target import Metric

HALF = 0.5  # from this chance on a row calls an event whose threshold nobody chose


def chances_of(rows: Sequence[Row], target: str) -> np.ndarray:
    """Return the chances that rows give to each sample, whatever their shape, (row, sample)."""
    return np.stack([row.forecast[target].ravel() for row in rows])


def no_calls(row: Row) -> bool:
    """Return whether a row gives chances, rather than only saying yes or no."""
    return not row.calls


def rank_metrics(target: str, event: np.ndarray, auc: str, average_precision: str) -> list[Metric]:
    """Return the area under the ROC curve, and average precision, of rows that give chances.

    Args:
        target: Its name.
        event: 0 or 1, (sample,).
        auc, average_precision: Names of the metrics.
    """
    return [
        Metric(auc, lambda rows: Ranking(chances_of(rows, target), event).auc, takes=no_calls),
        Metric(average_precision, lambda rows: Ranking(chances_of(rows, target), event).average_precision,
               takes=no_calls),
    ]  # fmt: skip


def call_metric(
    target: str, event: np.ndarray, name: str, score: str, scaled: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> Metric:
    """Return the score of the calls of all rows, each from its own threshold on (`Row.threshold`) or from a half.

    Args:
        target: Its name.
        event: 0 or 1, (sample,).
        name: Of the metric.
        score: A score of `Contingency` that thresholds were chosen by: pss or hss.
        scaled: Applied to the score.
    """

    def statistic(rows: Sequence[Row]) -> Statistic:
        least = np.array([row.threshold.get((target, score), HALF) for row in rows])
        calls = chances_of(rows, target) >= least[:, None]
        return lambda w: np.asarray(scaled(getattr(Contingency.of(calls, event, w), score)))

    return Metric(name, statistic)
