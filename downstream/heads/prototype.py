"""The nearest prototype as a head: each class is the mean of its examples (Snell et al. 2017, arXiv 1703.05175)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ssl.common.errors import check_settings
from .base import Head, Samples

TEMPERATURES = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class PrototypeHead(Head):
    """Chances of classes by the squared distance to the mean of each one's examples.

    A class that makes up a share s of the samples has a chance proportional to s exp(-d² / 2 T D), with D the mean
    squared distance between prototypes. A class without a sample gets 1 / (n + classes) (Laplace's rule), as in
    `LogisticHead`. Features keep their spread: scaling is for whoever makes them (scaling.py).

    Attributes:
        temperatures: T to try; small ones are sure of the nearest.
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    name: ClassVar[str] = "prototype"
    classifies: bool = True

    def __post_init__(self) -> None:
        check_settings("prototype", self, {"temperatures": "> 0"})

    def settings(self, train: Samples) -> list[Any]:
        return sorted(self.temperatures, reverse=True)

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        count = train.targets.sum(axis=0)
        present, n, classes = count > 0, len(train), len(count)
        means = (train.targets.T @ train.features)[present] / count[present, None]
        queried = np.asarray(queries.features, dtype=np.float64)
        # The squared norm of the query is common to all prototypes: leaving it out changes no chance.
        distance = (means * means).sum(axis=1) - 2 * queried @ means.T
        apart = means[:, None] - means[None]
        unit = float((apart * apart).sum() / max(1, len(means) * (len(means) - 1)))
        out = np.full((len(settings), len(queries), classes), 1 / (n + classes))
        left = 1 - (classes - present.sum()) / (n + classes)
        for j, temperature in enumerate(settings):
            log = np.log(count[present] / n) - distance / (2 * temperature * unit or 1.0)
            chance = np.exp(log - log.max(axis=1, keepdims=True))
            out[j][:, present] = left * chance / chance.sum(axis=1, keepdims=True)
        return out
