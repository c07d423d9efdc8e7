"""The raw input of an encoder as features: every variable at every cell of the window, coarser where too many."""

from __future__ import annotations

from functools import lru_cache
from itertools import count

import numpy as np

from ...ssl.fields.splits import unbroken_starts
from ...ssl.store.store import Store

PIECE = 256  # steps read at once
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
    made = values_of_windows(store, window, np.arange(len(store.times)))
    made.flags.writeable = False
    return made


def values_of_windows(store: Store, window: int, last: np.ndarray) -> np.ndarray:
    """Return the rows of `raw_window` for windows that end at some steps, without reading the whole store at once.

    Args:
        store: Any.
        window: Steps.
        last: Last step of each window, (window,).
    """
    steps = np.arange(len(store.times))
    pieces = np.array_split(steps, -(-len(steps) // PIECE))
    known = np.zeros(store.shape[1:], dtype=bool)
    for part in pieces:
        known |= np.isfinite(store.read(part)).any(axis=0)
    factor = next(k for k in count(1) if window * block_sums(known, k).astype(bool).sum() <= MOST_VALUES)
    share, kept = block_sums(store.grid.area, factor), block_sums(known, factor).astype(bool)
    ends = unbroken_starts(store.times.astype("datetime64[ns]"), window) + window - 1
    rows = np.flatnonzero(np.isin(last, ends))
    cells = int(kept.sum())
    made = np.full((len(last), window * cells), np.nan, dtype=np.float32)
    needed = np.isin(steps, (last[rows][:, None] - np.arange(window)).ravel())
    for part in pieces:
        part = part[needed[part]]
        if not len(part):
            continue
        means = np.nan_to_num(block_means(store.read(part), factor, store.grid.area)) * np.sqrt(share / share.mean())
        values = means[:, kept]
        for back in range(window):
            at = np.searchsorted(part, last[rows] - back)
            here = (at < len(part)) & (part[np.minimum(at, len(part) - 1)] == last[rows] - back)
            made[rows[here], back * cells : (back + 1) * cells] = values[at[here]]
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
