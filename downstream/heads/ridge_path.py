"""Ridge regression: its whole penalty path from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

# Penalties as multiples of the number of samples: 2 n · 2^k, k = -8 … 8.
PENALTIES = tuple(float(2.0 * 2.0**k) for k in range(-8, 9))


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Ridge regression of several targets with unpenalised group intercepts, for any penalty.

    Minimises ||Y - Z B||² + penalty · n · ||B||², with Z the features less their group means (and over their
    deviation) and Y the targets less theirs. The decomposition is of the shorter side of Z, so features may
    be far wider than the samples.

    Attributes:
        feature_mean: By group, shape (groups, features).
        feature_scale: Shape (features,).
        target_mean: By group, shape (groups, targets).
        samples: Number n of fitted samples.
        counts: Of these in each group, shape (groups,).
        power: Squared singular values of Z, shape (rank,).
        directions: Right singular vectors of Z, shape (features, rank).
        loadings: Directions^T Z^T Y, shape (rank, targets).
    """

    feature_mean: np.ndarray
    feature_scale: np.ndarray
    target_mean: np.ndarray
    samples: int
    counts: np.ndarray
    power: np.ndarray
    directions: np.ndarray
    loadings: np.ndarray

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        targets: np.ndarray,
        group: np.ndarray | None = None,
        *,
        standardise: bool = True,
    ) -> RidgePath:
        """Return the decomposed problem.

        Args:
            features: Shape (n, features).
            targets: Shape (n, targets).
            group: Group 0…g of each sample (its calendar month), shape (n,); None: one group.
            standardise: Divide each feature by its standard deviation about the group means; a constant
                feature stays 0.
        """
        x, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
        group = np.zeros(len(x), dtype=int) if group is None else group
        feature_mean, target_mean = _group_means(x, group), _group_means(y, group)
        z, y = x - feature_mean[group], y - target_mean[group]
        spread = np.sqrt((z * z).mean(axis=0))
        constant = spread <= 1e-12 * np.abs(x).max(axis=0, initial=0.0)
        scale = np.where(constant, np.inf, spread if standardise else 1.0)
        z /= scale
        power, directions = _decompose(z)
        counts = np.bincount(group)
        return cls(feature_mean, scale, target_mean, len(x), counts, power, directions, directions.T @ (z.T @ y))

    def shrunk(self, penalties: Sequence[float]) -> np.ndarray:
        """Return the coefficients along `directions`, shape (penalties, rank, targets)."""
        penalty = np.asarray(penalties, dtype=np.float64)[:, None] * self.samples
        return self.loadings / (self.power + penalty)[:, :, None]

    def coefficients(self, penalty: float) -> np.ndarray:
        """Return B in units of target per unit of raw feature, shape (features, targets)."""
        return (self.directions @ self.shrunk([penalty])[0]) / self.feature_scale[:, None]

    def predict(self, features: np.ndarray, penalties: Sequence[float], group: np.ndarray | None = None) -> np.ndarray:
        """Return predictions for each penalty, shape (penalties, n, targets)."""
        group = np.zeros(len(features), dtype=int) if group is None else group
        z = (np.asarray(features, dtype=np.float64) - self.feature_mean[group]) / self.feature_scale
        return (z @ self.directions) @ self.shrunk(penalties) + self.target_mean[group]

    def widths(self, features: np.ndarray, penalties: Sequence[float], group: np.ndarray | None = None) -> np.ndarray:
        """Return the predictive standard deviation of a target over that of the noise, for each penalty, (penalty, n).

        Of the posterior with the prior B ~ N(0, noise variance / (penalty n)): the root of 1 for the noise, 1 over the
        samples of the group for its mean, and z (ZᵀZ + penalty n I)⁻¹ zᵀ for B.
        """
        group = np.zeros(len(features), dtype=int) if group is None else group
        z = (np.asarray(features, dtype=np.float64) - self.feature_mean[group]) / self.feature_scale
        ridge = np.asarray(penalties, dtype=np.float64)[:, None] * self.samples
        along = (z @ self.directions) ** 2
        # What the fitted samples do not span keeps the variance of the prior.
        beyond = np.maximum((z**2).sum(axis=1) - along.sum(axis=1), 0.0)
        leverage = (1 / (self.power + ridge)) @ along.T + beyond / ridge
        return np.asarray(np.sqrt(1 + 1 / self.counts[group] + leverage))


def _group_means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the mean of each group 0…max, shape (groups, …); NaN for a group without samples."""
    means = np.full((int(group.max()) + 1, values.shape[1]), np.nan)
    for g in np.unique(group):
        means[g] = values[group == g].mean(axis=0)
    return means


def _decompose(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared singular values of z that are not rounding, and their right singular vectors."""
    n, width = z.shape
    power, basis = eigh(z.T @ z if width <= n else z @ z.T)
    kept = power > 1e-13 * max(power[-1], np.finfo(float).tiny)
    power, basis = power[kept], basis[:, kept]
    return power, basis if width <= n else (z.T @ basis) / np.sqrt(power)
