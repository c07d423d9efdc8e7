"""Rows of the rapid-intensification table: forecasts of one event by climatology, rules, tables, logit and trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..ssl.errors import EarthSSLError

CLIMATOLOGY = "basin climatology (train)"
TRACK_ROW = "logistic, track"
C_PATH = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
WIND_EDGES = (35, 45, 55, 65, 80, 100)  # 7 bins of V, kt
CHANGE_EDGES = (-10, -5, 0, 5, 10, 15, 20)  # 8 bins of the 12-h change, kt
TABLE_PRIOR = 20.0  # samples' worth of the overall frequency in each bin of the table


@dataclass(frozen=True, eq=False)
class Problem:
    """Samples of one event, split.

    Attributes:
        table: Predictors and keys, one row a sample.
        event: 0 or 1, (samples,).
        train, val, test: Which samples belong to each block, bool, (samples,).
    """

    table: pd.DataFrame
    event: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            found = self.event[getattr(self, name)]
            if not len(found) or found.min() == found.max():
                events = int(found.sum()) if len(found) else 0
                raise EarthSSLError(
                    f"rapid_intensification: expected events and non-events in the {name} block, got {events} events "
                    f"in {len(found)} samples; move or lengthen the block, or lower the threshold"
                )


@dataclass(frozen=True, eq=False)
class Forecasts:
    """One row: a probability for every sample, or a yes/no rule where there is none.

    Attributes:
        name: Of the row; rows of several seeds share it.
        probability: (samples,), for all blocks.
        seed: None where nothing is random.
        rule: Whether the "probability" is a yes (1) or no (0).
        settings: What was chosen, on validation.
    """

    name: str
    probability: np.ndarray
    seed: int | None = None
    rule: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def climatology(problem: Problem, groups: np.ndarray, known: np.ndarray, name: str) -> Forecasts:
    """Return the frequency of the event in each group (basin) of the known samples; the overall one elsewhere."""
    overall = float(problem.event[known].mean())
    made = np.full(len(problem.event), overall)
    for group in np.unique(groups):
        own = known & (groups == group)
        if own.any():
            made[groups == group] = problem.event[own].mean()
    return Forecasts(name, made)


def rule(problem: Problem, column: str, at_least: float, name: str) -> Forecasts:
    """Return the yes/no forecast "it goes on as it went": the past change is at least so much; unknown is no."""
    return Forecasts(name, (problem.table[column].fillna(-np.inf).to_numpy() >= at_least).astype(float), rule=True)


def binned(problem: Problem, name: str) -> Forecasts:
    """Return the training frequency in bins of wind and its 12-h change, drawn to the overall frequency."""
    v = np.digitize(problem.table["wind_kt"], WIND_EDGES)
    change = np.digitize(problem.table["dv12"].fillna(0.0), CHANGE_EDGES)
    cell = v * (len(CHANGE_EDGES) + 1) + change
    size = (len(WIND_EDGES) + 1) * (len(CHANGE_EDGES) + 1)
    events = np.bincount(cell[problem.train], problem.event[problem.train], size)
    count = np.bincount(cell[problem.train], minlength=size)
    base = problem.event[problem.train].mean()
    return Forecasts(name, ((events + TABLE_PRIOR * base) / (count + TABLE_PRIOR))[cell])


def logistic(
    problem: Problem,
    x: np.ndarray | Mapping[str, np.ndarray],
    name: str,
    seed: int | None = None,
    balanced: bool = False,
) -> Forecasts:
    """Return logistic regression on standardised predictors, fitted on training, C (and set) by validation log loss.

    Args:
        problem: The samples.
        x: Predictors (samples, predictors), missing ones 0; or several such sets to choose among, by name.
        name: Of the row.
        seed: Of the encoder behind the predictors.
        balanced: Weigh events and non-events alike: ruins the probabilities, unless recalibrated.
    """
    sets = x if isinstance(x, Mapping) else {"": x}
    best: tuple[float, str, float, np.ndarray] | None = None
    for label, predictors in sets.items():
        z = StandardScaler().fit(predictors[problem.train]).transform(predictors)
        for c in C_PATH:
            head = LogisticRegression(C=c, max_iter=2000, class_weight="balanced" if balanced else None)
            head.fit(z[problem.train], problem.event[problem.train])
            probability = head.predict_proba(z)[:, 1]
            loss = float(log_loss(problem.event[problem.val], probability[problem.val]))
            if best is None or loss < best[0]:
                best = (loss, label, c, probability)
    if best is None:
        raise EarthSSLError(f"rapid_intensification: expected predictors for '{name}', got none")
    return Forecasts(name, best[3], seed, settings={"C": best[2], "set": best[1], "validation_log_loss": best[0]})


def boosted(problem: Problem, x: np.ndarray, name: str, seed: int = 0) -> Forecasts:
    """Return gradient-boosted trees fitted on training, their number chosen by validation log loss."""
    trees = HistGradientBoostingClassifier(
        max_iter=400, learning_rate=0.05, max_leaf_nodes=15, l2_regularization=1.0, random_state=seed
    ).fit(x[problem.train], problem.event[problem.train])
    at = np.flatnonzero(problem.val)
    losses = [log_loss(problem.event[at], p[:, 1]) for p in trees.staged_predict_proba(x[at])]
    count = int(np.argmin(losses)) + 1
    probability = next(p for k, p in enumerate(trees.staged_predict_proba(x), 1) if k == count)[:, 1]
    return Forecasts(name, probability, settings={"trees": count, "validation_log_loss": float(losses[count - 1])})


def recalibrated(problem: Problem, row: Forecasts, name: str) -> Forecasts:
    """Return a row with its log odds stretched and shifted to fit the validation block (Platt 1999)."""
    p = np.clip(row.probability, 1e-6, 1 - 1e-6)
    odds = np.log(p / (1 - p))[:, None]
    fit = make_pipeline(StandardScaler(), LogisticRegression(C=1e6, max_iter=2000))
    fit.fit(odds[problem.val], problem.event[problem.val])
    return Forecasts(name, fit.predict_proba(odds)[:, 1], row.seed, settings=row.settings)


def matrix(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Return columns as float64 (samples, columns), missing values 0."""
    return table[list(columns)].fillna(0.0).to_numpy(dtype=float)
