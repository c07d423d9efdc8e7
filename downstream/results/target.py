"""Target: what is forecast on the test block, which samples are independent, and by which metrics it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ..metrics.calibration import chance_sums
from ..metrics.classes import one_hot, squared_error
from ..metrics.classes import statistics as class_statistics
from ..metrics.paired_bootstrap import FEWEST_UNITS, Statistic
from .row import Row


@dataclass(frozen=True, eq=False)
class Metric:
    """One score of a target.

    Attributes:
        name: In tables.
        statistic: Takes rows and returns a function from a weight for each sample, (sample,), to each row's score.
        larger_is_better: Whether a larger score is a better one.
        compared: Whether rows are subtracted by it; otherwise it is only printed.
        pairs: Whether a row is compared with a reference, by their names.
        takes: Whether a row has this score.
    """

    name: str
    statistic: Callable[[Sequence[Row]], Statistic]
    larger_is_better: bool = True
    compared: bool = True
    pairs: Callable[[str, str], bool] = lambda row, reference: True
    takes: Callable[[Row], bool] = lambda row: True


def additive(
    name: str,
    parts: Callable[[Row], np.ndarray],
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray],
    **options: Any,
) -> Metric:
    """Return a metric that is a formula of weighted sums over the samples.

    Args:
        name: Of the metric.
        parts: Returns what is summed of a row, (sample,), or several such, (part, sample).
        formula: Takes the sums, (row,) or (part, row), and the weights, and returns each row's score.
        options: As for `Metric`.
    """

    def statistic(rows: Sequence[Row]) -> Statistic:
        stacked = np.stack([parts(row) for row in rows])
        return lambda weights: formula((stacked @ weights).T, weights)

    return Metric(name, statistic, **options)


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers of a target, for distributions of them around what rows say.

    Attributes:
        truth: Of each sample, (sample, cell).
        of: Returns what a row says of them, of that shape.
        climatology: What the training climatology says of them, (sample, cell).
        weight: Of each number, 0 where it does not count, (sample, cell); None: all alike.
        width: How wide distributions are by what is known of a sample, relative to each other, (sample,); None: alike.
        times: Of the samples, for blocks that are exchangeable where the target's units are too few; None: take these.
        residuals_of: Target whose earlier residuals these are expected to be like; empty for its own.
    """

    truth: np.ndarray
    of: Callable[[Row], np.ndarray]
    climatology: np.ndarray
    weight: np.ndarray | None = None
    width: np.ndarray | None = None
    times: np.ndarray | None = None
    residuals_of: str = ""


@dataclass(frozen=True, eq=False)
class Chances:
    """The chances of a target's classes.

    Attributes:
        classes: Names of those that are judged.
        of: Returns of a row what is summed of each sample, (class, part, sample), see `metrics.calibration`.
        takes: Whether a row gives chances.
    """

    classes: Sequence[str]
    of: Callable[[Row], np.ndarray]
    takes: Callable[[Row], bool] = lambda row: True


@dataclass(frozen=True, eq=False)
class Target:
    """What is forecast on the test block.

    Attributes:
        name: In tables, and in `Row.forecast`.
        units: Which independent unit (year, storm, week) each test sample belongs to; neighbours when sorted.
        metrics: How rows are scored; the first, of which more is better, is what verdicts and label curves show.
        main: Names of the metrics in the picture and on the terminal; empty for the first.
        block: Neighbouring units drawn together by the bootstrap; 1 where there are too few for blocks.
        errors: Returns a row's squared error of each sample (Brier's, for classes), for the matrix; None: not additive.
        reference_errors: The same of the training climatology.
        matrix_units: Units for the matrix, which compares tasks; None: `units`.
        numbers: What distributions are of, where the target is a number or a field of numbers.
        chances: What rows give chances of, where it is a class.
    """

    name: str
    units: np.ndarray
    metrics: Sequence[Metric]
    block: int = 1
    errors: Callable[[Row], np.ndarray] | None = None
    reference_errors: np.ndarray | None = None
    matrix_units: np.ndarray | None = None
    main: Sequence[str] = ()
    numbers: Numbers | None = None
    chances: Chances | None = None

    def __post_init__(self) -> None:
        if not self.metrics or not self.metrics[0].larger_is_better:
            raise EarthSSLError(
                f"target '{self.name}': expected a first metric of which more is better, such as a skill, as pictures "
                f"rank rows by it; got {self.metrics[0].name if self.metrics else 'none'}"
            )

    def check_units(self) -> None:
        """Raise an EarthSSLError where the test block has too few independent units for any interval."""
        count = len(np.unique(self.units))
        if count < FEWEST_UNITS:
            raise EarthSSLError(
                f"target '{self.name}': expected at least {FEWEST_UNITS} independent units (years, storms, weeks) in "
                f"the test block for intervals, got {count}; lengthen the test block"
            )


def class_target(
    name: str,
    truth: np.ndarray,
    climatology: np.ndarray,
    units: np.ndarray,
    block: int = 1,
    classes: Sequence[str] | None = None,
) -> Target:
    """Return the target of probabilities of classes: Brier skill, accuracy, balanced accuracy, log loss.

    Args:
        name: Of the target.
        truth: Class of each test sample, (n,).
        climatology: Probabilities that the Brier skill refers to, (n, class).
        units, block: As for `Target`.
        classes: Names of the classes; None: their numbers.
    """
    occurred = one_hot(truth, climatology.shape[1])

    def metric(which: str, larger: bool = True) -> Metric:
        def statistic(rows: Sequence[Row]) -> Statistic:
            return class_statistics(np.stack([row.forecast[name] for row in rows]), truth, climatology)[which]

        return Metric(which, statistic, larger)

    judged = range(climatology.shape[1])[-1 if climatology.shape[1] == 2 else 0 :]  # of two, one says all
    metrics = [metric("brier_skill"), metric("accuracy"), metric("balanced_accuracy"), metric("log_loss", False)]
    return Target(
        name, units, metrics, block,
        errors=lambda row: squared_error(row.forecast[name], occurred),
        reference_errors=squared_error(climatology, occurred),
        chances=Chances(
            [(classes or [*map(str, range(climatology.shape[1]))])[k] for k in judged],
            lambda row: np.stack([chance_sums(row.forecast[name][:, k], occurred[:, k]) for k in judged]),
        ),
    )  # fmt: skip


def event_chances(name: str, event: np.ndarray, takes: Callable[[Row], bool] = lambda row: True) -> Chances:
    """Return the chances of an event that rows forecast under a name, in any shape; `event` is 0 or 1, (sample,)."""
    return Chances(["event"], lambda row: chance_sums(row.forecast[name].ravel(), event)[None], takes)


def number_target(
    name: str,
    truth: np.ndarray,
    climatology: np.ndarray,
    units: np.ndarray,
    block: int = 1,
    times: np.ndarray | None = None,
) -> Target:
    """Return the target of numbers: skill (1 − squared error over that of the climatology), r, RMSE.

    Args:
        name: Of the target.
        truth: Of each test sample, (n,).
        climatology: What the training climatology says of it, (n,).
        units, block: As for `Target`.
        times: Of the test samples, see `Numbers`.
    """
    reference = (climatology - truth) ** 2

    def errors(row: Row) -> np.ndarray:
        return np.asarray((row.forecast[name] - truth) ** 2)

    def correlation(rows: Sequence[Row]) -> Statistic:
        return weighted_r(np.stack([row.forecast[name] for row in rows]) - climatology, truth - climatology)

    metrics = [
        additive("skill", errors, lambda error, w: 1 - error / (reference @ w)),
        Metric("r", correlation),
        additive("rmse", errors, lambda error, w: np.sqrt(error / w.sum()), larger_is_better=False),
    ]
    told = Numbers(truth[:, None], lambda row: row.forecast[name][:, None], climatology[:, None], times=times)
    return Target(name, units, metrics, block, errors=errors, reference_errors=reference, numbers=told)


def weighted_r(forecasts: np.ndarray, truth: np.ndarray) -> Statistic:
    """Return Pearson's r of forecasts (m, n) with the truth (n,) as a function of weights; 0 for a constant one."""

    def statistic(w: np.ndarray) -> np.ndarray:
        share = w / w.sum()
        x, y = forecasts - (forecasts @ share)[:, None], truth - truth @ share
        power = ((x * x) @ share) * ((y * y) @ share)
        return np.where(power > 1e-24, ((x * y) @ share) / np.sqrt(np.maximum(power, 1e-24)), 0.0)

    return statistic
