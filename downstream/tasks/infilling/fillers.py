"""Fill gaps from what is observed at the same time: mean, nearest, inverse distance, kriging, optimal interpolation.

Every filler here is linear: a filled cell is a weighted sum of the observed ones, by the places alone (nearest,
inverse distance, ordinary kriging) or by a covariance of training fields too (optimal interpolation).

Kriging: Cressie 1993, Statistics for Spatial Data, ch. 3. Optimal interpolation: Gandin 1963; the localisation
of a sample covariance: Gaspari & Cohn 1999, doi 10.1002/qj.49712555417.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from ....ssl.common.errors import EarthSSLError
from .gaps import EARTH_RADIUS_KM, unit_vectors


@dataclass(frozen=True, eq=False)
class Places:
    """The cells that are to be filled.

    Attributes:
        lat, lon: Centres, degrees, shape (cells,).
        area: Share of the sphere of each, shape (cells,).
    """

    lat: np.ndarray
    lon: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.lat)

    @cached_property
    def distance_km(self) -> np.ndarray:
        """Great-circle distance between any two cells, shape (cells, cells)."""
        # From the chord: exact for near points, where the arc cosine of a product is not.
        points = unit_vectors(self.lat, self.lon)
        square = np.clip(2 - 2 * points @ points.T, 0, 4)
        square[np.diag_indices(len(points))] = 0
        return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(square) / 2))


class Filler(ABC):
    """Rebuilds anomaly fields from their observed cells.

    Attributes:
        name: Of its row in the table.
    """

    name: str

    @abstractmethod
    def estimate(self, values: np.ndarray) -> np.ndarray:
        """Return an estimate for all cells, of fields (time, cells) with NaN where nothing is observed."""

    def fill(self, values: np.ndarray) -> np.ndarray:
        """Return the fields (time, cells) with NaN replaced by estimates; what is observed stays as it is.

        Raises:
            EarthSSLError: If a field holds no observation.
        """
        fields = np.asarray(values, dtype=np.float64)
        seen = np.isfinite(fields)
        if not seen.any(1).all():
            raise EarthSSLError(
                f"{self.name}: expected some observed cell in every field, got none in field "
                f"{int(np.flatnonzero(~seen.any(1))[0])}; leave it out"
            )
        return np.where(seen, fields, self.estimate(fields))


class Climatology(Filler):
    """No anomaly."""

    name = "climatology"

    def estimate(self, values: np.ndarray) -> np.ndarray:
        """Return zeros."""
        return np.zeros(values.shape)


class LinearFiller(Filler):
    """A filler that weighs the observed cells by where they are."""

    @abstractmethod
    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return estimates (time, cells) from the observations (time, observed) at the cells of a mask `seen`."""

    def estimate(self, values: np.ndarray) -> np.ndarray:
        """Return `predict` of all fields, those with the same gaps together."""
        seen = np.isfinite(values)
        masks, which = np.unique(seen, axis=0, return_inverse=True)
        made = np.empty(values.shape)
        for number, mask in enumerate(masks):
            own = which.ravel() == number
            made[own] = self.predict(values[own][:, mask], mask)
        return made

    def weights(self, seen: np.ndarray) -> np.ndarray:
        """Return the weight of each observed cell in each cell's estimate, shape (cells, observed)."""
        return self.predict(np.eye(int(seen.sum())), seen).T


class MeanOfObserved(LinearFiller):
    """The area mean of what is observed, everywhere."""

    name = "mean of observed"

    def __init__(self, places: Places) -> None:
        self.places = places

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the weighted mean in every cell."""
        area = self.places.area[seen]
        return np.repeat(observed @ area[:, None] / area.sum(), len(self.places), 1)


class Nearest(LinearFiller):
    """The observation that is nearest on the sphere."""

    name = "nearest"

    def __init__(self, places: Places) -> None:
        self.places = places

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the nearest observation of every cell, the first of equally near ones."""
        return observed[:, self.places.distance_km[:, seen].argmin(1)]


class InverseDistance(LinearFiller):
    """The mean of all observations, weighted by distance to the power -p (Shepard 1968)."""

    def __init__(self, places: Places, power: float = 3.0) -> None:
        self.places, self.power = places, power
        self.name = f"inverse distance, p = {power:g}"

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the weighted means; at an observation, that observation."""
        weight = np.maximum(self.places.distance_km[:, seen], 1e-6) ** -self.power
        return observed @ (weight / weight.sum(1, keepdims=True)).T


class OrdinaryKriging(LinearFiller):
    """Best linear unbiased estimate under an exponential covariance and an unknown constant mean.

    The nugget is an error of the observations, as a share of the field's variance.
    """

    name = "ordinary kriging"

    def __init__(self, places: Places, length_km: float = 1500.0, nugget: float = 0.1) -> None:
        self.places, self.length_km, self.nugget = places, length_km, nugget

    @cached_property
    def covariance(self) -> np.ndarray:
        """Covariance of the field, variance 1, shape (cells, cells)."""
        return np.asarray(np.exp(-self.places.distance_km / self.length_km))

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return mean + covariance × (covariance of the observations)⁻¹ × (observations - mean).

        The mean is the generalised least-squares one, so that the weights sum to 1 (the Lagrange
        multiplier of the kriging equations solved for).
        """
        factor = _factor(self.covariance[np.ix_(seen, seen)], self.nugget, self.name)
        ones = cho_solve(factor, np.ones(int(seen.sum())))
        mean = observed @ ones / ones.sum()
        return mean[:, None] + cho_solve(factor, (observed - mean[:, None]).T).T @ self.covariance[seen]


class OptimalInterpolation(LinearFiller):
    """Conditional mean of a Gaussian field with zero mean and a covariance learnt from training fields.

    The covariance is a mixture: the localised sample covariance, which knows teleconnections but is noisy,
    and an exponential one with the cells' own variances, which is smooth and local.
    """

    name = "optimal interpolation"

    def __init__(
        self,
        places: Places,
        training: np.ndarray,
        *,
        share: float = 0.5,
        localisation_km: float = 5000.0,
        length_km: float = 1500.0,
        nugget: float = 0.02,
    ) -> None:
        """Learn the covariance.

        Args:
            places: The cells.
            training: Anomalies of training times only, without gaps, shape (times, cells).
            share: Of the sample covariance in the mixture.
            localisation_km: Distance at which the localisation falls to 0.21; it is 0 from twice that on.
            length_km: Of the exponential covariance.
            nugget: Error of the observations, as a share of the mean variance.

        Raises:
            EarthSSLError: If the training fields have gaps or do not vary.
        """
        if training.ndim != 2 or training.shape[1] != len(places) or not np.isfinite(training).all():
            raise EarthSSLError(
                f"optimal interpolation: expected training fields without gaps on {len(places)} cells, got shape "
                f"{training.shape} with {int((~np.isfinite(training)).sum())} missing; leave out what has gaps"
            )
        centred = training - training.mean(0)
        sample = centred.T @ centred / len(centred)
        spread = np.sqrt(np.diag(sample))
        if not (spread > 0).any():
            raise EarthSSLError("optimal interpolation: expected training fields that vary, got constants")
        distance = places.distance_km
        smooth = spread[:, None] * spread * np.exp(-distance / length_km)
        self.covariance = share * sample * taper(distance / localisation_km) + (1 - share) * smooth
        self.noise = nugget * float((spread**2).mean())

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return covariance × (covariance of the observations + noise)⁻¹ × observations."""
        factor = _factor(self.covariance[np.ix_(seen, seen)], self.noise, self.name)
        return cho_solve(factor, observed.T).T @ self.covariance[seen]


def taper(ratio: np.ndarray) -> np.ndarray:
    """Return Gaspari & Cohn's correlation function (their 4.10): 1 at 0, smooth, 0 from a ratio of 2 on."""
    z = np.asarray(ratio, dtype=np.float64)
    near = 1 + z**2 * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
    safe = np.maximum(z, 1.0)
    far = 4 - 5 * safe + safe**2 * (5 / 3 + safe * (5 / 8 + safe * (-1 / 2 + safe / 12))) - 2 / (3 * safe)
    return np.where(z <= 1, near, np.where(z < 2, far, 0.0))


def _factor(covariance: np.ndarray, noise: float, name: str) -> tuple[np.ndarray, bool]:
    """Return the Cholesky factor of a covariance with noise on its diagonal."""
    matrix = covariance.copy()
    matrix[np.diag_indices(len(matrix))] += noise
    try:
        return cho_factor(matrix, lower=True, overwrite_a=True)
    except LinAlgError:
        raise EarthSSLError(
            f"{name}: expected a positive definite covariance of the {len(matrix)} observations, got a singular one; "
            "raise the nugget"
        ) from None
