"""The task of a control: to tell its hidden label from few labelled steps, with the heads that every task has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...ssl.sources.controls.recorded import recorded_control
from ...ssl.store.store import Store
from ..evaluation.config import TaskConfig
from ..evaluation.encoders import Contender
from ..evaluation.equal_input import equal_input_rows
from ..evaluation.label_fractions import label_fractions
from ..evaluation.task import Decoders, Features
from ..evaluation.window_labels import WindowLabels, block_rows
from ..evaluation.window_task import WindowTask
from ..features.predictable import predictable_directions
from ..results.row import Role, Row

LABEL, TRUTH = "label", "true state"
UNIT = 100  # steps of a test unit: longer than anything here remembers
COMPONENTS = (3, 10, 20, 40, 80)  # of the window
DIRECTIONS = (60,)
AHEAD = (1, 2, 4)


@dataclass(frozen=True)
class ControlTaskConfig(TaskConfig):
    """Settings of the task, beside those of every task.

    Attributes:
        labels: Numbers of labelled training steps.
        poolings: Of the features.
        components: Of the tokens, to choose from.
    """

    task: str = "control"
    random_seeds: int = 1
    labels: list[int] = field(default_factory=lambda: [50, 200, 1000])
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs"])
    components: list[int] = field(default_factory=lambda: [3, 10, 20, 40])


class ControlTask(WindowTask[ControlTaskConfig]):
    """The label of a control at the last step of a window; every training step is a unit, and 100 test steps are."""

    name, what = "control", "Hidden label of a control"
    convention = "Ridge on few labelled steps; features and penalty chosen on the validation block."
    Config = ControlTaskConfig
    fit_steps = 4000
    unit = "step"
    leads = AHEAD
    components = COMPONENTS

    def __init__(self, config: ControlTaskConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.control = recorded_control(store.manifest["attributes"])

    @cached_property
    def labels(self) -> Sequence[WindowLabels]:
        values = self.control.truth.label
        rows = block_rows(self.store, self.config.encoder.window, 0, np.isfinite(values))
        step = np.arange(len(values))
        units = np.where(step < rows["val"].min(), step, len(step) + step // UNIT)
        mean = np.zeros((len(rows["test"]), 1))  # nothing of the few labels stands in what skill refers to
        return [WindowLabels(LABEL, values[:, None], rows, units, mean)]

    def predictable(self, window: int) -> Features:
        return predictable_directions(self.store, window, AHEAD, DIRECTIONS)

    def training_samples(self) -> np.ndarray:
        return np.asarray(self.labels[0].rows["train"])

    def references(self) -> Iterator[Row]:
        """Yield rows with all their candidate features, nothing told yet: those on equal input, and the true state."""

        def unfitted(name: str, role: Role, features: Features, seed: Any = None) -> Row:
            return Row(name.removesuffix(f" [{self.head}]"), role, {}, seed, features=features)

        window = self.config.encoder.window
        raw, training = self.raw(window), self.training_samples()
        seeds, found = self.config.random_seeds, self.predictable(window)
        yield from equal_input_rows(unfitted, self.head, raw, training, seeds, found, self.components)
        yield Row(TRUTH, Role.KNOWN, {}, features={TRUTH: self.control.truth.state})

    def encoded(self, encoder: Contender) -> Row:
        """Return the row of a frozen encoder with all its candidate features: every layer read, mean and token PCs."""
        (features,) = self.embedded(encoder, self.layers(encoder)).values()
        return Row(encoder.kind, Role(encoder.kind), {}, encoder.seed, features=features)

    def scored(self, row: Row, seed: int) -> list[dict[str, Any]]:
        """Return the errors of a row by number of labels and draw: labels, draw, unit sums of error and reference.

        Args:
            row: With its candidate features.
            seed: Of the draws of labels, the same for all rows.
        """
        units = self.label_units()
        shares = label_fractions(
            units, [count / len(units) for count in self.config.labels], draws=self.config.label_draws, seed=seed
        )
        (target,), test = self.targets(), self.labels[0].units[self.labels[0].rows["test"]]
        found, at = np.unique(test, return_inverse=True)
        assert target.errors is not None
        assert target.reference_errors is not None
        made = []
        for share in shares:
            told = self.fitted(row.name, row.role, row.features, row.seed, share.years)
            sums = np.bincount(at, target.errors(told), len(found))
            reference = np.bincount(at, target.reference_errors, len(found))
            made.append({"labels": len(share.years), "draw": share.draw, "features": told.chosen[LABEL]["features"],
                         "error": sums, "reference": reference})  # fmt: skip
        return made
