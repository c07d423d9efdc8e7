"""What labels give without any encoder: linear and nonlinear rows, with and without the unlabelled steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ..evaluation.equal_input import PCA_COMPONENTS
from ..evaluation.task import Features
from ..evaluation.window_labels import WindowLabels
from ..evaluation.window_task import WindowTask
from ..features.eof import window_components
from ..features.random_features import random_relu
from ..heads.base import Head, Samples, choose
from ..heads.kernel import KernelHead
from ..heads.linear import RidgeHead
from ..results.row import Role, Row

RAW, PCA = "raw window, ridge", "PCA of the window, ridge"
PREDICTABLE = "predictable directions (CCA/LIM), ridge"
RANDOM = "random ReLU features, ridge"
KERNEL, KERNEL_PREDICTABLE = "PCA of the window, kernel", "predictable directions, kernel"
LABELS_ONLY, LINEAR = (RAW, PCA), (RAW, PCA, PREDICTABLE)
NONLINEAR = (RANDOM, KERNEL, KERNEL_PREDICTABLE)
FEW_COMPONENTS = (2, 3, 5)  # beside those of every table: a state may have no more
KERNEL_COMPONENTS = (3, 5, 10, 20, 40)
RANDOM_FEATURES, RANDOM_SEEDS = 512, 2
MOST_LABELLED = 6000  # steps; of more, some evenly chosen train the heads
SHARES = (4, 2)  # a quarter and a half of the labels, in a row, for the curve
FEWEST_LABELLED = 20
FEWEST_YEARS = 8  # of a test block whose years are drawn; in shorter ones, quarters of a year are


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rows of one label column, and what they were fitted on.

    Attributes:
        label: The column, with the training rows that the heads saw and the units of the bootstrap.
        rows: Of all methods; curve rows carry the number of parts in their `chosen`.
        unlabelled, labelled: Training windows, and those of them that have a label.
        used: Of the labelled ones, those that heads were fitted on.
        unit: What the bootstrap draws, in words.
    """

    label: WindowLabels
    rows: Sequence[Row]
    unlabelled: int
    labelled: int
    used: int
    unit: str


@dataclass(frozen=True, eq=False)
class Inputs:
    """Features of all steps, (time, k), by what they are, each with its candidates."""

    raw: Features
    pca: Features
    predictable: Features
    random: Sequence[Features]

    @classmethod
    def of(cls, task: WindowTask, window: int) -> Inputs:
        """Return those of a task; components are fitted on its training steps, labelled or not."""
        raw, training = task.raw(window), task.training_samples()
        fitted = training[np.isin(training, np.flatnonzero(task.fitted_steps()))]
        counts = sorted({*FEW_COMPONENTS, *PCA_COMPONENTS})
        return cls(
            {f"{raw.shape[1]} values": raw},
            window_components(raw, fitted, counts),
            task.predictable(window),
            [{"random features": random_relu(raw, fitted, RANDOM_FEATURES, seed)} for seed in range(RANDOM_SEEDS)],
        )


def evidence(task: WindowTask, label: WindowLabels, inputs: Inputs, window: int) -> Evidence:
    """Return the rows of a label column; every choice is made on validation.

    Raises:
        EarthSSLError: If the labels are too few or constant, or the test block is too short for intervals.
    """
    label, unit = _checked(task, label)
    training = label.rows["train"]
    thinned = replace(label, rows={**label.rows, "train": training[:: -(-len(training) // MOST_LABELLED)]})
    rows = [Row("season of the labels", Role.BASELINE, {label.name: label.climatology[:, 0]})]
    rows += [_fitted(RidgeHead(), name, thinned, features) for name, features in (
        (RAW, inputs.raw), (PCA, inputs.pca), (PREDICTABLE, inputs.predictable)) if features]  # fmt: skip
    rows += [_fitted(RidgeHead(), RANDOM, thinned, features, seed) for seed, features in enumerate(inputs.random)]
    few = {name: values for name, values in inputs.pca.items() if values.shape[1] in KERNEL_COMPONENTS}
    rows.append(_fitted(KernelHead(), KERNEL, thinned, few))
    if inputs.predictable:
        rows.append(_fitted(KernelHead(), KERNEL_PREDICTABLE, thinned, _few_directions(inputs.predictable)))
    best = best_of(rows, label.name, LABELS_ONLY)
    rows += _curve(best, thinned, inputs.raw if best == RAW else inputs.pca)
    return Evidence(thinned, rows, len(task.training_samples()), len(training), len(thinned.rows["train"]), unit)


def best_of(rows: Sequence[Row], target: str, names: Sequence[str]) -> str:
    """Return which of some rows has the least error on validation, the mean over its seeds."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row.name in names and target in row.chosen:
            errors.setdefault(row.name, []).append(float(row.chosen[target]["validation_error"]))
    return min(errors, key=lambda name: float(np.mean(errors[name])))


def part_name(name: str, parts: int) -> str:
    """Return the name of a row that is fitted on one of so many parts of the labels."""
    return f"{name}, 1/{parts} of the labels"


def _curve(name: str, label: WindowLabels, features: Features) -> list[Row]:
    """Return the row anew from each half and each quarter of the labels, in order of time."""
    made = []
    for parts in SHARES:
        for number, part in enumerate(np.array_split(label.rows["train"], parts)):
            own = replace(label, rows={**label.rows, "train": part})
            made.append(_fitted(RidgeHead(), part_name(name, parts), own, features, number))
    return made


def _fitted(head: Head, name: str, label: WindowLabels, features: Features, seed: int | None = None) -> Row:
    """Return the row of a head: fitted on the training labels, features and setting chosen on validation."""
    train, val = ({key: label.samples(values, part) for key, values in features.items()} for part in ("train", "val"))
    choice = choose(head, train, val)
    test = label.samples(features[choice.candidate], "test")
    forecast = head.predict(train[choice.candidate], test, [choice.setting])[0, :, 0]
    chosen = {"features": choice.candidate, "setting": choice.setting, "validation_error": choice.error}
    return Row(name, Role.BASELINE, {label.name: forecast}, seed, {label.name: chosen})


def _few_directions(features: Features) -> Features:
    """Return the leading directions of the most components: a kernel in many dimensions sees only distance."""
    most = list(features)[-1].rpartition(" of ")[2]
    own = {name: values for name, values in features.items() if not most or name.endswith(most)}
    few = {name: values for name, values in own.items() if values.shape[1] in KERNEL_COMPONENTS}
    return few or own


def _checked(task: WindowTask, label: WindowLabels) -> tuple[WindowLabels, str]:
    """Return the labels with the units that the bootstrap draws, and these in words."""
    training = label.rows["train"]
    if label.classes:
        raise EarthSSLError(f"worth: expected numbers as labels, got the classes of {label.name}; one column a class")
    if len(training) < FEWEST_LABELLED:
        raise EarthSSLError(
            f"worth: expected at least {FEWEST_LABELLED} labels of '{label.name}' in the training block, got "
            f"{len(training)}; label more, or widen --labelled"
        )
    for part, rows in label.rows.items():
        values = label.values[rows, 0]
        if part in ("train", "val", "test") and values.std() <= 1e-9 * max(1.0, float(np.abs(values).max())):
            raise EarthSSLError(
                f"worth: expected labels of '{label.name}' that vary in the {part} block, got {len(rows)} that are "
                "constant; there is nothing to be told, leave the column out"
            )
    if len(np.unique(label.units[label.rows["test"]])) >= FEWEST_YEARS:
        return label, "year"
    times = task.store.times.astype("datetime64[M]").astype(int)
    return replace(label, units=times // 3), "quarter of a year"
