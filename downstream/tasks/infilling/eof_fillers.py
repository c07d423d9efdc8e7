"""Fill gaps with leading patterns: regression on training EOFs, and the iteration that learns from gappy fields too.

DINEOF: Beckers & Rixen 2003, doi 10.1175/1520-0426(2003)020<1839:ECADFF>2.0.CO;2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh

from ....ssl.common.errors import EarthSSLError
from ...features.eof import Eof
from .anomalies import Anomalies
from .fillers import (
    Climatology,
    Filler,
    InverseDistance,
    LinearFiller,
    MeanOfObserved,
    Nearest,
    OptimalInterpolation,
    OrdinaryKriging,
    Places,
)


class PcaRegression(LinearFiller):
    """The k leading EOFs of training fields, fitted to the observed cells.

    Components have the variance they had in training (a prior), and observations an error of the variance
    that the k patterns leave unexplained in each cell.
    """

    def __init__(self, places: Places, training: np.ndarray, k: int) -> None:
        """Learn the patterns from anomalies of training times only, (times, cells), without gaps."""
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


def baselines(anomalies: Anomalies, ranks: Sequence[int] = (15, 40)) -> list[Filler]:
    """Return what an encoder must beat, learnt from the fit period where there is something to learn."""
    places, fit = anomalies.places, anomalies.fit
    most = min(len(fit) - 2, len(places))
    patterns = [PcaRegression(places, fit, k) for k in sorted({min(k, most) for k in ranks})]
    return [
        Climatology(),
        MeanOfObserved(places),
        Nearest(places),
        InverseDistance(places),
        OrdinaryKriging(places),
        *patterns,
        Dineof(places, fit),
        OptimalInterpolation(places, fit),
    ]


def learnt_from(filler: Filler, places: Places, fields: np.ndarray) -> Filler:
    """Return optimal interpolation, or a regression on patterns, learnt from other fields, (time, cells)."""
    if isinstance(filler, PcaRegression):
        most = min(len(fields) - 2, len(places))
        return PcaRegression(places, fields, max(1, min(len(filler.patterns), most)))
    return OptimalInterpolation(places, fields)
