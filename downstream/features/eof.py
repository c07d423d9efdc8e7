"""Area-weighted empirical orthogonal functions (PCA) of fields with missing cells.

Lorenz 1956; North et al. 1982, doi 10.1175/1520-0493(1982)110<0699:SEITEO>2.0.CO;2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from ...ssl.common.errors import EarthSSLError

AT_ONCE = 4096  # times projected together: tens of thousands of days need no copies of themselves in double precision


@dataclass(frozen=True, eq=False)
class Eof:
    """Leading patterns of anomaly fields, orthonormal under the weights they were fitted with.

    Attributes:
        patterns: In the fields' unit per unit of principal component, shape (k, cells); NaN at unused cells.
        mean: Mean over the fitted times, shape (cells,); NaN at unused cells.
        weight: Weights of the cells, mean 1 over the used ones, 0 at unused cells, shape (cells,).
        std: Standard deviation of each component over the fitted times, shape (k,).
        explained: Share of the weighted variance that each component explains, shape (k,).
    """

    patterns: np.ndarray
    mean: np.ndarray
    weight: np.ndarray
    std: np.ndarray
    explained: np.ndarray

    @classmethod
    def fit(cls, fields: np.ndarray, weight: np.ndarray, k: int, *, fewer: bool = False) -> Eof:
        """Return the k leading EOFs of `fields` (times of the fit period only).

        Times without any value are left out, then cells that miss any value or have weight 0. The sign is such that
        the largest loading of each pattern is positive.

        Args:
            fields: Shape (times, …cells); the trailing axes are flattened in C order.
            weight: Share of variance each cell counts with (its area), shape (…cells).
            k: Number of patterns.
            fewer: Whether fewer will do, where the data do not carry so many.

        Raises:
            EarthSSLError: If the data do not carry k patterns, or none.
        """
        data = np.asarray(fields, dtype=np.float64).reshape(len(fields), -1)
        data = data[np.isfinite(data).any(axis=1)]
        weight = np.asarray(weight, dtype=np.float64).reshape(-1)
        used = np.isfinite(data).all(axis=0) & (weight > 0)
        if fewer:
            k = max(1, min(k, int(used.sum()), len(data) - 1))
        if k < 1 or k > min(used.sum(), len(data) - 1):
            raise EarthSSLError(
                f"expected between 1 and {min(used.sum(), len(data) - 1)} EOFs from {len(data)} times and "
                f"{used.sum()} cells without gaps, got {k}; ask for fewer, or fill the gaps"
            )
        weight = np.where(used, weight / weight[used].mean(), 0.0)
        mean = data[:, used].mean(axis=0)
        root = np.sqrt(weight[used])
        vectors, power, total = _leading((data[:, used] - mean) * root, k, fewer)
        sign = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
        return cls(
            patterns=_scatter(vectors * sign[:, None] / root, used),
            mean=_scatter(mean, used),
            weight=weight,
            std=np.sqrt(power / len(data)),
            explained=power / total,
        )

    def project(self, fields: np.ndarray) -> np.ndarray:
        """Return the principal components of any fields, shape (times, k).

        A missing value in a used cell counts as no departure from the mean; a field that misses more than
        half of its weight gives NaN.
        """
        used = self.weight > 0
        flat = np.asarray(fields).reshape(len(fields), -1)
        weight, patterns = self.weight[used], self.patterns[:, used].T
        components = np.empty((len(flat), len(self.patterns)))
        for first in range(0, len(flat), AT_ONCE):
            own = slice(first, first + AT_ONCE)
            data = flat[own][:, used].astype(np.float64) - self.mean[used]
            valid = np.isfinite(data)
            data[~valid] = 0.0
            data *= weight
            components[own] = data @ patterns
            components[own][valid @ weight < 0.5 * self.weight.sum()] = np.nan
        return components

    def reconstruct(self, components: np.ndarray) -> np.ndarray:
        """Return the fields of components (times, k): shape (times, cells), NaN at unused cells."""
        return components @ self.patterns + self.mean

    def mean_of(self, weight: np.ndarray) -> np.ndarray:
        """Return each pattern's weighted mean over cells (an index such as Niño 3.4), shape (k,)."""
        weight = np.where(self.weight > 0, np.asarray(weight, dtype=np.float64).reshape(-1), 0.0)
        if weight.sum() <= 0:
            raise EarthSSLError("expected some cell of the EOFs under the index, got none; widen the region")
        return np.where(self.weight > 0, self.patterns, 0.0) @ weight / weight.sum()


def _leading(data: np.ndarray, k: int, fewer: bool = False) -> tuple[np.ndarray, np.ndarray, float]:
    """Return right singular vectors (k, cells), squared singular values (k,), and their total.

    Decomposes the Gram matrix of the shorter side: thousands of cells and hundreds of months cost the same.
    """
    n, cells = data.shape
    gram = data @ data.T if n <= cells else data.T @ data
    power, basis = eigh(gram, subset_by_index=[len(gram) - k, len(gram) - 1])
    power, basis = power[::-1], basis[:, ::-1]
    total = float(np.trace(gram))
    if fewer:
        carried = max(1, int((power > 1e-12 * total).sum()))
        power, basis = power[:carried], basis[:, :carried]
    if power[-1] <= 1e-12 * total:
        raise EarthSSLError(f"expected {k} independent patterns in the fields, got fewer; ask for fewer EOFs")
    vectors = (basis.T @ data) / np.sqrt(power)[:, None] if n <= cells else basis.T
    return vectors, power, total


def _scatter(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    full = np.full((*values.shape[:-1], len(used)), np.nan)
    full[..., used] = values
    return full


def lagged(components: np.ndarray, window: int) -> np.ndarray:
    """Return each month's components beside those of the window - 1 months before it.

    Shape (time, window · k), newest first; NaN where the window starts before the record.
    """
    n, k = components.shape
    features = np.full((n, window * k), np.nan)
    for lag in range(window):
        features[lag:, lag * k : (lag + 1) * k] = components[: n - lag]
    return features


def window_components(values: np.ndarray, training: np.ndarray, counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Return leading principal components of features by their number, (sample, …, k); NaN where a feature is.

    Args:
        values: Shape (sample, …, value), each weighted as it is to count.
        training: Samples that they are fitted on, indices or a mask.
        counts: Numbers asked for; those beyond what the samples carry become all there are.
    """
    flat = values.reshape(-1, values.shape[-1])
    own = values[training].reshape(-1, values.shape[-1])
    own = own[np.isfinite(own).all(axis=1)]
    most = max(1, min(max(counts), len(own) - 1, own.shape[1]))
    eof = Eof.fit(own, np.ones(own.shape[1]), most, fewer=True)
    most = len(eof.std)
    found = np.full((len(flat), most), np.nan)
    whole = np.isfinite(flat).all(axis=1)
    found[whole] = eof.project(flat[whole])
    found = found.reshape(*values.shape[:-1], most)
    return {f"{k} components": found[..., :k] for k in sorted({min(k, most) for k in counts})}
