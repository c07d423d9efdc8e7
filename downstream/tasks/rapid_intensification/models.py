"""Models of rapid intensification: rules, tables, logistic regressions, trees, and networks from crop to chance.

Everything is fitted on the training block; validation chooses penalties, trees, features and steps by the log loss, and
recalibrates; the test block is only forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.splits import PARTS
from ...evaluation.encoders import Contender
from ...heads.base import Samples, standardised
from ...heads.linear import LogisticHead
from ...metrics import classes
from ...metrics.events import log_loss
from ...storms.crop_network import CropPatches, train_on_crops
from ...training.fine_tuning import FinetuneConfig
from ...training.from_scratch import ScratchConfig
from .samples import HOURS, Predictors

CLIMATOLOGY = "climatology by basin"
DAY_CALL, HALF_DAY_CALL = "yes/no: ΔV24 ≥ threshold", "yes/no: ΔV12 ≥ half of it"
ONLY_CHANGE, TABLE, SEASONAL = "logistic, ΔV12", "table, V × ΔV12", "logistic, V + latitude + season + basin"
TRACK, BOOSTED = "logistic, track", "gradient boosting, track"
BALANCED = "logistic, track, balanced classes, not recalibrated"
SCRATCH, TUNED = "same network from scratch + track", "pretrained encoder, fine-tuned + track"
UNBEATEN = (CLIMATOLOGY, DAY_CALL, HALF_DAY_CALL, ONLY_CHANGE, TABLE, BALANCED)  # rows that no other is compared with

ISOTONIC, PLATT = "isotonic", "Platt"
COSTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
SPEEDS_KT = (34.0, 50.0, 64.0, 83.0, 96.0, 113.0)  # edges of the table's 7 classes of V: Saffir–Simpson's, and 50
CHANGES_KT = (-12.5, -7.5, -2.5, 2.5, 7.5, 12.5, 17.5)  # and of its 8 classes of ΔV12: winds are multiples of 5 kt
SMOOTHING = 20.0  # samples at the overall rate that each of the table's boxes is given besides its own
TREES: dict[str, Any] = {"learning_rate": 0.05, "max_iter": 300, "max_leaf_nodes": 16, "min_samples_leaf": 50,
                         "max_features": 0.5}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Chances:
    """What a model says.

    Attributes:
        val, test: Probability for each sample of the block; 0 or 1 of models that only call.
        chosen: What validation chose.
    """

    val: np.ndarray
    test: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)


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

    @property
    def name(self) -> str:
        """Of the target."""
        return f"{self.threshold_kt:g} kt"

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

    @property
    def storms(self) -> np.ndarray:
        """Storm of each sample."""
        return self.samples["storm"].to_numpy()

    def chances(self, values: np.ndarray) -> Chances:
        """Return what a model says, from its probabilities of all samples."""
        return Chances(values[self.inside("val")], values[self.inside("test")])


def climatology(problem: Problem) -> Chances:
    """Return the frequency of each basin in training."""
    train = problem.inside("train")
    rates = pd.Series(problem.event[train]).groupby(problem.basin[train]).mean()
    return problem.chances(rates.reindex(problem.basin).to_numpy())


def call(problem: Problem, hours: int) -> Chances:
    """Return the call "it goes on" by the change of the last day, or half of it by the last half; unknown is no."""
    asked = hours / HOURS * problem.threshold_kt
    return problem.chances((problem.samples[f"change{hours}"] >= asked).to_numpy(float))


def table(problem: Problem) -> Chances:
    """Return the frequency in training by classes of V and ΔV12 (unknown counts as 0), drawn to the overall rate."""
    v = np.digitize(problem.samples["wind_kt"], SPEEDS_KT)
    change = np.digitize(problem.samples["change12"].fillna(0.0), CHANGES_KT)
    box, boxes = v * (len(CHANGES_KT) + 1) + change, (len(SPEEDS_KT) + 1) * (len(CHANGES_KT) + 1)
    train = problem.inside("train")
    hits = np.bincount(box[train], problem.event[train], boxes)
    rate = problem.event[train].mean()
    chance = (hits + SMOOTHING * rate) / (np.bincount(box[train], minlength=boxes) + SMOOTHING)
    return problem.chances(chance[box])


def logistic(
    problem: Problem,
    columns: np.ndarray,
    costs: tuple[float, ...] = COSTS,
    labelled: np.ndarray | None = None,
    **chosen: Any,
) -> Chances:
    """Return a logistic regression on the columns (samples, columns); validation chooses C by the log loss.

    Args:
        problem: The event.
        columns: What is known of each sample.
        costs: C to choose from.
        labelled: Mask of the samples that it is fitted on; None: all of the training block.
        chosen: More for the record.
    """
    event = problem.event
    train = problem.inside("train") if labelled is None else labelled
    rest = problem.inside("val") | problem.inside("test")
    steps = np.arange(len(event))
    fitted, asked = (Samples(columns[rows], classes.one_hot(event[rows], 2), steps[rows]) for rows in (train, rest))
    found = LogisticHead(costs).predict(fitted, asked, costs)[:, :, 1]
    val = problem.inside("val")[rest]
    losses = [log_loss(one[val], event[rest][val]) for one in found]
    best = int(np.argmin(losses))
    return Chances(found[best][val], found[best][~val], {**chosen, "C": costs[best], "loss": losses[best]})


def boosting(problem: Problem, columns: np.ndarray, seed: int) -> Chances:
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
    return Chances(kept[inside], kept[~inside], {"trees": best, "loss": least})


def balanced(problem: Problem) -> Chances:
    """Return the track's logistic regression with classes weighted to be equally frequent: a warning, not a model."""
    train, track = problem.inside("train"), problem.predictors.track
    x, z = standardised(track[train], track)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(x, problem.event[train])
    return problem.chances(model.predict_proba(z)[:, 1])


def recalibrated(problem: Problem, chances: Chances, how: str) -> Chances:
    """Return chances recalibrated on validation, by isotonic or Platt's regression."""
    event = problem.event[problem.inside("val")]
    if how == ISOTONIC:
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(chances.val, event)
        return Chances(model.predict(chances.val), model.predict(chances.test))
    odds = [logit(np.clip(p, 1e-9, 1 - 1e-9))[:, None] for p in (chances.val, chances.test)]
    line = LogisticRegression(C=1e6).fit(odds[0], event)
    return Chances(*(line.predict_proba(one)[:, 1] for one in odds))


def from_scratch(config: ScratchConfig, like: FinetuneConfig) -> FinetuneConfig:
    """Return how a network is trained from scratch: in full and at one rate, all else like another."""
    return replace(
        like, mode="full", layer_decay=1.0, steps=config.steps, batch_size=config.batch_size, lr=config.lr,
        weight_decay=config.weight_decay, check_every=config.check_every,
    )  # fmt: skip


def trained(
    problem: Problem, crops: CropPatches, one: Contender, config: FinetuneConfig, label: str, labelled: np.ndarray
) -> Chances:
    """Return what a network trained end to end says; the track joins the crop in its head, no class is weighted.

    Validation chooses the number of steps by the log loss. Where all labels are alike, Laplace's rule.

    Args:
        problem: The event, of samples that all have fields.
        crops: Theirs.
        one: Where the encoder starts.
        config: How to train.
        label: For the progress bar.
        labelled: Mask of the samples it is trained on.
    """
    event = problem.event
    if len(np.unique(event[labelled])) < 2:
        return problem.chances(np.full(len(event), classes.frequencies(event[labelled], 2)[0, 1]))
    blocks = {"train": labelled, "val": problem.inside("val")}
    found = train_on_crops(
        crops, one.encoder, problem.predictors.track, event.astype(np.float64), blocks, config, one.seed,
        classes=True, label=f"{label}, seed {one.seed}",
    )  # fmt: skip
    chosen = {"steps": found.trained.steps, "loss": found.trained.score, "lr": config.lr}
    return replace(problem.chances(expit(found.values)), chosen=chosen)


Models = Mapping[str, Chances]  # what a row's model of each problem says, by the problem's name


def each(problems: Sequence[Problem], make: Callable[[Problem], Chances]) -> Models:
    """Return what a model of each problem says."""
    return {one.name: make(one) for one in problems}


def baselines(
    problems: Sequence[Problem], seeds: int, periods: Sequence[str]
) -> Iterator[tuple[str, Models, int | None]]:
    """Yield name, models and seed of every row that needs no fields but climatological SST, with those of a table.

    Args:
        problems: Events of the same samples.
        seeds: Number of seeds of the trees.
        periods: Of the climatologies of SST to use; the rows of the first are recalibrated too, and those of the
            others are of the first problem only.
    """
    x, change = problems[0].predictors, problems[0].samples[["change12"]].fillna(0.0).to_numpy()
    plain: dict[str, Callable[[Problem], Chances]] = {
        CLIMATOLOGY: climatology,
        DAY_CALL: lambda one: call(one, HOURS),
        HALF_DAY_CALL: lambda one: call(one, HOURS // 2),
        ONLY_CHANGE: lambda one: logistic(one, change, costs=(1.0,)),  # one slope: nothing to damp
        TABLE: table,
        SEASONAL: lambda one: logistic(one, x.season),
    }
    yield from ((name, each(problems, make), None) for name, make in plain.items())

    def line(name: str, columns: np.ndarray, own: Sequence[Problem]) -> tuple[str, Models, int | None]:
        return name, each(own, lambda one: logistic(one, columns)), None

    def trees(name: str, columns: np.ndarray, own: Sequence[Problem]) -> list[tuple[str, Models, int | None]]:
        return [(name, each(own, partial(boosting, columns=columns, seed=seed)), seed) for seed in range(seeds)]

    track = line(TRACK, x.track, problems)
    yield track
    sst = {name: (x.sst[name], problems if k == 0 else problems[:1]) for k, name in enumerate(periods)}
    linear = [line(f"{TRACK} + SST {name}", np.hstack([x.track, own]), of) for name, (own, of) in sst.items()]
    yield from linear
    cold = trees(BOOSTED, x.track, problems)
    yield from cold
    warm = [trees(f"{BOOSTED} + SST {name} + place", np.hstack([x.track, own, x.place]), of)
            for name, (own, of) in sst.items()]  # fmt: skip
    yield from (one for several in warm for one in several)
    for name, own in x.table.items():
        yield line(f"{TRACK} + {name}", np.hstack([x.track, own]), problems)
        yield from trees(f"{BOOSTED} + {name} + place", np.hstack([x.track, own, x.place]), problems)
        for period in periods[:1]:
            columns = np.hstack([x.track, x.sst[period], own, x.place])
            yield from trees(f"{BOOSTED} + SST {period} + {name} + place", columns, problems)
    best = [*(linear[:1] or [track]), *(warm[0] if warm else cold)]
    for how, (name, models, seed) in product((ISOTONIC, PLATT), best):
        yield f"{name}, {how}", {one.name: recalibrated(one, models[one.name], how) for one in problems}, seed
    yield BALANCED, each(problems, balanced), None
