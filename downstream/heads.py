"""Heads on frozen features: ridge, logistic regression and nearest neighbours, chosen on validation.

Every head takes the same samples and gives one array of predictions for each of its settings, so that a
choice of features, layer and settings is one loop for all of them. Targets have a column for each number to
predict; classes are one column each, 1 for the class that occurred (`one_hot`), so that a prediction is a
probability and the squared error summed over the columns is the Brier score.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ..ssl.errors import EarthSSLError
from .ridge import PENALTIES, RidgePath

COSTS = tuple(float(c) for c in 10.0 ** np.arange(-4, 4))
NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07  # of kNN votes in DINO's protocol (Caron et al. 2021)
QUERIES_AT_ONCE = 1024


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


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels 0 … classes - 1 as targets, one column a class, float64 (n, classes)."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise EarthSSLError(
            f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}; label every sample"
        )
    return np.eye(classes)[labels]


class Head(ABC):
    """A family of predictors, one for each setting.

    Attributes:
        name: In tables.
        classifies: Whether targets must be one-hot and predictions are probabilities.
    """

    name: ClassVar[str]
    classifies: bool = False

    @abstractmethod
    def settings(self, train: Samples) -> list[Any]:
        """Return the settings that can be tried on these samples, the most damped first."""

    @abstractmethod
    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        """Return predictions for `queries` by the head fitted on `train`, shape (settings, queries, output).

        The targets of the queries are not read.
        """


@dataclass(frozen=True)
class RidgeHead(Head):
    """Ridge regression for every target (ridge.py), without groups.

    Attributes:
        penalties: Multiples of the number of samples.
    """

    penalties: tuple[float, ...] = PENALTIES
    name: ClassVar[str] = "ridge"

    def settings(self, train: Samples) -> list[Any]:
        return sorted(self.penalties, reverse=True)

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        return RidgePath.fit(train.features, train.targets).predict(queries.features, settings)


@dataclass(frozen=True)
class LogisticHead(Head):
    """Logistic regression (multinomial for several classes) with an L2 penalty, by L-BFGS.

    Features are standardised by the fitted samples. A class that the fitted samples lack gets the
    probability 1 / (n + classes), as one more sample might show it (Laplace's rule), never 0.

    Attributes:
        costs: scikit-learn's C to try: the weight of the summed loss against half the squared norm. Each
            is started from the last one's solution.
    """

    costs: tuple[float, ...] = COSTS
    name: ClassVar[str] = "logistic"
    classifies: bool = True

    def __post_init__(self) -> None:
        if not self.costs or min(self.costs) <= 0:
            raise EarthSSLError(f"expected positive costs C, got {list(self.costs)}")

    def settings(self, train: Samples) -> list[Any]:
        return sorted(self.costs)

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        classes = train.targets.shape[1]
        labels = train.targets.argmax(axis=1)
        present = np.unique(labels)
        if len(present) < 2:
            raise EarthSSLError(
                f"expected at least two classes among the {len(train)} training samples, got "
                f"{'class ' + str(present[0]) + ' only' if len(present) else 'none'}; lengthen the training block or "
                "move a threshold"
            )
        x, z = standardised(train.features, queries.features)
        # Steps shorter than this change no probability that a score could show.
        model = LogisticRegression(solver="lbfgs", warm_start=True, max_iter=300, tol=1e-4)
        out = np.full((len(settings), len(z), classes), 1 / (len(train) + classes))
        share = 1 - (classes - len(present)) / (len(train) + classes)
        with warnings.catch_warnings():
            # Stopped early is a little more damped than asked: one more candidate, judged on validation.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for k in np.argsort(settings):
                model.C = float(settings[k])
                model.fit(x, labels)
                out[k][:, present] = share * model.predict_proba(z)
        return out


@dataclass(frozen=True)
class NearestHead(Head):
    """The k nearest neighbours by cosine of centred features; votes or numbers, weighted exp(cosine / T).

    Attributes:
        neighbours: k to try; those beyond the neighbours that any query may have are left out.
        exclusion: No neighbour lies within ± this many time steps of the query (0: not at the query's own):
            the state of the next day is the same weather.
        temperature: T; infinity weighs all k alike.
        standardise: Give each feature unit variance over the fitted samples. Not for principal components:
            the last, all noise, would count as much as the first.
    """

    neighbours: tuple[int, ...] = NEIGHBOURS
    exclusion: int = 0
    temperature: float = TEMPERATURE
    standardise: bool = False
    name: ClassVar[str] = "kNN"

    def __post_init__(self) -> None:
        if not self.neighbours or min(self.neighbours) < 1 or self.exclusion < 0 or not self.temperature > 0:
            raise EarthSSLError(
                f"expected k ≥ 1, an exclusion ≥ 0 and a temperature > 0, got {list(self.neighbours)}, "
                f"{self.exclusion}, {self.temperature}"
            )

    def settings(self, train: Samples) -> list[Any]:
        # However a query lies, at most 2 · exclusion + 1 steps are forbidden to it.
        allowed = len(train) - (2 * self.exclusion + 1)
        usable = [k for k in sorted(self.neighbours, reverse=True) if k <= allowed]
        return usable or [min(self.neighbours)]

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        if self.standardise:
            x, z = standardised(train.features, queries.features)
        else:
            mean = train.features.mean(axis=0, dtype=np.float64)
            x, z = train.features - mean, queries.features - mean
        x, z, most = unit_length(x), unit_length(z), max(settings)
        out = np.empty((len(settings), len(z), train.targets.shape[1]))
        for begin in range(0, len(z), QUERIES_AT_ONCE):
            part = slice(begin, begin + QUERIES_AT_ONCE)
            found, cosine = self._nearest(x, train.steps, z[part], queries.steps[part], most)
            values = train.targets[found]
            for j, k in enumerate(settings):
                weight = np.exp((cosine[:, :k] - cosine[:, :1]) / self.temperature)
                weight /= weight.sum(axis=1, keepdims=True)
                out[j, part] = np.einsum("qk,qko->qo", weight, values[:, :k])
        return out

    def _nearest(
        self, x: np.ndarray, steps: np.ndarray, z: np.ndarray, asked: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return indices and cosines of the nearest neighbours, nearest first, both (queries, most)."""
        cosine = z @ x.T
        cosine[np.abs(asked[:, None] - steps[None, :]) <= self.exclusion] = -np.inf
        allowed = int(np.isfinite(cosine).sum(axis=1).min())
        if most > allowed:
            raise EarthSSLError(
                f"kNN: expected k of at most {allowed}, the neighbours that every query has beyond ± {self.exclusion} "
                f"steps among {len(x)} samples, got {most}; lower k or the exclusion"
            )
        found = np.argpartition(-cosine, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(cosine, found, 1), axis=1, kind="stable")
        found = np.take_along_axis(found, order, 1)
        return found, np.take_along_axis(cosine, found, 1)


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


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


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


def squared_error(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the squared error summed over the outputs, shape (…, n): Brier's, for classes."""
    return ((predicted - targets) ** 2).sum(axis=-1)


def choose(head: Head, train: Mapping[str, Samples], validation: Mapping[str, Samples]) -> Choice:
    """Return the features and setting with the least error on the validation block; fitted on train.

    Args:
        head: The family.
        train, validation: Samples of each block by the name of their features.

    Raises:
        EarthSSLError: If there is nothing to choose from, or a block holds no sample.
    """
    if not train or set(train) != set(validation):
        raise EarthSSLError(f"expected the same features in both blocks, got {list(train)} and {list(validation)}")
    table: dict[str, dict[Any, float]] = {}
    for name, samples in train.items():
        if not len(samples) or not len(validation[name]):
            raise EarthSSLError(
                f"expected samples to fit and to choose on, got {len(samples)} in train and {len(validation[name])} "
                "in validation; lengthen the block"
            )
        settings = head.settings(samples)
        predicted = head.predict(samples, validation[name], settings)
        errors = squared_error(predicted, validation[name].targets).mean(axis=1)
        table[name] = dict(zip(settings, errors.tolist(), strict=True))
    candidate, setting = min(
        ((name, s) for name, errors in table.items() for s in errors), key=lambda pair: table[pair[0]][pair[1]]
    )
    return Choice(candidate, setting, table[candidate][setting], table)
