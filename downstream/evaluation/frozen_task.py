"""FrozenTask: a downstream task as the matrix sees it, where it is not behind the one seam yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ...ssl.model.encoder import Encoder
from .evaluate import Evaluation


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
