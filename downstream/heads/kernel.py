"""A kernel head: what a smooth nonlinear function of the features can say, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.kernel_approximation import Nystroem

from .base import Head, Samples, standardised
from .ridge_path import RidgePath

WIDTHS = (0.03, 0.15, 0.6)  # of the kernel exp(-width · mean squared difference of the scaled features)
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-5.0, 1.5, 0.5))
LANDMARKS = 400


@dataclass(frozen=True)
class KernelHead(Head):
    """Kernel ridge regression with Gaussian kernels for every target.

    Exact up to `landmarks` samples; with more, in the space of the kernels of so many of them, drawn at random
    (Nyström; Williams & Seeger 2001).

    Attributes:
        widths: To choose from; the smallest is nearly linear.
        penalties: Multiples of the number of samples.
        landmarks: Most samples that span the space.
        standardise: Whether each feature is divided by its own standard deviation; else all by that of them together,
            as suits principal components whose spread means something.
    """

    widths: tuple[float, ...] = WIDTHS
    penalties: tuple[float, ...] = PENALTIES
    landmarks: int = LANDMARKS
    standardise: bool = True
    name: ClassVar[str] = "kernel"

    def settings(self, train: Samples) -> list[Any]:
        return [(width, penalty) for penalty in sorted(self.penalties, reverse=True) for width in sorted(self.widths)]

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        if self.standardise:
            x, z = standardised(train.features, queries.features)
        else:
            mean = train.features.mean(axis=0)
            scale = max(float((train.features - mean).std()), np.finfo(float).tiny)
            x, z = (train.features - mean) / scale, (queries.features - mean) / scale
        out = np.empty((len(settings), len(queries), train.targets.shape[1]))
        for width in sorted({width for width, _ in settings}):
            own = [k for k, setting in enumerate(settings) if setting[0] == width]
            space = Nystroem(gamma=width / x.shape[1], n_components=min(self.landmarks, len(train)), random_state=0)
            path = RidgePath.fit(space.fit_transform(x), train.targets, standardise=False)
            out[own] = path.predict(space.transform(z), [settings[k][1] for k in own])
        return out
