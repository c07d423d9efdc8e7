"""The raw input of an encoder as features: every variable at every cell of the window, coarser where too many."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ...ssl.fields.splits import unbroken_starts
from ...ssl.store.store import Store

MOST_VALUES = 6000  # of a window; more are averaged over blocks of cells, or a head would take hours
RAW_WORDS = (
    "Raw window, and random features and principal components of it: all variables at all cells and steps, cells "
    f"averaged over square blocks where these are more than {MOST_VALUES} values."
)


@lru_cache(maxsize=1)  # several rows of a table ask for the same
def raw_window(store: Store, window: int) -> np.ndarray:
    """Return the normalised anomalies of the window that ends at each step, float32 (time, value).

    Missing values count as the climatology (0), cells that are never known are left out, and each value is multiplied
    by the root of its area, so that principal components of it are area-weighted. Rows of steps at which no unbroken
    window ends are NaN. Where a window has more than `MOST_VALUES` values, cells are averaged over square blocks. The
    last result is kept and cannot be written to.

    Args:
        store: Any.
        window: Steps.
    """
    fields = store.read_all()
    known = np.isfinite(fields).any(axis=0)
    factor = 1
    while window * block_sums(known, factor).astype(bool).sum() > MOST_VALUES:
        factor += 1
    share = block_sums(store.grid.area, factor)
    means = np.nan_to_num(block_means(fields, factor, store.grid.area)) * np.sqrt(share / share.mean())
    values = means[:, block_sums(known, factor).astype(bool)]
    made = np.full((len(fields), window * values.shape[1]), np.nan, dtype=np.float32)
    last = unbroken_starts(store.times.astype("datetime64[ns]"), window) + window - 1
    for back in range(window):
        made[last, back * values.shape[1] : (back + 1) * values.shape[1]] = values[last - back]
    made.flags.writeable = False
    return made


def block_sums(values: np.ndarray, factor: int) -> np.ndarray:
    """Return sums over square blocks of (…, row, column), factor cells wide; the last ones may be smaller."""
    rows, columns = (np.arange(0, size, factor) for size in values.shape[-2:])
    return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1))


def block_means(fields: np.ndarray, factor: int, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Return means of the known cells of square blocks, (…, row, column), NaN where none is known; see `block_sums`.

    Args:
        fields: Shape (…, row, column), NaN where unknown.
        factor: Side of a block in cells.
        weight: Of each cell, (row, column).
    """
    known = np.isfinite(fields)
    share = block_sums(known * weight, factor)
    total = block_sums(np.where(known, fields, 0) * weight, factor)
    return np.where(share > 0, total / np.maximum(share, np.finfo(np.float32).tiny), np.nan).astype(total.dtype)
