"""Numbers that files put where nothing is known, undeclared: -999, 32767, 9.97e36 and their like."""

from __future__ import annotations

import numpy as np

HUGE = 1e15  # no index, no field and no count of anything here is as large
# Extremes and default fill values of whole numbers of 8, 16 and 32 bits, in netCDF and elsewhere
WHOLE = np.array([-127, -128, 255, -32767, -32768, 32767, 65535, -2147483647, -2147483648, 2147483647, 4294967295.0])
NINES = np.array([sign * (10.0**k - 1) for k in range(2, 13) for sign in (1, -1)])  # 99, -99, 999, …
SHARPER = np.array([10.0, 100.0, 1000.0])  # 99.9, 99.99
FAR = 10  # times the range of the middle 80 % of all
LARGEST_SAMPLE = 1_000_000


def is_mark(values: np.ndarray) -> np.ndarray:
    """Return which numbers are spelled as files spell a missing one, bool, of the same shape.

    Nines only (-999, 99.99), powers that nothing reaches (1e20, 9.97e36), limits of whole numbers (-32768); and marks
    with zeros or ones behind the nines (-9990, -9998).
    """
    wide = np.asarray(values, np.float64)
    known = np.concatenate(
        [WHOLE, NINES, *(NINES[2:] / by for by in SHARPER), *(NINES[2:] * 10.0**k for k in range(1, 10))]
    )
    known = known[np.abs(known) > 9]
    known = np.concatenate([known, [-9998.0, -8888.0, -7777.0, -9990.0, -990.0]])
    known = np.unique(np.concatenate([known, known.astype(np.float32).astype(np.float64)]))
    at = np.clip(np.searchsorted(known, wide), 1, len(known) - 1)
    near = np.minimum(np.abs(wide - known[at]), np.abs(wide - known[at - 1]))
    with np.errstate(invalid="ignore"):
        marked: np.ndarray = (near <= 1e-12 * np.abs(wide)) | (np.abs(wide) >= HUGE)
    return marked


def far_marks(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return which values are such numbers and far from the rest, bool, and what the rest lies between, 10 to 90 %.

    Args:
        values: Any shape; NaN where missing. A series may hold 999 among its like: far is more than 10 times the range
            of the middle 80 % away from the median of those that are no marks; of a large field a regular sample is
            taken for these.
    """
    flat = np.asarray(values, np.float64).ravel()
    sample = flat[:: -(-len(flat) // LARGEST_SAMPLE)] if len(flat) else flat
    known = sample[np.isfinite(sample)]
    usual = known[~is_mark(known)]
    known = usual if len(usual) else known
    if not len(known):
        return np.zeros(np.shape(values), bool), (np.nan, np.nan)
    low, middle, high = np.percentile(known, [10, 50, 90])
    if low == high:  # nearly all the same, such as rain that mostly is none
        low, high = known.min(), known.max()
    with np.errstate(invalid="ignore"):
        far = np.abs(flat - middle) > FAR * (high - low)
    far[far] = is_mark(flat[far])
    return far.reshape(np.shape(values)), (float(low), float(high))
