"""Scores of fine fields: of the mean, of the quantiles, and of the detail within the coarse cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....ssl.fields.nesting import Nesting
from ...results.row import Row
from ...results.target import Metric, Target, additive
from .labels import Link

PARTS = range(7)
ERROR2, CRPS, ERROR, COVERED, DETAIL, DETAIL2, TRUTH2 = PARTS
QUANTILES = (np.arange(15) + 0.5) / 15  # .1 and .9 are among them
LOW, HIGH = 1, 13


class Scorer:
    """What is summed of one variable at the test samples.

    Detail: the departure of a cell from the area mean of its coarse cell, less what that is on average in the calendar
    month.
    """

    def __init__(
        self, truth: np.ndarray, usual_detail: np.ndarray, nest: Nesting, known: np.ndarray, link: Link
    ) -> None:
        """Keep what the parts need.

        Args:
            truth: Of the test samples, (sample, row, column).
            usual_detail: Mean detail in training of the calendar month of each test sample, (sample, row, column).
            nest: Fine grid in coarse.
            known: Cells that count, (row, column).
            link: Whose quantiles are told.
        """
        self.truth, self.usual, self.nest, self.known, self.link = truth, usual_detail, nest, known, link
        self.weight = np.where(known, nest.fine.area, 0) / nest.fine.area[known].sum()
        self.detail = self._detail(truth)

    def _detail(self, fields: np.ndarray) -> np.ndarray:
        return detail_of(fields, self.nest, self.known) - self.usual

    def parts(self, linked: np.ndarray, shifts: np.ndarray | None) -> np.ndarray:
        """Return what is summed of linked forecasts, (sample, part).

        Args:
            linked: Of the test samples, (sample, row, column).
            shifts: Quantiles of linked residuals, (quantile, row, column), which are added; None: a single value,
                whose CRPS is its absolute error.
        """
        made, truth = np.full((len(linked), len(PARTS)), np.nan), self.truth
        if shifts is None:
            mean = self.link.back(linked)
            made[:, CRPS] = self._mean(np.abs(mean - truth))
        else:
            mean, lost, inside = np.zeros_like(truth), np.zeros_like(truth), np.ones(truth.shape, bool)
            for k, (level, shift) in enumerate(zip(QUANTILES, shifts, strict=True)):
                told = self.link.back(linked + shift)
                over = truth - told
                mean += told / len(QUANTILES)
                lost += 2 / len(QUANTILES) * np.maximum(level * over, (level - 1) * over)
                if k in (LOW, HIGH):
                    inside &= (over >= 0) if k == LOW else (over <= 0)
            made[:, CRPS], made[:, COVERED] = self._mean(lost), self._mean(inside)
        detail = self._detail(mean)
        for part, values in ((ERROR2, (mean - truth) ** 2), (ERROR, mean - truth), (DETAIL, detail * self.detail),
                             (DETAIL2, detail**2), (TRUTH2, self.detail**2)):  # fmt: skip
            made[:, part] = self._mean(values)
        return made

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.tensordot(values, self.weight, axes=2))


def detail_of(fields: np.ndarray, nest: Nesting, known: np.ndarray) -> np.ndarray:
    """Return departures from the area means of the coarse cells over their known cells, 0 elsewhere."""
    share = np.maximum(nest.means(known.astype(float)), 1e-9)
    return np.where(known, fields - nest.repeated(nest.means(np.where(known, fields, 0)) / share), 0)


def target(name: str, usual: np.ndarray, units: np.ndarray, block: int, finer: bool) -> Target:
    """Return the target whose rows say `Scorer.parts`.

    Args:
        name: Of the variable.
        usual: Parts of the row that skill is over.
        units, block: As for `Target`.
        finer: Whether there is any detail.
    """

    def metric(
        words: str, wanted: Sequence[int], formula: Callable[[np.ndarray, np.ndarray], np.ndarray], **options: Any
    ) -> Metric:
        return additive(words, lambda row: row.forecast[name].T[list(wanted)], formula, **options)

    metrics = [
        metric("skill", [ERROR2], lambda s, w: 1 - s[0] / (usual[:, ERROR2] @ w)),
        metric("crps_skill", [CRPS], lambda s, w: 1 - s[0] / (usual[:, CRPS] @ w)),
        metric("rmse", [ERROR2], lambda s, w: np.sqrt(s[0] / w.sum()), larger_is_better=False),
        metric("crps", [CRPS], lambda s, w: s[0] / w.sum(), larger_is_better=False),
        metric("bias", [ERROR], lambda s, w: s[0] / w.sum(), compared=False),
        metric("coverage_80", [COVERED], lambda s, w: s[0] / w.sum(), compared=False,
               takes=lambda row: bool(np.isfinite(row.forecast[name][:, COVERED]).all())),
    ]  # fmt: skip
    if finer:
        metrics += [
            metric("detail_r", [DETAIL, DETAIL2, TRUTH2], lambda s, w: _r(*s)),
            metric("detail_std", [DETAIL2, TRUTH2], lambda s, w: np.sqrt(s[0] / np.maximum(s[1], 1e-30)),
                   compared=False),
        ]  # fmt: skip

    def errors(row: Row) -> np.ndarray:
        return np.asarray(row.forecast[name][:, ERROR2])

    return Target(name, units, metrics, block, errors, usual[:, ERROR2], main=("skill", "crps_skill"))


def _r(both: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    power = one * other
    return np.where(power > 1e-30, both / np.sqrt(np.maximum(power, 1e-30)), 0.0)
