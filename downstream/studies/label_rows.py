"""What labels give without any encoder: linear and nonlinear rows, with and without the unlabelled steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ..evaluation.equal_input import PCA_COMPONENTS
from ..evaluation.kernel_forecast import kernel_forecasts
from ..evaluation.task import Features
from ..evaluation.window_labels import WindowLabels
from ..evaluation.window_task import WindowTask
from ..features.eof import window_components
from ..features.random_features import random_relu
from ..heads.base import Head, choose
from ..heads.kernel import KernelHead
from ..heads.linear import RidgeHead
from ..metrics.paired_bootstrap import FEWEST_UNITS
from ..results.row import Role, Row

RAW, PCA = "raw window, ridge", "PCA of the window, ridge"
PREDICTABLE = "predictable directions (CCA/LIM), ridge"
RANDOM = "random ReLU features, ridge"
KERNEL, KERNEL_PREDICTABLE = "PCA of the window, kernel", "predictable directions, kernel"
FORECAST, KERNEL_FORECAST = "kernel forecast of the fields, ridge", "kernel forecast of the fields, kernel"
LABELS_ONLY, LINEAR = (RAW, PCA), (RAW, PCA, PREDICTABLE)
NONLINEAR = (RANDOM, KERNEL, KERNEL_PREDICTABLE)
FORECASTS = (FORECAST, KERNEL_FORECAST)
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
        rows: Of all methods.
        unlabelled: Training windows.
    """

    label: WindowLabels
    rows: Sequence[Row]
    unlabelled: int


@dataclass(frozen=True, eq=False)
class Inputs:
    """Features of all steps, (time, k), by what they are, each with its candidates."""

    raw: Features
    pca: Features
    predictable: Features
    random: Sequence[Features]
    forecast: Features

    @classmethod
    def of(cls, task: WindowTask, window: int, labels: Sequence[WindowLabels], ahead: Sequence[int]) -> Inputs:
        """Return those of a task; components, directions and forecasts are fitted on all its training steps."""
        raw, training = task.raw(window), task.training_samples()
        fitted = training[np.isin(training, np.flatnonzero(task.fitted_steps()))]
        pca = window_components(raw, fitted, sorted({*FEW_COMPONENTS, *PCA_COMPONENTS}))
        validation = np.flatnonzero(task.store.splits.inside(task.store.times, "val"))
        wanted = np.unique(np.concatenate([one.rows[part] for one in labels for part in ("train", "val", "test")]))
        return cls(
            {f"{raw.shape[1]} values": raw},
            pca,
            task.predictable(window),
            [{"random features": random_relu(raw, fitted, RANDOM_FEATURES, seed)} for seed in range(RANDOM_SEEDS)],
            kernel_forecasts(list(pca.values())[-1], training, validation, ahead, wanted),
        )


def evidence(task: WindowTask, label: WindowLabels, inputs: Inputs) -> Evidence:
    """Return the rows of a label column as `usable` gives it; every choice is made on validation."""
    rows = [Row("season of the labels", Role.BASELINE, {label.name: label.climatology[:, 0]})]
    rows += [_fitted(RidgeHead(), name, label, features) for name, features in (
        (RAW, inputs.raw), (PCA, inputs.pca), (PREDICTABLE, inputs.predictable)) if features]  # fmt: skip
    rows += [_fitted(RidgeHead(), RANDOM, label, features, seed) for seed, features in enumerate(inputs.random)]
    few = {name: values for name, values in inputs.pca.items() if values.shape[1] in KERNEL_COMPONENTS}
    rows.append(_fitted(KernelHead(), KERNEL, label, few))
    if inputs.predictable:
        rows.append(_fitted(KernelHead(), KERNEL_PREDICTABLE, label, _few_directions(inputs.predictable)))
    if inputs.forecast:
        rows.append(_fitted(RidgeHead(), FORECAST, label, inputs.forecast))
        rows.append(_fitted(KernelHead(), KERNEL_FORECAST, label, inputs.forecast))
    best = best_of(rows, label.name, LABELS_ONLY)
    rows += _curve(best, label, inputs.raw if best == RAW else inputs.pca)
    return Evidence(label, rows, len(task.training_samples()))


def best_of(rows: Sequence[Row], target: str, names: Sequence[str]) -> str:
    """Return which of some rows has the least error on validation, the mean over its seeds; "" for none of them."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row.name in names and target in row.chosen:
            errors.setdefault(row.name, []).append(float(row.chosen[target]["validation_error"]))
    return min(errors, key=lambda name: float(np.mean(errors[name])), default="")


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
    own = {name: values for name, values in features.items() if "directions" in name}
    most = list(own)[-1].partition(" of ")[2]
    own = {name: values for name, values in own.items() if name.endswith(most)}
    few = {name: values for name, values in own.items() if values.shape[1] in KERNEL_COMPONENTS}
    return few or own


def usable(task: WindowTask, label: WindowLabels) -> WindowLabels:
    """Return labels with at most `MOST_LABELLED` training steps and with the units that the bootstrap draws.

    Raises:
        EarthSSLError: If they are classes, too few or constant, or the test block is too short for intervals.
    """
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
    units, test = label.units, label.rows["test"]
    if len(np.unique(units[test])) < FEWEST_YEARS:
        units = task.store.times.astype("datetime64[M]").astype(int) // 3
    if len(np.unique(units[test])) < FEWEST_UNITS:
        raise EarthSSLError(
            f"worth: expected test labels of '{label.name}' in at least {FEWEST_UNITS} quarters of a year for "
            f"intervals, got {len(np.unique(units[test]))}; lengthen the test block"
        )
    return replace(label, rows={**label.rows, "train": training[:: -(-len(training) // MOST_LABELLED)]}, units=units)
