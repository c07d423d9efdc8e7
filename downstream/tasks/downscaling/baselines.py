"""Corrections without features: the mean bias, and quantile mapping, by cell and season."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def groupings(month: np.ndarray, train: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ways to divide the year, and the part that each sample belongs to: month, season, whole year.

    Those of which some part has no training sample are left out.

    Args:
        month: Of each sample, 0 = January.
        train: Training samples.
    """
    for name, group in (("month", month), ("season", (month + 1) % 12 // 3), ("year", np.zeros_like(month))):
        if np.isin(group, group[train]).all():
            yield name, group


def group_means(values: np.ndarray, train: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the mean over the training samples of its group at each sample, (sample, …)."""
    made = np.empty_like(values)
    for g in np.unique(group):
        made[group == g] = values[train[group[train] == g]].mean(axis=0)
    return made


def quantile_mapped(x: np.ndarray, y: np.ndarray, train: np.ndarray, group: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the value of y at the quantile that x has in training, cell by cell and group by group, (row, cell).

    Linear between the sorted pairs of training; beyond them the difference of the outermost pair is added.

    Args:
        x, y: Forecast and truth of all samples, (sample, cell).
        train: Training samples.
        group: Of all samples.
        rows: Samples wanted.
    """
    made = np.empty((len(rows), x.shape[1]))
    for g in np.unique(group[rows]):
        own, wanted = train[group[train] == g], np.flatnonzero(group[rows] == g)
        sorted_x, sorted_y = np.sort(x[own], axis=0), np.sort(y[own], axis=0)
        for cell in range(x.shape[1]):
            given, a, b = x[rows[wanted], cell], sorted_x[:, cell], sorted_y[:, cell]
            beyond = given - np.clip(given, a[0], a[-1])
            made[wanted, cell] = np.interp(given, a, b) + beyond
    return made
