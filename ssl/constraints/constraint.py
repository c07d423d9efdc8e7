"""Constraint: what every kind of constraint offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .config import ConstraintConfig
from .scene import Scene


class Constraint(ABC):
    """One constraint on one variable, wind or sum.

    Attributes:
        config: Its settings.
        name: Its kind and what it holds for.
        unit: Of its violation.
        needs_truth: Whether it compares with the truth.
        needs_start: Whether it compares with the last step that the encoder saw.
    """

    name: str
    unit: str
    needs_truth = False
    needs_start = False

    def __init__(self, config: ConstraintConfig) -> None:
        self.config = config

    @abstractmethod
    def violation(self, x: Tensor, scene: Scene) -> Tensor:
        """Return by how much departures x violate it: one number in `unit`, 0 where they do not."""

    @abstractmethod
    def penalty(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the mean over the samples of the squared violation, without units; differentiable."""

    def layer(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the departures that satisfy it, the nearest to x that its layer knows."""
        raise NotImplementedError(f"{self.name} has no layer")

    def known(self, scene: Scene) -> bool:
        """Return whether the scene holds what it compares with."""
        return (scene.truth is not None or not self.needs_truth) and (scene.start is not None or not self.needs_start)


def put(x: Tensor, k: int, own: Tensor) -> Tensor:
    """Return fields with variable k replaced."""
    out = x.clone()
    out[:, :, k] = own
    return out
