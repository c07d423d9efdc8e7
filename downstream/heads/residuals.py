"""Predictive distributions around any forecast, from its residuals on earlier samples that it was not fitted on.

Truth = forecast + width × scale × departure: the width of a sample may be known beforehand (that of a ridge posterior),
the scale of a cell is that of its residuals, and the departures have one shape for all samples and cells: a Gaussian's,
or that of the residuals themselves, with conformal intervals. Whole blocks of samples (years, months, sites) are taken
to be exchangeable, and count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scoringrules
from scipy.special import erfinv, ndtr

from .distribution import fewest_blocks
from .uncertainty import block_weights, conformal_quantile

CENTRAL = (0.5, 0.8, 0.9, 0.95)  # shares of truths that intervals are to hold
PRIOR_BLOCKS = 3  # a cell's scale is drawn towards that of all cells as if by so many blocks more
LEAST = 1e-30


@dataclass(frozen=True)
class Gaussian:
    """Departures that are N(0, 1).

    Attributes:
        mean, variance: Of the departures.
    """

    mean: float = 0.0
    variance: float = 1.0

    @property
    def half(self) -> dict[float, float]:
        """Half widths of the central intervals, by the share that they are to hold."""
        return {share: math.sqrt(2) * float(erfinv(share)) for share in CENTRAL}

    def crps(self, departure: np.ndarray) -> np.ndarray:
        """Return the CRPS of each departure, of the same shape."""
        return np.asarray(scoringrules.crps_normal(departure, 0.0, 1.0))

    def below(self, departure: np.ndarray) -> np.ndarray:
        """Return the probability below each departure."""
        return np.asarray(ndtr(departure))


@dataclass(frozen=True, eq=False)
class Empirical:
    """Departures that are those of a weighted sample.

    Attributes:
        values: Ascending, (n,).
        weights: Theirs, which sum to 1, (n,).
        half: Conformal half widths by the share that they are to hold; shares that the blocks do not carry are absent.
    """

    values: np.ndarray
    weights: np.ndarray
    half: Mapping[float, float]

    @property
    def mean(self) -> float:
        """Mean of the departures."""
        return float(self.values @ self.weights)

    @property
    def variance(self) -> float:
        """Variance of the departures."""
        return float(self.values**2 @ self.weights) - self.mean**2

    def crps(self, departure: np.ndarray) -> np.ndarray:
        """Return E|X - z| - E|X - X'| / 2 of each departure z, exactly, of the same shape."""
        reached = np.concatenate([[0.0], np.cumsum(self.weights)])
        moment = np.concatenate([[0.0], np.cumsum(self.weights * self.values)])
        at = np.searchsorted(self.values, departure)
        apart = departure * (2 * reached[at] - reached[-1]) - 2 * moment[at] + moment[-1]
        within = (self.weights * self.values * (reached[1:] + reached[:-1] - reached[-1])).sum()
        return np.asarray(apart - within)

    def below(self, departure: np.ndarray) -> np.ndarray:
        """Return the probability below each departure, ties half."""
        reached = np.concatenate([[0.0], np.cumsum(self.weights)])
        ends = (reached[np.searchsorted(self.values, departure, side)] for side in ("left", "right"))
        return np.asarray(sum(ends) / 2)


Departures = Gaussian | Empirical


@dataclass(frozen=True, eq=False)
class Calibration:
    """What residuals say of the distribution around a forecast.

    Attributes:
        scale: Root mean square of the residuals of each cell, blocks alike, (cell,).
        conformal: Their shape, with conformal intervals.
        blocks: Number of exchangeable blocks.
    """

    scale: np.ndarray
    conformal: Empirical
    blocks: int

    @classmethod
    def fit(cls, residuals: np.ndarray, weight: np.ndarray, block: np.ndarray) -> Calibration:
        """Return the calibration by residuals over their widths.

        Of several cells, each has a scale of its own; a residual is then compared with the scale that the other blocks
        give, as a new one will be.

        Args:
            residuals: Truth less forecast, over the width of the sample, (sample, cell); anything where weight is 0.
            weight: Of each, 0 where there is none, (sample, cell).
            block: Of each sample, (sample,).
        """
        seen = weight > 0
        square = np.where(seen, residuals, 0.0) ** 2
        used = seen.any(axis=1)  # a block without a residual is none
        square, seen, weight, residuals = square[used], seen[used], weight[used], residuals[used]
        _, at, counts = np.unique(block[used], return_inverse=True, return_counts=True)
        number, cells = len(counts), square.shape[1]
        sums, found = np.zeros((2, number, cells))
        np.add.at(sums, at, square / counts[at, None])
        np.add.at(found, at, seen / counts[at, None])
        area = weight.max(axis=0)
        if cells == 1:
            scale = np.sqrt(np.maximum(sums.sum(0) / found.sum(0), LEAST**2))
            own = np.broadcast_to(scale, square.shape)
        else:
            parts = np.stack([sums, found, found > 0])
            scale = _scales(parts.sum(1), area)
            without = [_scales(parts.sum(1) - parts[:, b], area) for b in range(number)] if number > 1 else [scale]
            own = np.stack(without)[at]
        departure, share, of = (residuals / own)[seen], weight[seen], np.broadcast_to(at[:, None], seen.shape)[seen]
        order = np.argsort(departure, kind="stable")
        half = {central: conformal_quantile(np.abs(departure), 1 - central, of, share)
                for central in CENTRAL if number >= fewest_blocks(central)}  # fmt: skip
        return cls(scale, Empirical(departure[order], block_weights(of, share)[order], half), number)


def _scales(parts: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return root mean squares of cells, drawn towards that of all, (cell,).

    Args:
        parts: Sum of squared residuals, number of these and of the blocks that they are of, (3, cell).
        area: Weight of the cell, (cell,).
    """
    sums, found, blocks = parts
    every = (area @ sums) / max(area @ found, LEAST)
    own = sums / np.maximum(found, LEAST)
    return np.sqrt(np.maximum((blocks * own + PRIOR_BLOCKS * every) / (blocks + PRIOR_BLOCKS), LEAST**2))
