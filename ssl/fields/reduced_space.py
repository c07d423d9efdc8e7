"""Reduced-space optimal interpolation: whole fields from some of their cells, by the leading patterns of a covariance.

The field is a sum of k patterns with amplitudes of known variance, and what they leave over counts as an error of
the observations, cell by cell: the most probable amplitudes solve k × k equations, whatever is observed (Kaplan et al.
1997, doi 10.1029/97JC01734). The covariance may be localised first (Gaspari & Cohn 1999, doi 10.1002/qj.49712555417),
so that far cells which agree by chance do not speak for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.linalg import eigh
from torch import Tensor

EARTH_RADIUS_KM = 6371.0
NEGLIGIBLE = 1e-6  # of the leading component's variance: below it a component is rounding
COUNTS = (2, 4, 8, 16, 32, 64, 128, 192, 256, 384)
NUGGETS = (0.003, 0.01, 0.03, 0.1)  # error of an observation beyond what the patterns leave, over the mean variance
NUGGET = 0.01  # while the number of patterns and the localisation are being chosen
MEMORIES = (1.0, 0.5)  # shares of the samples over which their weights fall to 1/e, back from the last one


def great_circle_km(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return the distance between any two of some places given in degrees, shape (place, place)."""
    # From the chord: exact for near points, where the arc cosine of a product is not.
    points = unit_vectors(lat, lon)
    square = np.clip(2 - 2 * points @ points.T, 0, 4)
    square[np.diag_indices(len(points))] = 0
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(square) / 2))


def straight_km(great_circle: np.ndarray) -> np.ndarray:
    """Return distances through the sphere, from those along it: a taper of these is a correlation however wide."""
    return np.asarray(2 * EARTH_RADIUS_KM * np.sin(great_circle / (2 * EARTH_RADIUS_KM)))


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return points on the unit sphere, degrees to (point, 3)."""
    y, x = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], 1)


def taper(ratio: np.ndarray) -> np.ndarray:
    """Return Gaspari & Cohn's correlation function (their 4.10): 1 at 0, smooth, 0 from a ratio of 2 on."""
    z = np.asarray(ratio, dtype=np.float64)
    near = 1 + z**2 * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
    safe = np.maximum(z, 1.0)
    far = 4 - 5 * safe + safe**2 * (5 / 3 + safe * (5 / 8 + safe * (-1 / 2 + safe / 12))) - 2 / (3 * safe)
    return np.where(z <= 1, near, np.where(z < 2, far, 0.0))


def components(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading principal components of rows about zero.

    Args:
        rows: (sample, cell).
        count: How many.

    Returns:
        Orthonormal patterns (count, cell), and each one's share of the mean square of the rows (count,), in falling
        order. Where the rows do not carry so many, the others are 0.
    """
    wide = rows.shape[1] > rows.shape[0]
    rows = rows.astype(np.float64)
    gram = (rows @ rows.T if wide else rows.T @ rows) / len(rows)
    total = max(float(np.trace(gram)), np.finfo(float).tiny)
    variance, vectors = _leading(gram, count)
    found = int((variance > NEGLIGIBLE * max(variance[0], 0.0)).sum())
    directions = rows.T @ vectors[:, :found] if wide else vectors[:, :found]
    patterns, shares = np.zeros((count, rows.shape[1])), np.zeros(count)
    patterns[:found] = np.linalg.qr(directions)[0].T
    shares[:found] = variance[:found] / total
    return patterns, shares


def _leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the greatest eigenvalues of a symmetric matrix, falling, and their vectors as columns."""
    found = min(count, len(matrix))
    values, vectors = eigh(matrix, subset_by_index=(len(matrix) - found, len(matrix) - 1))
    return values[::-1], vectors[:, ::-1]


@dataclass(frozen=True, eq=False)
class Reduced:
    """A chosen reduced space.

    Attributes:
        modes: Patterns times the standard deviation of their amplitudes, (mode, cell).
        noise: Variance of an observation's error, what the patterns leave included, (cell,).
        localisation_km: Distance, through the sphere, at which the localisation falls to 0.21; None without one.
        memory: Share of the samples over which their weights fall to 1/e; None where all count alike.
        count: Number of patterns; 0 where none helps, and the only mode is 0.
        nugget: Error of an observation beyond what the patterns leave, over the mean variance.
        error: On the held-out fields, over that of no anomaly.
    """

    modes: np.ndarray
    noise: np.ndarray
    localisation_km: float | None
    memory: float | None
    count: int
    nugget: float
    error: float

    @property
    def settings(self) -> tuple[float | None, float | None, int, float]:
        """Localisation, memory, number of patterns and nugget."""
        return self.localisation_km, self.memory, self.count, self.nugget


class ReducedSpaces:
    """The reduced spaces of some fields, one of which is chosen by how it fills gaps in fields held out."""

    def __init__(
        self,
        rows: np.ndarray,
        early: int,
        root: np.ndarray,
        most: int,
        apart_km: np.ndarray | None = None,
        localisations_km: Sequence[float] = (),
    ) -> None:
        """Keep what the choice needs.

        Args:
            rows: Anomalies, (sample, cell), without gaps.
            early: Samples at the start that stand for all of them while settings are being chosen.
            root: Of each cell's area over the mean, (cell,).
            most: Patterns at most.
            apart_km: Distance along the sphere between any two cells; needed to localise.
            localisations_km: Distances, through the sphere, to choose from; none: no localisation.
        """
        self.rows, self.root, self.most = np.asarray(rows, dtype=np.float64), root, most
        self.early, self.apart = early, None if apart_km is None else straight_km(apart_km)
        self.localisations: tuple[float | None, ...] = tuple(localisations_km) or (None,)
        self._of_early: dict[tuple[float | None, float | None], np.ndarray] = {}
        self._whole: dict[tuple[float | None, float | None], np.ndarray] = {}
        self.counts = [*(count for count in COUNTS if count < most), most]

    def choose(self, error: Callable[[np.ndarray, np.ndarray], float]) -> Reduced:
        """Return the space, of all rows, whose settings fill the held-out fields best.

        First the localisation and the number of patterns, then how far back samples count, then the nugget; no pattern
        at all where none helps.

        Args:
            error: Of modes (mode, cell) and noise (cell,): squared error over that of no anomaly.
        """
        least, where, memory, count, nugget = 1.0, self.localisations[0], None, 0, NUGGET
        early = self.rows[: self.early]
        best = np.zeros((1, self.rows.shape[1]))
        for localisation in self.localisations:
            every = self._early(localisation, None)
            for number in self.counts:
                made = error(every[:number], noise(every[:number], _variance(early, None), NUGGET))
                if made < least:
                    least, where, count, best = made, localisation, number, every[:number]
        for other in MEMORIES if count else ():
            modes = self._early(where, other)[:count]
            made = error(modes, noise(modes, _variance(early, other), NUGGET))
            if made < least:
                least, memory, best = made, other, modes
        for more in NUGGETS if count else ():
            made = error(best, noise(best, _variance(early, memory), more))
            if made < least:
                least, nugget = made, more
        modes, level = self.learnt((where, memory, count, nugget))
        return Reduced(modes, level, where, memory, count, nugget, least)

    def learnt(
        self, settings: tuple[float | None, float | None, int, float], kept: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return modes and noise of all rows, or of those that are kept (a mask), under chosen settings.

        Args:
            settings: Localisation, memory, number of patterns, nugget: `Reduced.settings`.
            kept: Which rows to learn from, (sample,).
        """
        where, memory, count, nugget = settings
        rows = self.rows if kept is None else self.rows[kept]
        if not count:
            modes = np.zeros((1, rows.shape[1]))
        elif kept is not None:
            modes = self._modes(rows, where, memory, count)
        else:
            if (where, memory) not in self._whole:
                self._whole[where, memory] = self._modes(rows, where, memory, self.most)
            modes = self._whole[where, memory][:count]
        return modes, noise(modes, _variance(rows, memory), nugget)

    def _early(self, where: float | None, memory: float | None) -> np.ndarray:
        if (where, memory) not in self._of_early:
            self._of_early[where, memory] = self._modes(self.rows[: self.early], where, memory, self.most)
        return self._of_early[where, memory]

    def _modes(self, rows: np.ndarray, where: float | None, memory: float | None, count: int) -> np.ndarray:
        weighted = rows * self.root * np.sqrt(memory_weights(len(rows), memory))[:, None]
        if where is None:
            patterns, shares = components(weighted, count)
            return patterns * np.sqrt(shares * (weighted**2).sum(1).mean())[:, None] / self.root
        assert self.apart is not None
        values, vectors = _leading(weighted.T @ weighted / len(rows) * taper(self.apart / where), count)
        return np.asarray((vectors * np.sqrt(np.maximum(values, 0))).T / self.root)


def memory_weights(count: int, memory: float | None) -> np.ndarray:
    """Return the weights of samples in order, mean 1, that fall to 1/e over a share of them; None or inf: all alike."""
    if memory is None:
        return np.ones(count)
    weights = np.exp((np.arange(count) - count + 1) / (memory * count))
    return np.asarray(weights / weights.mean())


def _variance(rows: np.ndarray, memory: float | None) -> np.ndarray:
    return np.asarray(memory_weights(len(rows), memory) @ rows**2 / len(rows))


def noise(modes: np.ndarray, variance: np.ndarray, nugget: float) -> np.ndarray:
    """Return what counts as the error of an observation: the variance that modes leave in its cell, and a nugget."""
    usual = float(variance[variance > 0].mean()) if (variance > 0).any() else 1.0
    return np.maximum(variance - (modes**2).sum(0), 0.0) + nugget * usual


@torch.no_grad()
def conditional_mean(
    modes: Float[Tensor, "mode cell"],
    noise: Float[Tensor, " cell"],
    values: Float[Tensor, "batch cell"],
    seen: Bool[Tensor, "batch cell"],
) -> Float[Tensor, "batch cell"]:
    """Return the most probable fields given observations: of each sample `values` where `seen`.

    Observed cells get an estimate too, which is not their observation.
    """
    count = modes.shape[0]
    weight = seen.to(modes.dtype) / noise
    right = (weight * torch.where(seen, values, torch.zeros_like(values)).to(modes.dtype)) @ modes.T
    by_cell = (modes / noise.sqrt()).T.contiguous()
    picked = (by_cell[own] for own in seen)  # one by one: all at once would take batch × modes × cells
    # Products may be in single precision; their inverse is not.
    system = torch.stack([rows.T @ rows for rows in picked]).double() + torch.eye(
        count, dtype=torch.float64, device=modes.device
    )
    amplitudes = torch.cholesky_solve(right.double()[..., None], torch.linalg.cholesky(system))[..., 0]
    return amplitudes.to(modes.dtype) @ modes
