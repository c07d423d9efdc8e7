"""Fill gaps from what is observed at the same time, without an encoder.

All but DINEOF are linear: a filled cell is a weighted sum of the observed ones, by the places alone (nearest,
inverse distance, ordinary kriging) or by patterns or a covariance of training fields too.

Kriging: Cressie 1993, Statistics for Spatial Data, ch. 3. Optimal interpolation: Gandin 1963; the localisation
of a sample covariance: Gaspari & Cohn 1999, doi 10.1002/qj.49712555417. DINEOF, which learns from gappy fields too:
Beckers & Rixen 2003, doi 10.1175/1520-0426(2003)020<1839:ECADFF>2.0.CO;2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.reduced_space import straight_km, taper
from ...features.eof import Eof
from .gaps import Places


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
        return np.zeros(values.shape)


class LinearFiller(Filler):
    """A filler that weighs the observed cells by where they are."""

    def __init__(self, places: Places) -> None:
        self.places = places

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

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        area = self.places.area[seen]
        return np.repeat(observed @ area[:, None] / area.sum(), len(self.places), 1)


class Nearest(LinearFiller):
    """The observation that is nearest on the sphere."""

    name = "nearest"

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the nearest observation of every cell, the first of equally near ones."""
        return observed[:, self.places.distance_km[:, seen].argmin(1)]


class InverseDistance(LinearFiller):
    """The mean of all observations, weighted by distance to the power -p (Shepard 1968)."""

    def __init__(self, places: Places, power: float = 3.0) -> None:
        super().__init__(places)
        self.power = power
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
        super().__init__(places)
        self.length_km, self.nugget = length_km, nugget

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
        straight: bool = False,
    ) -> None:
        """Learn the covariance.

        Args:
            places: The cells.
            training: Anomalies of training times only, without gaps, shape (times, cells).
            share: Of the sample covariance in the mixture.
            localisation_km: Distance at which the localisation falls to 0.21; it is 0 from twice that on.
            length_km: Of the exponential covariance.
            nugget: Error of the observations, as a share of the mean variance.
            straight: Localise by the distance through the sphere, not along it: a localisation as wide as the sphere
                leaves a covariance then.

        Raises:
            EarthSSLError: If the training fields have gaps or do not vary.
        """
        super().__init__(places)
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
        apart = straight_km(distance) if straight else distance
        smooth = spread[:, None] * spread * np.exp(-distance / length_km)
        self.covariance = share * sample * taper(apart / localisation_km) + (1 - share) * smooth
        self.noise = nugget * float((spread**2).mean())

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return covariance × (covariance of the observations + noise)⁻¹ × observations."""
        factor = _factor(self.covariance[np.ix_(seen, seen)], self.noise, self.name)
        return cho_solve(factor, observed.T).T @ self.covariance[seen]


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


class PcaRegression(LinearFiller):
    """The k leading EOFs of training fields, fitted to the observed cells.

    Components have the variance they had in training (a prior), and observations an error of the variance
    that the k patterns leave unexplained in each cell.
    """

    def __init__(self, places: Places, training: np.ndarray, k: int) -> None:
        """Learn the patterns from anomalies of training times only, (times, cells), without gaps."""
        super().__init__(places)
        self.name = f"PCA regression, k = {k}"
        eof = Eof.fit(training, places.area, k)
        rest = ((training - eof.reconstruct(eof.project(training))) ** 2).mean(0)
        # A cell that the patterns explain wholly would get an infinite weight.
        self.noise = np.maximum(rest, 1e-6 * float((training**2).mean()))
        self.patterns, self.mean, self.std = eof.patterns, eof.mean, eof.std

    def predict(self, observed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the fields of the components that are most probable given the observations."""
        patterns = self.patterns[:, seen]
        weighted = patterns / self.noise[seen]
        system = weighted @ patterns.T + np.diag(self.std**-2.0)
        components = np.linalg.solve(system, weighted @ (observed - self.mean[seen]).T)
        return self.mean + components.T @ self.patterns


class Dineof(Filler):
    """Truncated singular value decomposition of training and gappy fields together, iterated until gaps agree.

    Gaps begin as no anomaly, and are replaced by what k patterns make of all fields, again and again. The
    number of patterns is the one that best fills the very same gaps in training fields kept out: cells set aside
    at random, as is usual, say little about wide gaps.
    """

    def __init__(
        self,
        places: Places,
        training: np.ndarray,
        ranks: tuple[int, ...] = (1, 2, 4, 7, 12, 20),
        *,
        tolerance: float = 1e-3,
        steps: int = 100,
        most: int = 200,
    ) -> None:
        """Keep what the iteration needs.

        Args:
            places: The cells.
            training: Anomalies of training times only, without gaps, (times, cells).
            ranks: Numbers of patterns to try; one only is taken as it is.
            tolerance: The iteration ends when the gaps change by less than this share of the fields' deviation.
            steps: At most so many iterations for each number of patterns.
            most: At most so many training fields are used, the last ones.

        Raises:
            EarthSSLError: If no rank can be carried by the training fields, or these have gaps.
        """
        self.name = "DINEOF" if len(ranks) > 1 else f"DINEOF, k = {ranks[0]}"
        self.root = np.sqrt(places.area / places.area.mean())
        self.training = np.asarray(training[-most:], dtype=np.float64) * self.root
        self.kept_out = len(self.training) // 4
        largest = min(len(self.training) - self.kept_out, len(places))
        self.ranks = tuple(k for k in sorted(ranks) if 0 < k < largest)
        if not self.ranks or not np.isfinite(self.training).all():
            raise EarthSSLError(
                f"DINEOF: expected ranks below {largest} and training fields without gaps, got {list(ranks)} and "
                f"{int((~np.isfinite(self.training)).sum())} gaps; lower the ranks, or train on more"
            )
        self.tolerance, self.steps = tolerance, steps
        self.chosen = self.ranks[0]

    def estimate(self, values: np.ndarray) -> np.ndarray:
        """Return what the chosen number of patterns makes of the fields."""
        seen = np.isfinite(values)
        if len(self.ranks) > 1:
            self.chosen = self._choose(seen)
        data = np.where(seen, values, 0.0) * self.root
        return self._iterate(self.training, data, seen, self.chosen) / self.root

    def _choose(self, seen: np.ndarray) -> int:
        """Return the number of patterns that fills the gaps best in the last quarter of training."""
        rest, truth = self.training[: -self.kept_out], self.training[-self.kept_out :]
        alike = seen[np.linspace(0, len(seen) - 1, len(truth)).round().astype(int)]
        if alike.all():
            return self.ranks[0]
        begin, errors = np.where(alike, truth, 0.0), []
        for k in self.ranks:
            made = self._iterate(rest, begin, alike, k)
            errors.append(float(((made - truth)[~alike] ** 2).mean()))
            begin = np.where(alike, truth, made)  # the next begins where this one ended
        return self.ranks[int(np.argmin(errors))]

    def _iterate(self, training: np.ndarray, begin: np.ndarray, seen: np.ndarray, k: int) -> np.ndarray:
        """Return the rank-k reconstruction of the gappy fields (weighted), their gaps filled by itself.

        `begin` holds the observations where `seen`, and a first guess elsewhere.
        """
        gappy = slice(len(training), None)
        every = np.concatenate([training, begin])
        gram = every @ every.T
        made = begin
        scale = float(np.sqrt((training**2).mean()))
        _, left = eigh(gram, subset_by_index=[len(gram) - k, len(gram) - 1])
        for _ in range(self.steps):
            # The fields change little from step to step: two power iterations keep up with their leading patterns.
            left, _ = np.linalg.qr(gram @ (gram @ left))
            made = left[gappy] @ (left.T @ every)
            change = np.where(seen, 0.0, made - every[gappy])
            every[gappy] = np.where(seen, begin, made)
            # Only the products with the gappy fields change.
            gram[gappy] = every[gappy] @ every.T
            gram[:, gappy] = gram[gappy].T
            if float(np.sqrt((change**2).mean())) < self.tolerance * scale:
                break
        return made
