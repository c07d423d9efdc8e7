"""The raw input of an encoder as features: every variable at every cell of the window, coarser where too many."""

from __future__ import annotations

import numpy as np

from ...ssl.fields.splits import unbroken_starts
from ...ssl.store.store import Store

MOST_VALUES = 6000  # of a window; more are averaged over blocks of cells, or a head would take hours


def raw_window(store: Store, window: int) -> np.ndarray:
    """Return the normalised anomalies of the window that ends at each step, float32 (time, value).

    Missing values count as the climatology (0), cells that are never known are left out, and each value is multiplied
    by the root of its area, so that principal components of it are area-weighted. Rows of steps at which no unbroken
    window ends are NaN. Where a window has more than `MOST_VALUES` values, cells are averaged over square blocks.

    Args:
        store: Any.
        window: Steps.
    """
    fields = store.read(np.arange(len(store.times)))
    known = np.isfinite(fields).any(axis=0)
    factor = 1
    while window * _blocks(known, factor).sum() > MOST_VALUES:
        factor += 1
    area = np.broadcast_to(store.grid.area, known.shape[1:])
    values = _averaged(fields, area, factor)[:, _blocks(known, factor)]
    made = np.full((len(fields), window * values.shape[1]), np.nan, dtype=np.float32)
    last = unbroken_starts(store.times.astype("datetime64[ns]"), window) + window - 1
    for back in range(window):
        made[last, back * values.shape[1] : (back + 1) * values.shape[1]] = values[last - back]
    return made


def _edges(size: int, factor: int) -> np.ndarray:
    return np.arange(0, size, factor)


def _blocks(known: np.ndarray, factor: int) -> np.ndarray:
    """Return which blocks of cells hold a known one, (variable, row, column)."""
    rows = np.logical_or.reduceat(known, _edges(known.shape[1], factor), axis=1)
    return np.logical_or.reduceat(rows, _edges(known.shape[2], factor), axis=2)


def _averaged(fields: np.ndarray, area: np.ndarray, factor: int) -> np.ndarray:
    """Return the area means over blocks, times the root of the block's area, (time, variable, row, column)."""
    rows, columns = _edges(fields.shape[2], factor), _edges(fields.shape[3], factor)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)

    valid = np.isfinite(fields)
    weight = summed(valid * area)
    mean = summed(np.where(valid, fields, 0) * area) / np.maximum(weight, np.finfo(np.float32).tiny)
    share = summed(area)
    return np.where(weight > 0, mean, 0) * np.sqrt(share / share.mean())
