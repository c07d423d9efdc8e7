"""Anomalies about the monthly means of a period."""

from __future__ import annotations

import numpy as np


def monthly_anomaly(values: np.ndarray, month: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Return `values` less the calendar-month means of the times in `fit`, float64, same shape.

    Args:
        values: Any field or series, time first, shape (time, …); NaN is skipped.
        month: Calendar month of each time, any 12 distinct numbers, shape (time,).
        fit: Times that the means may see, bool, shape (time,).
    """
    anomaly = np.array(values, dtype=np.float64)
    for m in np.unique(month):
        seen = anomaly[fit & (month == m)]
        valid = np.isfinite(seen)
        count = valid.sum(axis=0)
        mean = np.where(valid, seen, 0.0).sum(axis=0) / np.maximum(count, 1)
        anomaly[month == m] -= np.where(count > 0, mean, np.nan)
    return anomaly
