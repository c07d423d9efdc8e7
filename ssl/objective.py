"""The seam to pretext/: what an objective is, and the sum of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .batch import Batch
from .encoder import Encoder
from .errors import EarthSSLError, nearest
from .grid import LatLonGrid


@dataclass(frozen=True)
class Outcome:
    """What an objective says of a batch.

    Attributes:
        loss: To be minimised.
        terms: Named scalars for the log, detached.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Example:
    """One window of normalised fields, (time, variable, row, column) each, NaN where there is nothing to show.

    Attributes:
        truth: As observed.
        shown: What the encoder saw.
        rebuilt: What the objective made of it, where it was hidden and observed.
    """

    truth: Float[Tensor, "time variable row column"]
    shown: Float[Tensor, "time variable row column"]
    rebuilt: Float[Tensor, "time variable row column"]


@dataclass(frozen=True)
class Context:
    """What an objective may know when it is built.

    Attributes:
        encoder: The encoder it will be given; for its width, patch and window.
        variables: Canonical names of the store's channels.
        grid: The store's grid.
    """

    encoder: Encoder
    variables: tuple[str, ...]
    grid: LatLonGrid


class Objective(nn.Module, ABC):
    """A pretext task: owns its heads, borrows the encoder, returns a loss."""

    @abstractmethod
    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the loss and its terms; every draw comes from `batch.keys` or `batch.number`."""

    @abstractmethod
    def example(self, encoder: Encoder, batch: Batch) -> Example | None:
        """Return fields to be looked at, of the first window; None where the task rebuilds no fields."""


class ObjectiveConfig(ABC):
    """Settings of a pretext task, read from YAML; each task has a frozen dataclass of this kind."""

    weight: float

    @abstractmethod
    def build(self, context: Context) -> Objective:
        """Return the objective."""


class WeightedSum(nn.Module):
    """Several objectives on one encoder: the weighted sum of their losses, terms named `task/term`."""

    def __init__(self, objectives: dict[str, Objective], weights: dict[str, float]) -> None:
        """Join the objectives.

        Args:
            objectives: By name, at least one.
            weights: Weight of each, ≥ 0.

        Raises:
            EarthSSLError: If there is none, or a weight is missing or negative.
        """
        super().__init__()
        if not objectives:
            raise EarthSSLError("objectives: expected at least one pretext task, got none; name one, such as masking")
        for name in objectives:
            if name not in weights or not weights[name] >= 0:
                raise EarthSSLError(f"objectives.{name}.weight: expected a number ≥ 0, got {weights.get(name)}")
        self.objectives = nn.ModuleDict(objectives)
        self.weights = weights

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the weighted sum, with every task's own loss and terms by name."""
        terms: dict[str, Tensor] = {}
        losses: list[Any] = []
        for name, objective in self.objectives.items():
            outcome = objective(encoder, batch)
            losses.append(self.weights[name] * outcome.loss)
            terms[f"{name}/loss"] = outcome.loss.detach()
            terms.update({f"{name}/{term}": value for term, value in outcome.terms.items()})
        total = sum(losses[1:], losses[0])
        return Outcome(total, {"loss": total.detach(), **terms})


def build_objectives(configs: dict[str, ObjectiveConfig], context: Context) -> WeightedSum:
    """Return the sum of the configured tasks."""
    return WeightedSum(
        {name: config.build(context) for name, config in configs.items()},
        {name: config.weight for name, config in configs.items()},
    )


def unknown_task(name: str, known: list[str]) -> EarthSSLError:
    """Return the error for a pretext task that is not registered."""
    return EarthSSLError(f"objectives: expected {', '.join(known)}, got '{name}'." + nearest(name, known))
