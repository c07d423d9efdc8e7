"""Linear heads to fine cells: of the whole field, of each place by itself, and of all places with what is static.

Each returns a function of rows and penalties to predictions (penalty, row, place, variable, cell). A place is a patch
of the encoder; its cells are the fine cells in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...heads.patch_ridge import solved
from ...heads.ridge_path import RidgePath

WHOLE, PLACE, STATIC = "whole field", "by place", "all places, static fields"
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-7, 3.5))
Predict = Callable[[np.ndarray, Sequence[float]], np.ndarray]


def whole(x: np.ndarray, y: np.ndarray, train: np.ndarray, group: np.ndarray) -> Predict:
    """Return ridge regression of every cell on features of the whole field.

    Args:
        x: Features of all samples, (sample, feature).
        y: What is told, (sample, place, variable, cell).
        train: Samples to fit on.
        group: Of all samples, 0 …: each has its own intercept.
    """
    path = RidgePath.fit(x[train], y[train].reshape(len(train), -1), group[train])

    def predict(rows: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
        made = np.empty((len(penalties), len(rows), *y.shape[1:]), np.float32)
        for k, penalty in enumerate(penalties):  # the coefficients of all at once would be gigabytes
            made[k] = path.predict(x[rows], [penalty], group[rows])[0].reshape(made.shape[1:])
        return made

    return predict


def by_place(x: np.ndarray, y: np.ndarray, train: np.ndarray, group: np.ndarray) -> Predict:
    """Return ridge regression of the cells of each place on features of that place, (sample, place, feature)."""
    fits = [
        RidgePath.fit(x[train, p], y[train, p].reshape(len(train), -1), group[train]) for p in range(y.shape[1])
    ]  # fmt: skip

    def predict(rows: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
        made = np.empty((len(penalties), len(rows), *y.shape[1:]), np.float32)
        for p, path in enumerate(fits):
            found = path.predict(x[rows, p], penalties, group[rows])
            made[:, :, p] = found.reshape(len(penalties), len(rows), *y.shape[2:])
        return made

    return predict


def with_static(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, group: np.ndarray, static: np.ndarray, weight: np.ndarray
) -> Predict:
    """Return one ridge regression for all cells, on each feature of a place times each static value of the cell.

    Features are departures from the means of the place and group, in deviations.

    Args:
        x, y, train, group: As for `by_place`.
        static: Of each cell, (place, cell, value); the first is 1.
        weight: Of each cell, (place, cell).
    """
    means = np.zeros((int(group.max()) + 1, *x.shape[1:]))
    for g in np.unique(group[train]):
        means[g] = x[train[group[train] == g]].mean(axis=0)
    own = x[train] - means[group[train]]
    spread = np.sqrt((own**2).mean(axis=(0, 1)))
    scale = np.where(spread > 1e-9, spread, np.inf)
    own = own / scale
    features, values, variables = x.shape[2], static.shape[2], y.shape[2]
    gram = np.zeros((features, values, features, values))
    cross = np.zeros((features, values, variables))
    for p in range(x.shape[1]):
        weighted = static[p] * weight[p, :, None]
        gram += np.einsum("fg,st->fsgt", own[:, p].T @ own[:, p], static[p].T @ weighted)
        cross += np.einsum("nf,nvs->fsv", own[:, p], y[train, p] @ weighted, optimize=True)
    size = features * values
    flat, target = gram.reshape(size, size), cross.reshape(size, variables)
    power = np.maximum(np.diag(flat), 1e-12 * flat.max() or 1.0)  # 1: features without a spread, one month of a year

    def predict(rows: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
        given = (x[rows] - means[group[rows]]) / scale
        made = np.empty((len(penalties), len(rows), *y.shape[1:]), np.float32)
        for k, penalty in enumerate(penalties):
            b = solved(flat, target, penalty * power).reshape(features, values, variables)
            told = np.einsum("npf,fsv->npvs", given, b, optimize=True)
            made[k] = np.einsum("npvs,pcs->npvc", told, static, optimize=True)
        return made

    return predict
