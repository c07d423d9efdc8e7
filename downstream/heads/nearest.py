"""The k nearest neighbours as a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ssl.common.errors import EarthSSLError, check_settings
from .base import Head, Samples
from .neighbours import neighbours

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07  # of kNN votes in DINO's protocol (Caron et al. 2021)


@dataclass(frozen=True)
class NearestHead(Head):
    """The k nearest neighbours by cosine of centred features; votes or numbers, weighted exp(cosine / T).

    Features keep their spread: of standardised principal components the last, all noise, would count as the first.

    Attributes:
        neighbours: k to try; those beyond the neighbours that any query may have, none at its own time, are left out.
    """

    neighbours: tuple[int, ...] = NEIGHBOURS
    name: ClassVar[str] = "kNN"

    def __post_init__(self) -> None:
        check_settings("kNN", self, {"neighbours": "≥ 1"})

    def settings(self, train: Samples) -> list[Any]:
        return [k for k in sorted(self.neighbours, reverse=True) if k < len(train)] or [min(self.neighbours)]

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        mean = train.features.mean(axis=0, dtype=np.float64)
        x, z = train.features - mean, queries.features - mean
        most = max(settings)
        out = np.empty((len(settings), len(z), train.targets.shape[1]))
        found, distance = neighbours(x, train.steps, z, queries.steps, most, metric="cosine")
        allowed = int((found >= 0).sum(axis=1).min(initial=most))
        if most > allowed:
            raise EarthSSLError(
                f"kNN: expected k of at most {allowed}, the neighbours that every query has among {len(x)} samples, "
                f"got {most}; lower k"
            )
        for j, k in enumerate(settings):
            weight = np.exp((distance[:, :1] - distance[:, :k]) / TEMPERATURE)
            weight /= weight.sum(axis=1, keepdims=True)
            out[j] = np.einsum("qk,qko->qo", weight, train.targets[found[:, :k]])
        return out
