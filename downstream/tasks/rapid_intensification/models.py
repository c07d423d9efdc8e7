"""Forecasts of rapid intensification: baselines from the track, and heads on features of an encoder.

Everything is fitted on the training block; validation chooses penalties, trees and features by the log loss, and
recalibrates; the test block is only forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.splits import PARTS
from ...heads.base import Samples, standardised
from ...heads.linear import LogisticHead
from ...metrics.classes import one_hot
from ...metrics.events import frequencies, log_loss
from .samples import Predictors

CLIMATOLOGY = "climatology by basin"
DAY_CALL, HALF_DAY_CALL = "yes/no: ΔV24 ≥ threshold", "yes/no: ΔV12 ≥ half of it"
ONLY_CHANGE, TABLE, SEASONAL = "logistic, ΔV12", "table, V × ΔV12", "logistic, V + latitude + season + basin"
TRACK, BOOSTED = "logistic, track", "gradient boosting, track"
BALANCED = "logistic, track, balanced classes, not recalibrated"
ISOTONIC, PLATT = "isotonic", "Platt"
COSTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
SPEEDS_KT = (
    34.0,
    50.0,
    64.0,
    83.0,
    96.0,
    113.0,
)  # edges of the table's 7 classes of V: those of Saffir–Simpson, and 50
CHANGES_KT = (-12.5, -7.5, -2.5, 2.5, 7.5, 12.5, 17.5)  # and of its 8 classes of ΔV12: winds are multiples of 5 kt
SMOOTHING = 20.0  # samples at the overall rate that each of the table's boxes is given besides its own
TREES: dict[str, Any] = {"learning_rate": 0.05, "max_iter": 300, "max_leaf_nodes": 16, "min_samples_leaf": 50,
                         "max_features": 0.5}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SampleFeatures:
    """Features of all samples from outside, such as a frozen encoder's.

    Attributes:
        name: Of the row.
        seed: Of what made them; None where nothing is random.
        values: Shape (samples, features), in the order of the samples; NaN in rows that have none.
        role: "pretrained", "untrained" or another word that the row begins with, such as "PCA of the".
        variant: Which of several that validation chooses from (layer, pooling …), for the same name, role and seed.
    """

    name: str
    seed: int | None
    values: np.ndarray
    role: str
    variant: str = ""

    @property
    def row(self) -> str:
        """The row's name."""
        return f"{self.role} {self.name}"


@dataclass(frozen=True, eq=False)
class Forecast:
    """One row's forecasts with one seed.

    Attributes:
        row: Name.
        seed: None where nothing is random.
        val, test: Probability for each sample of the block; 0 or 1 for rows that only call.
        chosen: What validation chose.
        calls: Whether the row says yes or no instead of a probability.
    """

    row: str
    seed: int | None
    val: np.ndarray
    test: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)
    calls: bool = False


@dataclass(frozen=True, eq=False)
class Problem:
    """The event of one threshold on given samples.

    Attributes:
        samples: Table, see `samples_of`.
        part: Block of each sample.
        predictors: Of each sample.
        basins: Names of the basins.
        threshold_kt: Least change in 24 h that counts.
    """

    samples: pd.DataFrame
    part: np.ndarray
    predictors: Predictors
    basins: Sequence[str]
    threshold_kt: float

    def __post_init__(self) -> None:
        for name in PARTS:
            inside = self.inside(name)
            hits = int(self.event[inside].sum())
            if not 0 < hits < inside.sum():
                raise EarthSSLError(
                    f"rapid intensification: expected samples with and without a change ≥ {self.threshold_kt:g} kt in "
                    f"{name}, got {hits} among {int(inside.sum())}; lengthen the block or move the threshold"
                )

    def inside(self, name: str) -> np.ndarray:
        """Return the mask of a block."""
        return self.part == name

    @property
    def event(self) -> np.ndarray:
        """Whether each sample intensified so much, 0 or 1."""
        return (self.samples["change_kt"].to_numpy() >= self.threshold_kt).astype(int)

    @property
    def basin(self) -> np.ndarray:
        """Number of each sample's basin."""
        return pd.Index(self.basins).get_indexer(pd.Index(self.samples["basin"]))

    def forecast(self, row: str, values: np.ndarray, seed: int | None = None, **chosen: Any) -> Forecast:
        """Return a row from its probabilities of all samples."""
        return Forecast(row, seed, values[self.inside("val")], values[self.inside("test")], chosen)


def climatology(problem: Problem) -> Forecast:
    """Return the frequency of each basin in training."""
    train = problem.inside("train")
    rates = frequencies(problem.event[train], problem.basin[train], len(problem.basins))
    return problem.forecast(CLIMATOLOGY, rates[problem.basin])


def persistence(problem: Problem) -> list[Forecast]:
    """Return the calls "it goes on": by the change of the last day, and of the last half day. Unknown is no."""
    made = []
    for row, column, least in (
        (DAY_CALL, "change24", problem.threshold_kt),
        (HALF_DAY_CALL, "change12", problem.threshold_kt / 2),
    ):
        called = (problem.samples[column] >= least).to_numpy(float)
        made.append(replace(problem.forecast(row, called), calls=True))
    return made


def table(problem: Problem) -> Forecast:
    """Return the frequency in training by classes of V and ΔV12 (unknown counts as 0), drawn to the overall rate."""
    v = np.digitize(problem.samples["wind_kt"], SPEEDS_KT)
    change = np.digitize(problem.samples["change12"].fillna(0.0), CHANGES_KT)
    box, boxes = v * (len(CHANGES_KT) + 1) + change, (len(SPEEDS_KT) + 1) * (len(CHANGES_KT) + 1)
    train = problem.inside("train")
    hits = np.bincount(box[train], problem.event[train], boxes)
    rate = problem.event[train].mean()
    chance = (hits + SMOOTHING * rate) / (np.bincount(box[train], minlength=boxes) + SMOOTHING)
    return problem.forecast(TABLE, chance[box])


def logistic(
    problem: Problem,
    row: str,
    columns: np.ndarray,
    seed: int | None = None,
    costs: tuple[float, ...] = COSTS,
    labelled: np.ndarray | None = None,
    **chosen: Any,
) -> Forecast:
    """Return a logistic regression on the columns (samples, columns); validation chooses C by the log loss.

    It is fitted on the samples of the mask `labelled`, by default all of the training block.
    """
    event = problem.event
    train = problem.inside("train") if labelled is None else labelled
    rest = problem.inside("val") | problem.inside("test")
    steps = np.arange(len(event))
    fitted, asked = (Samples(columns[rows], one_hot(event[rows], 2), steps[rows]) for rows in (train, rest))
    found = LogisticHead(costs).predict(fitted, asked, costs)[:, :, 1]
    val = problem.inside("val")[rest]
    losses = [log_loss(one[val], event[rest][val]) for one in found]
    best = int(np.argmin(losses))
    return Forecast(row, seed, found[best][val], found[best][~val], {**chosen, "C": costs[best], "loss": losses[best]})


def boosting(problem: Problem, row: str, columns: np.ndarray, seed: int) -> Forecast:
    """Return gradient-boosted trees on the columns; validation chooses their number by the log loss."""
    event = problem.event
    train, val = problem.inside("train"), problem.inside("val")
    rest = val | problem.inside("test")
    model = HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **TREES)
    model.fit(columns[train], event[train])
    inside = val[rest]
    best, least, kept = 0, np.inf, np.empty(0)
    for number, found in enumerate(model.staged_predict_proba(columns[rest]), 1):
        loss = log_loss(found[inside, 1], event[val])
        if loss < least:
            best, least, kept = number, loss, found[:, 1]
    return Forecast(row, seed, kept[inside], kept[~inside], {"trees": best, "loss": least})


def balanced(problem: Problem) -> Forecast:
    """Return the track's logistic regression with classes weighted to be equally frequent: a warning, not a model."""
    train, rest = problem.inside("train"), problem.inside("val") | problem.inside("test")
    x, z = standardised(problem.predictors.track[train], problem.predictors.track[rest])
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(x, problem.event[train])
    values = np.zeros(len(rest))
    values[rest] = model.predict_proba(z)[:, 1]
    return problem.forecast(BALANCED, values)


def recalibrated(problem: Problem, forecast: Forecast, how: str) -> Forecast:
    """Return a row with its probabilities recalibrated on validation, by isotonic or Platt's regression."""
    event = problem.event[problem.inside("val")]
    if how == ISOTONIC:
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(forecast.val, event)
        val, test = model.predict(forecast.val), model.predict(forecast.test)
    else:
        odds = [logit(np.clip(p, 1e-9, 1 - 1e-9))[:, None] for p in (forecast.val, forecast.test)]
        line = LogisticRegression(C=1e6).fit(odds[0], event)
        val, test = (line.predict_proba(one)[:, 1] for one in odds)
    return replace(forecast, row=f"{forecast.row}, {how}", val=val, test=test, chosen={})


def baselines(problem: Problem, seeds: int, periods: Sequence[str]) -> list[Forecast]:
    """Return every row that needs no fields but climatological SST, in the order of the table.

    Args:
        problem: The event.
        seeds: Number of seeds of the trees.
        periods: Of the climatologies of SST to use; the rows of the first are recalibrated too.
    """
    x = problem.predictors
    warmth = {name: x.sst[name] for name in periods}
    made = [climatology(problem), *persistence(problem)]
    change = problem.samples[["change12"]].fillna(0.0).to_numpy()
    made.append(logistic(problem, ONLY_CHANGE, change, costs=(1.0,)))  # one slope: nothing to damp
    made += [table(problem), logistic(problem, SEASONAL, x.season), logistic(problem, TRACK, x.track)]
    linear = [logistic(problem, f"{TRACK} + SST {name}", np.hstack([x.track, sst])) for name, sst in warmth.items()]
    trees = [boosting(problem, BOOSTED, x.track, seed) for seed in range(seeds)]
    warm: list[list[Forecast]] = []
    for name, sst in warmth.items():
        columns, row = np.hstack([x.track, sst, x.place]), f"{BOOSTED} + SST {name} + place"
        warm.append([boosting(problem, row, columns, seed) for seed in range(seeds)])
    best = [linear[0] if linear else made[-1], *(warm[0] if warm else trees)]
    made += [*linear, *trees, *(one for several in warm for one in several)]
    made += [recalibrated(problem, one, how) for how in (ISOTONIC, PLATT) for one in best]
    return [*made, balanced(problem)]


def feature_rows(problem: Problem, features: Sequence[SampleFeatures]) -> list[Forecast]:
    """Return for each row and seed of the features a logistic regression on them, and on them and the track.

    Of several variants the one with the least log loss on validation is kept, for each of the two apart.
    """
    kinds: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
        ("", lambda values: values),
        (" + track", lambda values: np.hstack([values, problem.predictors.track])),
    ]
    made = []
    for row, seed in dict.fromkeys((one.row, one.seed) for one in features):
        own = [one for one in features if (one.row, one.seed) == (row, seed)]
        for suffix, columns in kinds:
            tried = [logistic(problem, row + suffix, columns(f.values), seed, variant=f.variant) for f in own]
            made.append(min(tried, key=lambda one: one.chosen["loss"]))
    return made
