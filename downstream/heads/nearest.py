"""The k nearest neighbours as a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ssl.common.errors import EarthSSLError
from .base import Head, Samples, standardised
from .neighbours import neighbours

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07  # of kNN votes in DINO's protocol (Caron et al. 2021)


@dataclass(frozen=True)
class NearestHead(Head):
    """The k nearest neighbours by cosine of centred features; votes or numbers, weighted exp(cosine / T).

    Attributes:
        neighbours: k to try; those beyond the neighbours that any query may have are left out.
        exclusion: No neighbour lies within ± this many time steps of the query (0: not at the query's own):
            the state of the next day is the same weather.
        temperature: T; infinity weighs all k alike.
        standardise: Give each feature unit variance over the fitted samples. Not for principal components:
            the last, all noise, would count as much as the first.
    """

    neighbours: tuple[int, ...] = NEIGHBOURS
    exclusion: int = 0
    temperature: float = TEMPERATURE
    standardise: bool = False
    name: ClassVar[str] = "kNN"

    def __post_init__(self) -> None:
        if not self.neighbours or min(self.neighbours) < 1 or self.exclusion < 0 or not self.temperature > 0:
            raise EarthSSLError(
                f"expected k ≥ 1, an exclusion ≥ 0 and a temperature > 0, got {list(self.neighbours)}, "
                f"{self.exclusion}, {self.temperature}"
            )

    def settings(self, train: Samples) -> list[Any]:
        # However a query lies, at most 2 · exclusion + 1 steps are forbidden to it.
        allowed = len(train) - (2 * self.exclusion + 1)
        usable = [k for k in sorted(self.neighbours, reverse=True) if k <= allowed]
        return usable or [min(self.neighbours)]

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        if self.standardise:
            x, z = standardised(train.features, queries.features)
        else:
            mean = train.features.mean(axis=0, dtype=np.float64)
            x, z = train.features - mean, queries.features - mean
        most = max(settings)
        out = np.empty((len(settings), len(z), train.targets.shape[1]))
        found, distance = neighbours(
            x, train.steps, z, queries.steps, most, exclude=self.exclusion, metric="cosine"
        )  # fmt: skip
        allowed = int((found >= 0).sum(axis=1).min(initial=most))
        if most > allowed:
            raise EarthSSLError(
                f"kNN: expected k of at most {allowed}, the neighbours that every query has beyond ± {self.exclusion} "
                f"steps among {len(x)} samples, got {most}; lower k or the exclusion"
            )
        for j, k in enumerate(settings):
            weight = np.exp((distance[:, :1] - distance[:, :k]) / self.temperature)
            weight /= weight.sum(axis=1, keepdims=True)
            out[j] = np.einsum("qk,qko->qo", weight, train.targets[found[:, :k]])
        return out
