"""Stamps of monthly means: files put them on the first day, in the middle or at the end of the month they stand for.

An encoder is told the time of the year of every step. One that was trained on months stamped on the first would take
the same months stamped on their last day for another season; so months are brought to the stamps of its training.
"""

from __future__ import annotations

import numpy as np

DAY_S = 86400
MONTH_DAYS = (28, 31)  # spacing of the steps of monthly data
NEAR_S = 2 * DAY_S  # stamps in the middle of the month vary by a day or so with its length: those stay as they are


def by_month(step_days: float) -> bool:
    """Whether steps of so many days are calendar months."""
    return MONTH_DAYS[0] <= step_days <= MONTH_DAYS[1]


def stamp_of(seconds: np.ndarray) -> int | None:
    """Return how long after its month begins a monthly mean is stamped, s: the median; None without any.

    Args:
        seconds: Since 1970, whole numbers, any shape.
    """
    if not seconds.size:
        return None
    return int(np.median(seconds - _begin(seconds)))


def stamped(seconds: np.ndarray, stamp_s: int | None) -> np.ndarray:
    """Return times of months with those that lie elsewhere in their month moved to the stamp; None moves none.

    Args:
        seconds: Since 1970, int64, any shape.
        stamp_s: From `stamp_of`.
    """
    if stamp_s is None:
        return seconds
    begin = _begin(seconds)
    return np.where(np.abs(seconds - begin - stamp_s) > NEAR_S, begin + stamp_s, seconds)


def _begin(seconds: np.ndarray) -> np.ndarray:
    months = seconds.astype("datetime64[s]").astype("datetime64[M]")
    return months.astype("datetime64[s]").astype(np.int64)
