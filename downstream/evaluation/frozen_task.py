"""FrozenTask: a downstream task as the matrix sees it, one additive skill for every task, layer and encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.model.encoder import Encoder


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of one method's test forecasts, sample by sample, beside those of the climatology.

    Attributes:
        units: Independent unit (year, storm, week) of each sample, shape (samples,).
        error: Squared error (of probabilities, for classes), shape (samples,).
        reference: The same of the training climatology, shape (samples,).
    """

    units: np.ndarray
    error: np.ndarray
    reference: np.ndarray

    def __post_init__(self) -> None:
        shapes = {self.units.shape, self.error.shape, self.reference.shape}
        if len(shapes) > 1 or self.error.ndim != 1 or not len(self.error):
            raise EarthSSLError(f"expected unit, error and reference of each of some samples, got shapes {shapes}")
        if not (np.isfinite(self.error).all() and np.isfinite(self.reference).all() and self.reference.sum() > 0):
            raise EarthSSLError(
                "expected finite errors and a climatology that is not perfect, got others; a target is missing"
            )

    def skill(self, weights: np.ndarray | None = None) -> float:
        """Return 1 - Σ weight × error / Σ weight × reference: 1 is perfect, 0 as good as the climatology."""
        w = np.ones(len(self.error)) if weights is None else weights
        total = float((w * self.reference).sum())
        return 1 - float((w * self.error).sum()) / total if total > 0 else float("nan")

    def by_unit(self) -> Evaluation:
        """Return the same with one sample a unit, in the order of the units: sums lose nothing."""
        found, at = np.unique(self.units, return_inverse=True)
        return Evaluation(found, np.bincount(at, self.error), np.bincount(at, self.reference))


class FrozenTask(ABC):
    """What a frozen encoder is worth for one task.

    Attributes:
        name: Of the task.
        unit: What is independent of its like: "year", "storm", "week".
    """

    name: str
    unit: str

    @abstractmethod
    def evaluate(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Evaluation]:
        """Return the errors on the test block of a head on each layer's features, settings chosen on validation.

        Args:
            encoder: In evaluation mode, without gradients.
            layers: Blocks, counted from 0.
        """

    @abstractmethod
    def references(self) -> dict[str, Evaluation]:
        """Return the errors of what an encoder must beat, on the same samples."""
