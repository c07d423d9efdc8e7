"""Linear heads: ridge and logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ...ssl.common.errors import EarthSSLError, check_settings
from .base import Head, Samples, standardised
from .ridge_path import PENALTIES, RidgePath

COSTS = tuple(float(c) for c in 10.0 ** np.arange(-4, 4))


@dataclass(frozen=True)
class RidgeHead(Head):
    """Ridge regression for every target (ridge_path.py), without groups.

    Attributes:
        penalties: Multiples of the number of samples.
        standardise: Whether features are taken over the deviation of the fitted samples; of a few samples it is rough.
    """

    penalties: tuple[float, ...] = PENALTIES
    standardise: bool = True
    name: ClassVar[str] = "ridge"
    separable: ClassVar[bool] = True

    def settings(self, train: Samples) -> list[Any]:
        return sorted(self.penalties, reverse=True)

    def predict(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        path = RidgePath.fit(train.features, train.targets, standardise=self.standardise)
        return path.predict(queries.features, settings)

    def spreads(self, train: Samples, queries: Samples, settings: Sequence[Any]) -> np.ndarray:
        path = RidgePath.fit(train.features, train.targets, standardise=self.standardise)
        return path.widths(queries.features, settings)


@dataclass(frozen=True)
class LogisticHead(Head):
    """Logistic regression (multinomial for several classes) with an L2 penalty, by L-BFGS.

    A class that the fitted samples lack gets the
    probability 1 / (n + classes), as one more sample might show it (Laplace's rule), never 0.

    Attributes:
        costs: scikit-learn's C to try: the weight of the summed loss against half the squared norm. Each
            is started from the last one's solution.
        standardise: Whether features are standardised by the fitted samples; of a few samples that is rough.
    """

    costs: tuple[float, ...] = COSTS
    standardise: bool = True
    name: ClassVar[str] = "logistic"
    classifies: bool = True

    def __post_init__(self) -> None:
        check_settings("logistic", self, {"costs": "> 0"})

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
        x, z = train.features, queries.features
        if self.standardise:
            x, z = standardised(x, z)
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
