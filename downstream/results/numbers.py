"""Numbers as they are printed, and values as JSON knows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def thinned(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many of the items, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, most).round().astype(int)]


def number(value: Any, signed: bool = False) -> str:
    """Return a number with three significant places, fewer where it is small; a dash for NaN."""
    if not isinstance(value, (int, float, np.number)):
        return str(value)
    v = float(value)
    if math.isnan(v):
        return "–"
    digits = 0 if abs(v) >= 1000 else 1 if abs(v) >= 100 else 2 if abs(v) >= 10 else 3
    return f"{v:+.{digits}f}" if signed else f"{v:.{digits}f}"


def plain(value: Any) -> Any:
    """Return a value as JSON knows it; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
