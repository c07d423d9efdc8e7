"""Scores of several rows and their paired differences, by a bootstrap over independent units.

A unit (a storm, a year, a week) is drawn whole and brings all its samples and rows along, so rows stay
paired. A score is any function of sample weights, which is all a draw is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError, nearest

ROUNDING = 1e-9  # a difference within this is one of rounding, and no verdict
FEWEST_UNITS = 4
Statistic = Callable[[np.ndarray], np.ndarray]  # a weight for each sample, (sample,) -> a score for each row, (row,)


class Resampled(ABC):
    """A statistic that takes all draws at once, where a few matrix products serve them all."""

    @abstractmethod
    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return each row's score, (row,), for a weight of each sample, (sample,)."""

    @abstractmethod
    def resample(self, counts: np.ndarray) -> np.ndarray:
        """Return each draw's scores, (draw, row), for how often each unit occurs in it, (draw, unit)."""


def unit_counts(units: int, draws: int, *, block: int = 1, seed: int = 0) -> np.ndarray:
    """Return how often each unit occurs in each draw, shape (draws, units).

    Blocks of neighbouring units start anywhere and wrap round; the last one is cut to length (the circular
    block bootstrap of Politis & Romano 1992; with blocks of 1, the ordinary bootstrap).

    Raises:
        EarthSSLError: If there are fewer than four units, or than two blocks.
    """
    if block < 1 or draws < 1 or units < max(FEWEST_UNITS, 2 * block):
        raise EarthSSLError(
            f"expected at least {max(FEWEST_UNITS, 2 * max(block, 1))} independent units for a bootstrap by blocks of "
            f"{block}, got {units} and {draws} draws; lengthen the test block or shorten the blocks"
        )
    rng = np.random.default_rng([seed, units, block])
    starts = rng.integers(0, units, size=(draws, -(-units // block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :units] % units
    counts = np.zeros((draws, units))
    np.add.at(counts, (np.arange(draws)[:, None], drawn), 1.0)
    return counts


def compare(
    statistic: Statistic,
    units: np.ndarray,
    names: Sequence[str],
    references: Sequence[str],
    *,
    draws: int = 1000,
    block: int = 1,
    level: float = 0.95,
    seed: int = 0,
    larger_is_better: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return every row's score with its interval, and its paired differences from reference rows.

    Args:
        statistic: Takes a weight for each sample, shape (samples,), and returns each row's score, shape
            (rows,); all weights 1 give the scores themselves.
        units: Which unit each sample belongs to, shape (samples,); sorted, neighbours are neighbouring units.
        names: Names of the rows, no two alike.
        references: Names of the rows to subtract.
        draws: Resamples.
        block: Neighbouring units drawn together.
        level: Coverage aimed at.
        seed: Of the draws.
        larger_is_better: Whether a larger score is a better one.

    Returns:
        Columns row, value, low, high; and row, reference, value (row - reference), low, high, verdict
        ("better" or "worse" only where the interval excludes zero, else "undecided"). A draw in which a score
        is undefined (NaN: one class only, say) is left out of that row's interval.

    Raises:
        EarthSSLError: If a reference is unknown, names are alike, or there are too few units.
    """
    if len(set(names)) < len(names):
        raise EarthSSLError(f"expected rows with different names, got {', '.join(names)}; rename one")
    for name in references:
        if name not in names:
            raise EarthSSLError(f"reference row '{name}' is not among the rows.{nearest(name, list(names))}")
    found, at = np.unique(np.asarray(units), return_inverse=True)
    counts = unit_counts(len(found), draws, block=block, seed=seed)
    point = np.asarray(statistic(np.ones(len(at))), dtype=float)
    if point.shape != (len(names),):
        raise EarthSSLError(f"expected one score for each of {len(names)} rows, got shape {point.shape}")
    if isinstance(statistic, Resampled):
        samples = np.asarray(statistic.resample(counts), dtype=float)
    else:
        samples = np.stack([np.asarray(statistic(count[at]), dtype=float) for count in counts])
    scores = pd.DataFrame({"row": list(names), "value": point, **_bounds(samples, level)})
    parts = []
    for reference in references:
        k = list(names).index(reference)
        own = [j for j in range(len(names)) if j != k]
        bounds = _bounds(samples[:, own] - samples[:, [k]], level)
        said = [verdict(low, high, larger_is_better) for low, high in zip(*bounds.values(), strict=True)]
        own_names, value = [names[j] for j in own], point[own] - point[k]
        parts.append(
            pd.DataFrame({"row": own_names, "reference": reference, "value": value, **bounds, "verdict": said})
        )
    columns = ["row", "reference", "value", "low", "high", "verdict"]
    return scores, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def verdict(low: float, high: float, larger_is_better: bool = True) -> str:
    """Return "better" or "worse" where an interval of a difference excludes zero, else "undecided"."""
    if low > ROUNDING:
        return "better" if larger_is_better else "worse"
    if high < -ROUNDING:
        return "worse" if larger_is_better else "better"
    return "undecided"


def _bounds(samples: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Return the percentiles of the finite draws of each row; NaN where there are none."""
    ends, finite = [(1 - level) / 2, (1 + level) / 2], (column[np.isfinite(column)] for column in samples.T)
    found = np.array([np.quantile(own if len(own) else [np.nan], ends) for own in finite]).reshape(-1, 2)
    return {"low": found[:, 0], "high": found[:, 1]}
