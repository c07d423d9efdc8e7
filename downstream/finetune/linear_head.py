"""LinearHead: a linear map from features to labels in closed form or by logistic regression, and its coefficients.

One rule for all rows: fitted on the training block, settings and features chosen on the validation block, not fitted
again. Fine-tuning starts from such a head (linear probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ...ssl.common.errors import EarthSSLError
from ..heads.base import Choice, Head, Samples, choose
from ..heads.linear import LogisticHead, RidgeHead
from ..heads.patch_ridge import PENALTIES, PatchRidge, observed_mean
from ..heads.ridge_path import RidgePath
from ..metrics.classes import frequencies, one_hot, squared_error
from .samples import LabelSamples


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A chosen head.

    Attributes:
        features: Name of the features.
        setting: Penalty, or cost of the logistic regression; None where training shows one class only.
        error: On validation: mean squared error of standardised departures, or the Brier score.
        predicted: For the test samples: standardised departures (sample, target) or (sample, patch, cell), or
            probabilities (sample, class).
        centre, spread: Of the features in training, (feature,).
        weight: Of standardised features, (output, feature).
        bias: Shape (output,). These four are NaN where the head is not to be laid into a network.
    """

    features: str
    setting: Any
    error: float
    predicted: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain values."""
        return {"features": self.features, "setting": self.setting, "validation_error": self.error}


def fit_linear(samples: LabelSamples, features: Mapping[str, np.ndarray], into_a_network: bool = True) -> LinearHead:
    """Return the head with the least validation error among features on all samples, (sample, feature).

    Where the training labels are of one class, it says by Laplace's rule what others may be seen.
    """
    classes = samples.kind == "classification"
    if classes and len(np.unique(samples.target[samples.parts["train"]])) < 2:
        return _of_one_class(samples, features)
    every = np.arange(len(samples.rows))
    targets = one_hot(samples.target, len(samples.classes)) if classes else samples.departures(every)
    choice, train, predicted = chosen_on_validation(
        LogisticHead() if classes else RidgeHead(), samples, features, targets
    )
    if not into_a_network:
        return LinearHead(choice.candidate, choice.setting, choice.error, predicted, *[np.full(1, np.nan)] * 4)
    centre, spread = _standard(train.features)
    z = (train.features - centre) / spread
    weight, bias = _logistic(z, samples.target[samples.parts["train"]], len(samples.classes), choice.setting) \
        if classes else _ridge(z, train.targets, choice.setting)  # fmt: skip
    return LinearHead(choice.candidate, choice.setting, choice.error, predicted, centre, spread, weight, bias)


def chosen_on_validation(
    head: Head, samples: LabelSamples, features: Mapping[str, np.ndarray], targets: np.ndarray
) -> tuple[Choice, Samples, np.ndarray]:
    """Return the features and setting of least validation error, their training samples, and what is said of test.

    Args:
        head: The family.
        samples: Their blocks.
        features: Candidates, on all samples.
        targets: Of all samples, (sample, output).
    """
    blocks = {
        part: {name: Samples(values[rows], targets[rows], samples.last[rows]) for name, values in features.items()}
        for part, rows in samples.parts.items()
    }
    choice = choose(head, blocks["train"], blocks["val"])
    train = blocks["train"][choice.candidate]
    return choice, train, head.predict(train, blocks["test"][choice.candidate], [choice.setting])[0]


def _of_one_class(samples: LabelSamples, features: Mapping[str, np.ndarray]) -> LinearHead:
    name, values = next(iter(features.items()))
    count = len(samples.classes)
    seen = frequencies(samples.target[samples.parts["train"]], count)[0]
    val, test = (samples.parts[part] for part in ("val", "test"))
    error = float(squared_error(np.tile(seen, (len(val), 1)), one_hot(samples.target[val], count)).mean())
    width = values.shape[1]
    return LinearHead(name, None, error, np.tile(seen, (len(test), 1)), np.zeros(width), np.ones(width),
                      np.zeros((count, width)), np.log(seen))  # fmt: skip


def fit_patches(
    samples: LabelSamples, features: Mapping[str, np.ndarray], targets: np.ndarray, weight: np.ndarray
) -> LinearHead:
    """Return the head, one for all patches, with the least validation error.

    Args:
        samples: The labels.
        features: On all samples, (sample, patch, feature).
        targets: Standardised departures cut into patches, (sample, patch, cell), NaN where missing.
        weight: Area of each cell, 0 where it is never observed, (patch, cell).
    """
    train, val, test = (samples.parts[part] for part in ("train", "val", "test"))
    tried: list[tuple[float, str, int, PatchRidge]] = []
    share = weight.sum(axis=0)
    for name, values in features.items():
        head = PatchRidge.fit(values[train], targets[train], weight, PENALTIES)
        mean = observed_mean(head.errors(values[val], targets[val], weight), share, "finetune, fields as labels")
        tried.append((float(mean.min()), name, int(mean.argmin()), head))
    if not tried:
        raise EarthSSLError("finetune: expected features to choose from, got none")
    error, name, number, head = min(tried, key=lambda one: one[0])
    spread = np.where(np.isfinite(head.scale), head.scale, 1.0)
    weights = np.where(np.isfinite(head.scale)[:, None], head.coefficients[number][:-1], 0.0)
    predicted = head.predict(features[name][test], number)
    return LinearHead(name, head.penalties[number], error, predicted, head.mean, spread, weights.T,
                      head.coefficients[number][-1])  # fmt: skip


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    constant = spread <= 1e-6 * np.abs(features).max(axis=0, initial=1e-30)
    return mean, np.where(constant, 1.0, spread)


def _ridge(z: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    path = RidgePath.fit(z, targets)
    coefficients = path.coefficients(penalty)
    return coefficients.T, path.target_mean[0] - path.feature_mean[0] @ coefficients


def _logistic(z: np.ndarray, labels: np.ndarray, classes: int, cost: float) -> tuple[np.ndarray, np.ndarray]:
    model = LogisticRegression(solver="lbfgs", C=cost, max_iter=300, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a little more damped: a start, judged on validation
        model.fit(z, labels)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn gives the second class's logit against the first's
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    if len(model.classes_) == classes:
        return weight, bias
    # A class that these labels lack begins as rare as one more sample may show it.
    every = np.zeros((classes, z.shape[1])), np.full(classes, bias.mean() - np.log(len(z) + classes))
    every[0][model.classes_], every[1][model.classes_] = weight, bias
    return every
