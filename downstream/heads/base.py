"""Heads on frozen features: what one is, what it is fitted on, and the choice on validation.

Every head takes the same samples and gives one array of predictions for each of its settings, so that a
choice of features, layer and settings is one loop for all of them. Targets have a column for each number to
predict; classes are one column each, 1 for the class that occurred (`one_hot`), so that a prediction is a
probability and the squared error summed over the columns is the Brier score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ..metrics.classes import squared_error


@dataclass(frozen=True, eq=False)
class Samples:
    """What a head is fitted on, or asked about.

    Attributes:
        features: Shape (n, feature), or (n, token, feature) for heads that pool themselves.
        targets: Numbers to predict, or one-hot classes, shape (n, output).
        steps: Time step of each sample, to keep neighbours in time apart, shape (n,).
    """

    features: np.ndarray
    targets: np.ndarray
    steps: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.targets) == len(self.steps) or self.targets.ndim != 2:
            raise EarthSSLError(
                f"expected features, targets (n, output) and steps of the same samples, got shapes "
                f"{self.features.shape}, {self.targets.shape}, {self.steps.shape}"
            )
        if not np.isfinite(self.features).all():
            bad = ~np.isfinite(self.features.reshape(len(self.features), -1)).all(axis=1)
            raise EarthSSLError(
                f"expected finite features for {len(bad)} samples, got NaN or infinity in {int(bad.sum())}; leave "
                "out the times without a whole window"
            )

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, rows: np.ndarray) -> Samples:
        """Return the samples at the rows (indices or a mask)."""
        return Samples(self.features[rows], self.targets[rows], self.steps[rows])

    @classmethod
    def joined(cls, first: Samples, second: Samples) -> Samples:
        """Return the samples of both."""
        pairs = ((getattr(first, name), getattr(second, name)) for name in ("features", "targets", "steps"))
        return cls(*(np.concatenate(pair) for pair in pairs))


class Head(ABC):
    """A family of predictors, one for each setting.

    Attributes:
        name: In tables.
        classifies: Whether targets must be one-hot and predictions are probabilities.
        separable: Whether each output is fitted by itself, so that targets of the same samples can share one fit.
    """

    name: ClassVar[str]
    classifies: bool = False
    separable: ClassVar[bool] = False

    @abstractmethod
    def settings(self, train: Samples) -> list[Any]:
        """Return the settings that can be tried on these samples, the most damped first."""

    @abstractmethod
    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        """Return predictions for `queries` by the head fitted on `train`, shape (settings, queries, output).

        The targets of the queries are not read.
        """

    def spreads(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray | None:
        """Return how wide the distributions of `queries` are, relative to each other, (settings, queries); None: alike.

        The same for all outputs.
        """
        return None


def standardised(train: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both less the mean of `train` and over its standard deviation, by feature; a constant one is 0.

    Args:
        train, queries: Shape (…, feature); all leading axes count as samples.
    """
    flat = np.asarray(train, dtype=np.float64).reshape(-1, train.shape[-1])
    mean, spread = flat.mean(axis=0), flat.std(axis=0)
    constant = spread <= 1e-12 * np.abs(flat).max(axis=0, initial=0.0)
    scale = np.where(constant, np.inf, spread)
    return (train - mean) / scale, (queries - mean) / scale


@dataclass(frozen=True, eq=False)
class Choice:
    """What validation chose.

    Attributes:
        candidate: Name of the features.
        setting: Of the head.
        error: Mean squared error on validation, summed over the outputs (the Brier score, for classes).
        table: That error for each candidate and setting, in the order tried.
    """

    candidate: str
    setting: Any
    error: float
    table: Mapping[str, Mapping[Any, float]]


def choose(head: Head, train: Mapping[str, Samples], validation: Mapping[str, Samples]) -> Choice:
    """Return the features and setting with the least error, summed over the outputs, on the validation block.

    Arguments and errors are those of `choose_each`.
    """
    return _least(_errors(head, train, validation, lambda found, truth: squared_error(found, truth)[..., None]))[0]


def choose_each(head: Head, train: Mapping[str, Samples], validation: Mapping[str, Samples]) -> list[Choice]:
    """Return for each output the features and setting with the least error on the validation block; fitted on train.

    Args:
        head: The family.
        train, validation: Samples of each block by the name of their features.

    Raises:
        EarthSSLError: If there is nothing to choose from, or a block holds no sample.
    """
    return _least(_errors(head, train, validation, lambda found, truth: (found - truth) ** 2))


def _errors(
    head: Head,
    train: Mapping[str, Samples],
    validation: Mapping[str, Samples],
    error: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> dict[str, dict[Any, np.ndarray]]:
    """Return mean errors by candidate and setting, (choice,); `error` takes predictions (setting, sample, output)."""
    if not train or set(train) != set(validation):
        raise EarthSSLError(f"expected the same features in both blocks, got {list(train)} and {list(validation)}")
    table: dict[str, dict[Any, np.ndarray]] = {}
    for name, samples in train.items():
        if not len(samples) or not len(validation[name]):
            raise EarthSSLError(
                f"expected samples to fit and to choose on, got {len(samples)} in train and {len(validation[name])} "
                "in validation; lengthen the block"
            )
        settings = head.settings(samples)
        predicted = head.predict(samples, validation[name], settings)
        errors = error(predicted, validation[name].targets).mean(axis=1)
        table[name] = dict(zip(settings, errors, strict=True))
    return table


def _least(table: Mapping[str, Mapping[Any, np.ndarray]]) -> list[Choice]:
    """Return the choice for each entry of the errors."""
    made = []
    for k in range(len(next(iter(next(iter(table.values())).values())))):
        own = {name: {s: float(e[k]) for s, e in errors.items()} for name, errors in table.items()}
        candidate, setting = min(((n, s) for n, errors in own.items() for s in errors), key=lambda p: own[p[0]][p[1]])
        made.append(Choice(candidate, setting, own[candidate][setting], own))
    return made
