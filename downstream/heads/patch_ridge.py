"""PatchRidge: one linear map from a patch's features to its cells' future, shared by all places, in closed form.

Everything is in the moments of features and targets, summed place by place: a cell that is land at one place
and sea at another is weighted place by place, and a validation error is a quadratic form of the coefficients,
so that the whole path of penalties costs a few small solutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...ssl.common.errors import EarthSSLError

AT_ONCE = 2**25  # values of features that are held in double precision

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-6, 1.1, 0.5))


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over samples, by place.

    Attributes:
        gram: Features × features, (place, feature, feature).
        cross: Features × targets, (place, feature, target).
        power: Targets squared, (place, target).
        count: Samples, (place,).
    """

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, targets: np.ndarray, cells: np.ndarray) -> Moments:
        """Return the moments of the patches that are whole.

        Args:
            features: Shape (sample, place, feature), finite.
            targets: Shape (sample, place, target), NaN = missing.
            cells: Which targets of a place can ever be observed, (place, target). A sample of a place
                counts where all of these were.
        """
        whole = (np.isfinite(targets) | ~cells).all(axis=2)
        x = np.where(whole[:, :, None], features, 0.0).astype(np.float64).transpose(1, 0, 2)
        y = np.where(whole[:, :, None], np.nan_to_num(targets), 0.0).astype(np.float64).transpose(1, 0, 2)
        turned = x.transpose(0, 2, 1)
        return cls(turned @ x, turned @ y, (y * y).sum(axis=1), whole.sum(axis=0).astype(float))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.gram + other.gram, self.cross + other.cross, self.power + other.power, self.count + other.count
        )


@dataclass(frozen=True, eq=False)
class PatchRidge:
    """A shared linear head for several penalties.

    Minimises the weighted squared error plus penalty × n × the squared coefficients of standardised features;
    the intercept is free.

    Attributes:
        mean, scale: Of the features over the fitted samples, (feature,).
        coefficients: Of standardised features and a last 1, (penalty, feature + 1, target).
        penalties: As tried.
    """

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    penalties: tuple[float, ...]

    @classmethod
    def fit(
        cls, features: np.ndarray, targets: np.ndarray, weight: np.ndarray, penalties: Sequence[float]
    ) -> PatchRidge:
        """Return the heads of all penalties.

        Args:
            features: Shape (sample, place, feature).
            targets: Shape (sample, place, target), NaN = missing.
            weight: Of each place and target, 0 where it can never be observed, (place, target).
            penalties: Multiples of n.

        Raises:
            EarthSSLError: If a penalty is not positive, or no patch is whole at any time.
        """
        if not penalties or min(penalties) <= 0:
            raise EarthSSLError(f"expected positive ridge penalties, got {list(penalties)}")
        mean = features.mean(axis=(0, 1), dtype=np.float64)
        spread = features.std(axis=(0, 1), dtype=np.float64)
        scale = np.where(spread > 1e-6 * np.abs(features).max(initial=0.0), spread, np.inf)
        moments = _moments(features, mean, scale, targets, weight)
        if ((moments.count @ weight == 0) & weight.any(axis=0)).any():
            raise EarthSSLError(
                "patch head: no patch was observed whole at any training time; choose smaller patches, or fill the gaps"
            )
        out = np.zeros((len(penalties), moments.gram.shape[1], targets.shape[2]))
        for columns, gram, cross, _ in _means(moments, weight):
            shrunk = np.append(np.ones(len(gram) - 1), 0.0)
            for k, penalty in enumerate(penalties):
                # A feature that never varies is 0 throughout; its penalty keeps the matrix regular.
                out[k][:, columns] = solved(gram, cross, penalty * shrunk)
        return cls(mean, scale, out, tuple(penalties))

    def take(self, columns: slice) -> PatchRidge:
        """Return the heads of some of the targets."""
        return PatchRidge(self.mean, self.scale, self.coefficients[:, :, columns].copy(), self.penalties)

    def errors(self, features: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the weighted mean squared error of each penalty and target over whole patches, (penalty, target).

        NaN for a target that is never observed. Equal to the error of `predict`, without its cost.
        """
        moments = _moments(features, self.mean, self.scale, targets, weight)
        out = np.full((len(self.penalties), targets.shape[2]), np.nan)
        for columns, gram, cross, power in _means(moments, weight):
            for k, b in enumerate(self.coefficients[:, :, columns]):
                out[k, columns] = squared_error(b, gram, cross, power)
        return out

    def predict(self, features: np.ndarray, choice: int) -> np.ndarray:
        """Return the predictions of one penalty, float32, (sample, place, target)."""
        b = self.coefficients[choice].astype(np.float32)
        return _standard(features, self.mean, self.scale).astype(np.float32) @ b


def observed_mean(errors: np.ndarray, share: np.ndarray, where: str) -> np.ndarray:
    """Return the mean of errors (penalty, target) over the targets that were observed, by their weights, (penalty,).

    Raises:
        EarthSSLError: If none was.
    """
    seen = np.isfinite(errors).all(axis=0) & (share > 0)
    if not seen.any():
        raise EarthSSLError(
            f"{where}: no patch was observed whole at any validation time; choose smaller patches, or fill the gaps"
        )
    return np.asarray(errors[:, seen] @ share[seen] / share[seen].sum())


def _moments(
    features: np.ndarray, mean: np.ndarray, scale: np.ndarray, targets: np.ndarray, weight: np.ndarray
) -> Moments:
    """Return the moments of standardised features, some samples at a time where they are many."""
    size = max(1, AT_ONCE // max(1, features[0].size))
    parts = [slice(begin, begin + size) for begin in range(0, len(features), size)]
    made = [Moments.of(_standard(features[one], mean, scale), targets[one], weight > 0) for one in parts]
    return sum(made[1:], start=made[0])


def _standard(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    z = (features - mean) / scale
    return np.concatenate([z, np.ones((*z.shape[:2], 1))], axis=2)


def _means(moments: Moments, weight: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the targets that have the same weights everywhere, and their mean gram, cross and power over places."""
    found, at = np.unique(weight, axis=1, return_inverse=True)
    for k, own in enumerate(found.T):
        columns, n = np.flatnonzero(at.ravel() == k), float(own @ moments.count)
        if n:
            cross = np.tensordot(own, moments.cross[:, :, columns], 1) / n
            yield columns, np.tensordot(own, moments.gram, 1) / n, cross, own @ moments.power[:, columns] / n


def solved(gram: np.ndarray, cross: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Return the coefficients (feature, target) that minimise squared error plus Σ ridge × coefficient².

    Args:
        gram: Products of the features, (feature, feature).
        cross: Products of features and targets, (feature, target).
        ridge: Penalty of each feature, 0 for a constant, (feature,).
    """
    return np.asarray(np.linalg.solve(gram + np.diag(ridge), cross))


def squared_error(coefficients: np.ndarray, gram: np.ndarray, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return the summed squared error of each target, (target,); `power` are the sums of their squares, (target,)."""
    b = coefficients
    return np.asarray(power - 2 * (b * cross).sum(axis=0) + (b * (gram @ b)).sum(axis=0))
