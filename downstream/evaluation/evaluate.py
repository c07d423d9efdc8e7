"""A task as the matrix asks for it: one additive skill for every task, layer and encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.model.encoder import Encoder
from ..results.row import Row, names_of
from ..results.target import Target
from .encoders import Contender, features_key
from .task import Task

REFERENCE_SEEDS = 5  # of the random features, at least


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of one method's test forecasts, sample by sample, beside those of the climatology.

    In units of the climatology's mean error at each target.

    Attributes:
        targets: Name of the target (label, lead) of each sample, shape (samples,).
        units: Independent unit (year, storm, week) of each sample, shape (samples,).
        error: Squared error (of probabilities, for classes), shape (samples,).
        reference: The same of the training climatology, shape (samples,).
    """

    targets: np.ndarray
    units: np.ndarray
    error: np.ndarray
    reference: np.ndarray

    def __post_init__(self) -> None:
        shapes = {self.targets.shape, self.units.shape, self.error.shape, self.reference.shape}
        if len(shapes) > 1 or self.error.ndim != 1 or not len(self.error):
            raise EarthSSLError(
                f"expected target, unit, error and reference of each of some samples, got shapes {shapes}"
            )
        if not (np.isfinite(self.error).all() and np.isfinite(self.reference).all() and self.reference.sum() > 0):
            raise EarthSSLError(
                "expected finite errors and a climatology that is not perfect, got others; a target is missing"
            )

    def skill(self, weights: np.ndarray | None = None) -> float:
        """Return 1 - Σ weight × error / Σ weight × reference: 1 is perfect, 0 as good as the climatology."""
        w = np.ones(len(self.error)) if weights is None else weights
        total = float((w * self.reference).sum())
        return 1 - float((w * self.error).sum()) / total if total > 0 else float("nan")

    def by_unit(self) -> pd.DataFrame:
        """Return the sums of `error` and `reference` by `target`, in the order met, and `unit`, in its own."""
        own = {"target": self.targets, "unit": self.units, "error": self.error, "reference": self.reference}
        names = list(dict.fromkeys(self.targets))
        summed = pd.DataFrame(own).groupby(["target", "unit"], as_index=False).sum()
        return summed.sort_values(
            ["target", "unit"], key=lambda c: c.map(names.index) if c.name == "target" else c, ignore_index=True
        )


def evaluate(task: Task[Any], encoder: Encoder, layers: Sequence[int]) -> dict[int | str, Evaluation]:
    """Return the test errors of the task's head on each layer's frozen features, settings chosen on validation.

    All features of a layer (its poolings) compete on validation, as they do in the task's own table; beside them, named
    "LAYER, POOLING", stand the poolings that the task shows alone.

    Args:
        task: Any whose targets have errors.
        encoder: Frozen.
        layers: Blocks, counted from 0.

    Raises:
        EarthSSLError: If the encoder does not suit the task's samples.
    """
    task.check(encoder.config)
    one = Contender("pretrained", 0, encoder.eval(), features_key(encoder), {})
    targets = task.targets()
    rows: list[tuple[int | str, Row]] = [*task.by_layer(one, layers).items(), *task.by_pooling(one, layers).items()]
    return {name: _errors(targets, [row]) for name, row in rows}


def references(task: Task[Any]) -> dict[str, Evaluation]:
    """Return the test errors of what an encoder must beat, by row: the task's baselines, and those on equal input."""
    window = task.config.encoder.window
    seeds = task.config.random_seeds and max(REFERENCE_SEEDS, task.config.random_seeds)  # 0 asks for none
    rows = [*task.baselines(window), *task.equal_input(window, seeds)]
    targets = [target for target in task.targets() if target.errors is not None]
    whole = [
        row for row in rows if row.reference is not False and all(target.name in row.forecast for target in targets)
    ]
    return {name: _errors(targets, [row for row in whole if row.name == name]) for name in names_of(whole)}


def _errors(targets: Sequence[Target], rows: Sequence[Row]) -> Evaluation:
    """Return the errors at all targets of the seeds of one row, their mean: skill is linear in them.

    Each target's errors are divided by its climatology's mean error: metres, degrees and chances weigh alike, and the
    skill is the mean of the targets' skills, weighted by their samples.
    """
    own = [
        (target, target.errors, target.reference_errors)
        for target in targets
        if target.errors is not None and target.reference_errors is not None
    ]
    if not own:
        raise EarthSSLError("expected a target with an additive error for the matrix, got none; leave the task out")
    names, units, error, reference = [], [], [], []
    for target, errors, of_climatology in own:
        scale = float(np.mean(of_climatology))
        if not scale > 0:
            raise EarthSSLError(
                f"expected a climatology that is not perfect, got none for the target '{target.name}'; leave it out"
            )
        names.append(np.full(len(of_climatology), target.name, dtype=object))
        units.append(target.units if target.matrix_units is None else target.matrix_units)
        error.append(np.mean([errors(row) for row in rows], axis=0) / scale)
        reference.append(of_climatology / scale)
    return Evaluation(*(np.concatenate(part) for part in (names, units, error, reference)))
