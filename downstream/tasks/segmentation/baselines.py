"""Chances of classes without an encoder: how often, what is there today, and from which value of one field on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import IsotonicRegression

from ....ssl.fields.grid import LatLonGrid
from .decoder import Sampled
from .scores import best_factors

WORTH = 10.0  # samples that the frequency of the row counts as, beside those of the cell
EDGES = 400  # of the values of a field, evenly spread over its distribution
TAIL = np.geomspace(1e-7, 1 / EDGES, 400)  # shares of it, towards both ends, where rare classes are
LEVELS = np.unique(np.concatenate([np.linspace(0, 1, EDGES + 1)[1:-1], TAIL, 1 - TAIL]))


def row_frequency(masks: np.ndarray, classes: int) -> np.ndarray:
    """Return (count + 1) / (n + classes) of each class by row of cells, (class, row), of masks (n, row, column)."""
    count = np.stack([(masks == k).sum(axis=(0, 2)) for k in range(classes)])
    return np.asarray((count + 1) / (count.sum(axis=0) + classes))


def climatology(samples: Sampled, season: np.ndarray, train: np.ndarray, classes: int) -> np.ndarray:
    """Return the frequency of each class by cell and season in training, as chances (n, class, row, column).

    The frequency of the row of cells, all seasons, counts as so many samples more (`WORTH`).

    Args:
        samples: Labels.
        season: Number of each sample's season, (n,).
        train: Training samples.
        classes: How many.
    """
    prior = row_frequency(samples.masks[train], classes)[:, :, None]
    made = np.empty((len(season), classes, *samples.masks.shape[1:]), np.float32)
    for one in np.unique(season):
        own = samples.masks[train[season[train] == one]]
        count = np.stack([(own == k).sum(axis=0) for k in range(classes)])
        made[season == one] = (count + WORTH * prior) / (len(own) + WORTH)
    return made


def persistence(samples: Sampled, today: np.ndarray, classes: int) -> np.ndarray:
    """Return the chances given the class that the cell has today, by row of cells, (n, class, row, column).

    Args:
        samples: Labels.
        today: Classes at the last input step, (n, row, column).
        classes: How many.
    """
    then, now = samples.masks[samples.train], today[samples.train]
    prior = row_frequency(then, classes)
    made = np.empty((len(today), classes, *today.shape[1:]), np.float32)
    for k in range(classes):
        count = np.stack([((then == c) & (now == k)).sum(axis=(0, 2)) for c in range(classes)])
        chance = (count + WORTH * prior) / (count.sum(axis=0) + WORTH)
        made = np.where((today == k)[:, None], chance[:, :, None].astype(np.float32), made)
    return made


def by_threshold(
    samples: Sampled, fields: np.ndarray, names: Sequence[str], grid: LatLonGrid, classes: int
) -> tuple[np.ndarray, dict[str, str]]:
    """Return chances that rise, or fall, with one field, (n, class, row, column), and which field each class has.

    Isotonic regression of the class on the field, over the rows of cells where the class occurs in training; a call
    from some chance on is one from some value of the field on. Field and sign are chosen on validation, class by class.

    Args:
        samples: Labels.
        fields: At the last input step, (n, variable, row, column).
        names: Of the variables.
        grid: Cells.
        classes: How many.
    """
    made = np.zeros((len(fields), classes, *grid.shape), np.float32)
    chosen = {}
    for k in range(1, classes):
        best = -1.0
        for v, name in enumerate(names):
            for rising in (True, False):
                chance = _monotone(fields[:, v], samples.masks == k, samples.train, grid.area, rising)
                val = chance[samples.val]
                _, found = best_factors(np.stack([1 - val, val], 1), samples.masks[samples.val] == k, grid.area)
                if found > best:
                    best, made[:, k] = found, chance
                    chosen[str(k)] = f"{name} {'above' if rising else 'below'}"
    made[:, 0] = np.clip(1 - made[:, 1:].sum(axis=1), 0, 1)
    return made, chosen


def _monotone(field: np.ndarray, event: np.ndarray, train: np.ndarray, area: np.ndarray, rising: bool) -> np.ndarray:
    rows = event[train].any(axis=(0, 2))
    own = field[train][:, rows]
    at = np.unique(np.quantile(own, LEVELS))
    bins = np.searchsorted(at, own.ravel())
    weight = np.broadcast_to(area[rows], own.shape).ravel()
    total = np.bincount(bins, weight, len(at) + 1)
    rate = np.bincount(bins, weight * event[train][:, rows].ravel(), len(at) + 1) / np.maximum(total, 1e-12)
    order = np.arange(len(rate))
    fitted = IsotonicRegression(increasing=rising).fit(order, rate, np.maximum(total, 1e-12)).predict(order)
    made = np.zeros(field.shape, np.float32)
    made[:, rows] = fitted[np.searchsorted(at, field[:, rows])]
    return made
