"""PatchHead: ridge regression from a token's features to the cells of its patch, one head for all places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ssl.common.errors import EarthSSLError
from .patch_ridge import solved, squared_error

# Ridge penalties to choose between, each times the weight of the samples, on features of unit variance.
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-6, 1.6, 0.5))


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over samples that a least-squares fit, and its error, depend on; the sums of two sets add up.

    Attributes:
        gram: Products of the features, a constant first, shape (cells, 1 + width, 1 + width).
        cross: Products of features and targets, shape (cells, 1 + width).
        power: Squared targets, shape (cells,).
    """

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> Moments:
        """Return the sums over all targets that are not NaN.

        Args:
            features: Shape (samples, tokens, width).
            targets: Cells of each token's patch, shape (samples, tokens, cells).
            weight: Of each cell, shape (tokens, cells).
        """
        width, cells = features.shape[-1], targets.shape[-1]
        x = _with_constant(features).reshape(-1, 1 + width)
        y = targets.reshape(-1, cells).astype(np.float64)
        w = np.broadcast_to(weight, targets.shape).reshape(-1, cells)
        gram, cross, power = np.zeros((cells, 1 + width, 1 + width)), np.zeros((cells, 1 + width)), np.zeros(cells)
        for cell in range(cells):  # each has gaps of its own
            own = np.isfinite(y[:, cell])
            mine, weighted = x[own], x[own] * w[own, cell, None]
            gram[cell], cross[cell] = weighted.T @ mine, weighted.T @ y[own, cell]
            power[cell] = w[own, cell] @ y[own, cell] ** 2
        return cls(gram, cross, power)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross, self.power + other.power)

    def error(self, head: PatchHead) -> float:
        """Return the weighted squared error of a head on these samples."""
        parts = zip(head.coefficients, self.gram, self.cross, self.power, strict=True)
        return float(sum(squared_error(b[:, None], gram, c[:, None], p).item() for b, gram, c, p in parts))


@dataclass(frozen=True, eq=False)
class PatchHead:
    """Coefficients of each cell, the constant first, shape (cells, 1 + width)."""

    coefficients: np.ndarray

    @classmethod
    def fit(cls, moments: Moments, penalty: float) -> PatchHead:
        """Return the ridge solution; the constant is not shrunk, and features count as if of unit variance.

        Raises:
            EarthSSLError: If there is no sample at all.
        """
        total = moments.gram.sum(0)
        if not total[0, 0] > 0:
            raise EarthSSLError("expected some hidden cells to fit a head on, got none; hide more, or train on more")
        mean = total[0, 1:] / total[0, 0]
        variance = np.maximum(np.diag(total)[1:] / total[0, 0] - mean**2, 1e-12)
        shrink = np.concatenate([[0.0], penalty * variance])
        weight = moments.gram[:, 0, 0]
        b = np.zeros(moments.cross.shape)
        for cell in np.flatnonzero(weight > 0):
            b[cell] = solved(moments.gram[cell], moments.cross[cell], weight[cell] * shrink)
        return cls(b)

    @classmethod
    def chosen(cls, train: Moments, val: Moments, penalties: Sequence[float] = PENALTIES) -> tuple[PatchHead, float]:
        """Return the head of the penalty that does best on validation, refitted on both, and its penalty."""
        errors = [val.error(cls.fit(train, penalty)) for penalty in penalties]
        best = penalties[int(np.argmin(errors))]
        return cls.fit(train + val, best), best

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the cells of each token, shape (samples, tokens, cells)."""
        return np.asarray(_with_constant(features) @ self.coefficients.T)


def _with_constant(features: np.ndarray) -> np.ndarray:
    ones = np.ones((*features.shape[:-1], 1))
    return np.concatenate([ones, features], -1, dtype=np.float64)
