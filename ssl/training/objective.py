"""The seam to pretext/: what an objective is, and what may solve it without understanding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..common.errors import EarthSSLError, nearest
from ..constraints.field_constraints import FieldConstraints
from ..data.windows import Windows
from ..fields.batch import Batch
from ..fields.grid import LatLonGrid
from ..model.encoder import Encoder, EncoderConfig

SKILL = "skill"
CENSORS = ("validity", "position", "statistics")


@dataclass(frozen=True)
class Outcome:
    """What an objective says of a batch.

    Attributes:
        loss: To be minimised.
        terms: Named scalars for the log, detached; "skill" among them: 1 where the task is solved, 0 for its
            trivial answer (chance, or the climatology).
        posed: False where the batch holds nothing to solve: the loss is 0 and so is its gradient, and there is no
            skill among the terms.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]
    posed: bool = True


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
        constraints: What rebuilt fields are held to; None for nothing.
    """

    encoder: Encoder
    variables: tuple[str, ...]
    grid: LatLonGrid
    constraints: FieldConstraints | None = None


class Cue(ABC):
    """A solver of a pretext task that uses one trivial cue, without an encoder; the audit sets it beside the task.

    Attributes:
        name: What it looks at, in a few words.
        encoder: The encoder that was trained with the task, set before `fit`: for tasks whose targets are its features.
    """

    name: str
    encoder: Encoder | None = None

    def fit(self, objective: Objective, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:  # noqa: B027
        """Learn what is to be learnt, from batches of training windows; nothing by default."""

    @abstractmethod
    def skill(self, objective: Objective, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the task's "skill" of this solver on a batch, with the draws that the objective makes of it."""


class Objective(nn.Module, ABC):
    """A pretext task: owns its heads, borrows the encoder, returns a loss.

    Attributes:
        censors: What the audit may leave of the encoder's input when it asks whether a cue alone solves the
            task (see pretext/censoring.py).
        compares: Whether the task tells the windows of a batch from one another, so that validation batches must
            hold windows that are far apart.
        bars: Names of the augmentations that would make its answers untrue.
        forecasts: Whether it tells fields ahead, at each of `config.leads`, by `predict(encoder, batch, picks)`.
        constrained: Whether it rebuilds fields and holds them to the constraints of its context.
    """

    censors: ClassVar[tuple[str, ...]] = CENSORS
    compares: ClassVar[bool] = False
    forecasts: ClassVar[bool] = False
    constrained: ClassVar[bool] = False
    bars: ClassVar[tuple[str, ...]] = ()

    def settle(self, windows: Windows) -> None:
        """Learn, before training, what the task itself needs to know of the training windows; nothing by default.

        It belongs to the state (buffers), so that a resumed run goes on with it. Called once, on every rank alike; the
        windows may be longer than the task's span.
        """

    @abstractmethod
    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the loss and its terms; every draw comes from `batch.keys` or `batch.number`."""

    def example(self, encoder: Encoder, batch: Batch) -> Example | None:
        """Return fields to be looked at, of the first window; None where the task rebuilds no fields."""
        return None

    def cues(self) -> list[Cue]:
        """Return new solvers of the task that use a trivial cue only."""
        return []

    def after_step(self, encoder: Encoder, progress: float, taken: Tensor | float = 1.0) -> None:
        """Do what follows every step of the optimiser (a teacher's update).

        Args:
            encoder: As the step left it.
            progress: In (0, 1] of the run.
            taken: 1, or 0 where the step was skipped and nothing may move; on the device, not to be read.
        """


class ObjectiveConfig(ABC):
    """Settings of a pretext task, read from YAML; each task has a frozen dataclass of this kind."""

    weight: float

    @abstractmethod
    def build(self, context: Context) -> Objective:
        """Return the objective."""

    def span(self, encoder: EncoderConfig) -> int:
        """Return how many steps of a window the task wants; the encoder's window unless it compares states."""
        return encoder.window


def over_chance(accuracy: Tensor, classes: int) -> Tensor:
    """Return the skill of a classifier: 0 at the accuracy of chance among equally frequent classes, 1 at 1."""
    return (accuracy - 1 / classes) / (1 - 1 / classes)


def unknown_task(name: str, known: list[str]) -> EarthSSLError:
    """Return the error for a pretext task that is not registered."""
    return EarthSSLError(f"objectives: expected {', '.join(known)}, got '{name}'." + nearest(name, known))
