"""Which states to label next: those that the present head is least sure of, those least like what is labelled, or both.

Lewis & Gale 1994 (uncertainty); Sener & Savarese 2018, arXiv 1708.00489 (core set: farthest first).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..downstream.heads.base import Samples
from ..downstream.heads.linear import LogisticHead
from ..downstream.metrics.classes import one_hot
from ..ssl.common.errors import EarthSSLError

STRATEGIES = ("uncertain", "core", "both")
COST = 0.1  # C of the logistic head: few labels want a stiff one
FOLDS = 5


def probabilities(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    """Return what a logistic head on the features says of the queries, (query, class).

    Args:
        features: Of the labelled states, (label, feature).
        labels: Number of the class of each, (label,); at least two differ.
        queries: Features, (query, feature).
        classes: How many there are.
    """
    train = Samples(features, one_hot(labels, classes), np.arange(len(labels)))
    asked = Samples(queries, np.zeros((len(queries), classes)), np.arange(len(queries)))
    return LogisticHead(costs=(COST,)).predict(train, asked, [COST])[0]


def propose(
    features: np.ndarray, days: np.ndarray, labelled: np.ndarray, labels: np.ndarray, strategy: str, count: int,
    apart_days: float, allowed: np.ndarray | None = None,
) -> list[int]:  # fmt: skip
    """Return the states to label next, best first, each at least `apart_days` from the labelled and from each other.

    Args:
        features: Of every state, (state, feature).
        days: When each is, (state,).
        labelled: Which of them are labelled, indices, (label,).
        labels: Number of the class of each of these.
        strategy: "uncertain" (largest entropy), "core" (farthest from what is labelled or proposed) or "both" by turns.
            With fewer than two classes nothing is uncertain yet, and all are of the core set.
        count: How many.
        apart_days: Days between two.
        allowed: Mask of the states that may be proposed, (state,).

    Raises:
        EarthSSLError: If there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise EarthSSLError(f"strategy: expected {', '.join(STRATEGIES)}, got '{strategy}'")
    free = np.ones(len(features), bool) if allowed is None else allowed.copy()
    _take_from(free, days, labelled, apart_days)
    scaled = features / (features.std(axis=0) + 1e-12)
    entropy = None
    if strategy != "core" and len(np.unique(labels)) > 1:
        chance = probabilities(features[labelled], labels, features, int(labels.max()) + 1)
        entropy = -(chance * np.log(np.maximum(chance, 1e-12))).sum(axis=1)
    far = np.zeros(len(features)) if entropy is not None and strategy == "uncertain" else _distance(scaled, labelled)
    found: list[int] = []
    while len(found) < count and free.any():
        core = entropy is None or (strategy == "both" and len(found) % 2 == 1)
        score = far if core or entropy is None else entropy
        k = int(np.where(free, score, -np.inf).argmax())
        found.append(k)
        _take_from(free, days, [k], apart_days)
        distance = np.square(scaled - scaled[k]).sum(axis=1)
        far = distance if not len(labelled) and len(found) == 1 else np.minimum(far, distance)
    return found


def at_random(
    days: np.ndarray, labelled: np.ndarray, count: int, apart_days: float, allowed: np.ndarray,
    chooser: np.random.Generator,
) -> list[int]:  # fmt: skip
    """Return states at random, each at least `apart_days` from the labelled and from each other: a fair sample.

    Args:
        days: When each state is, (state,).
        labelled: Which of them are labelled, indices, (label,).
        count: How many, if there are so many.
        apart_days: Days between two.
        allowed: Mask of the states that may be taken, (state,).
        chooser: Draws them.
    """
    free = allowed.copy()
    _take_from(free, days, labelled, apart_days)
    found: list[int] = []
    while len(found) < count and free.any():
        k = int(chooser.choice(np.flatnonzero(free)))
        found.append(k)
        _take_from(free, days, [k], apart_days)
    return found


def _take_from(free: np.ndarray, days: np.ndarray, taken: Iterable[int], apart_days: float) -> None:
    """Unmark, in place, the states that lie nearer than `apart_days` to those taken, and these."""
    for k in taken:
        free[np.abs(days - days[k]) < max(apart_days, 1e-9)] = False


def _distance(features: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return each state's squared distance from the nearest that is labelled, (state,).

    Where none is: less the distance from the mean, so that the most usual state comes first.
    """
    if not len(labelled):
        return np.asarray(-np.square(features - features.mean(axis=0)).sum(axis=1))
    own = np.square(features).sum(axis=1)
    far = np.full(len(features), np.inf)
    for part in np.array_split(labelled, max(1, len(labelled) // 64)):
        gap = own[:, None] + own[part] - 2 * features @ features[part].T
        far = np.minimum(far, gap.min(axis=1))
    return np.maximum(far, 0)


@dataclass(frozen=True)
class HeldOut:
    """How good the present head is on labelled years that it was not fitted on.

    Attributes:
        labels: How many labels there are.
        score: Balanced accuracy (mean share of each class that is told right).
        low, high: 90 % interval, by drawing years anew.
        chance: What guessing gets.
    """

    labels: int
    score: float
    low: float
    high: float
    chance: float


def held_out(features: np.ndarray, labels: np.ndarray, years: np.ndarray, draws: int = 400) -> HeldOut | None:
    """Return the head's score over folds of whole years; None where labels are too few to say.

    Args:
        features: Of the labelled states, (label, feature).
        labels: Numbers of classes, (label,).
        years: Year of each, (label,): all labels of one lie in one fold.
        draws: Of the bootstrap.
    """
    own, classes = np.unique(years), np.unique(labels)
    if len(own) < FOLDS or len(classes) < 2:
        return None
    fold = np.searchsorted(own, years) % FOLDS
    told = np.full(len(labels), -1)
    for k in range(FOLDS):
        train = fold != k
        if len(np.unique(labels[train])) < 2:
            return None
        chance = probabilities(features[train], labels[train], features[~train], int(labels.max()) + 1)
        told[~train] = chance.argmax(axis=1)
    right = told == labels
    rng = np.random.default_rng(0)
    year = np.searchsorted(own, years)
    scores = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(0, len(own), len(own)), minlength=len(own))[year]
        totals = np.array([weight[labels == c].sum() for c in classes])
        if (totals > 0).all():
            scores.append(np.mean([weight[(labels == c) & right].sum() / weight[labels == c].sum() for c in classes]))
    score = float(np.mean([right[labels == c].mean() for c in classes]))
    low, high = np.quantile(scores, [0.05, 0.95]) if scores else (score, score)
    return HeldOut(len(labels), score, float(low), float(high), 1 / len(classes))
