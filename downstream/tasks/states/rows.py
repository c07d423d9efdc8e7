"""Rows of the states: what each method says of the test seasons, and the baselines that need no encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....ssl.store.store import Store
from ...heads.base import Choice, Head, Samples, choose
from ...heads.linear import LogisticHead
from ...heads.nearest import NearestHead
from ..enso.baselines import pca_features
from ..enso.state_labels import SEASON, StateLabels

INDEX, ALL_VARIABLES = "Niño index [logistic]", "PCA, all variables"

Features = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Classified:
    """One row's probabilities for the test samples of a lead.

    Attributes:
        row: Name.
        seed: None where nothing is random.
        probabilities: Shape (n, 3).
        choice: What validation chose; None for rows without settings.
        chosen: The features it chose, on all times.
    """

    row: str
    seed: int | None
    probabilities: np.ndarray
    choice: Choice | None = None
    chosen: np.ndarray | None = None


def classify(labels: StateLabels, head: Head, features: Features, lead: int, row: str, seed: int | None) -> Classified:
    """Return a head's test probabilities: chosen on validation, refitted on train and validation together."""
    train, val = ({n: labels.samples(f, b, lead) for n, f in features.items()} for b in ("train", "val"))
    choice = choose(head, train, val)
    chosen = features[choice.candidate]
    fit = Samples.joined(train[choice.candidate], val[choice.candidate])
    found = head.predict(fit, labels.samples(chosen, "test", lead), [choice.setting])[0]
    return Classified(row, seed, found, choice, chosen)


def with_season(labels: StateLabels, features: Features) -> dict[str, np.ndarray]:
    """Return the features beside two harmonics of the calendar month, which every logistic row is given."""
    return {name: np.concatenate([values, labels.season_features()], 1) for name, values in features.items()}


def components(store: Store, labels: StateLabels, ks: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """Return principal components beside the season by row: of SST, and of all variables where there are more."""
    others = [name for name in store.variables if name not in ("ssta", "sst")]
    extra = {name: store.dataset([name])[name].values for name in others}
    made = {"PCA": pca_features(labels.enso, ks, "train", SEASON)}
    if extra:
        made[ALL_VARIABLES] = pca_features(labels.enso, ks, "train", SEASON, extra)
    return {name: with_season(labels, features) for name, features in made.items()}


def index_row(labels: StateLabels, lead: int) -> Classified:
    """Return logistic regression on Niño 3.4 of the last three months and the season."""
    features = {"Niño 3.4 × 3 months and season": labels.index_features()}
    return classify(labels, LogisticHead(), features, lead, INDEX, None)


def baseline_rows(labels: StateLabels, lead: int, pcs: Mapping[str, Features]) -> list[Classified]:
    """Return the rows that need no encoder: the labels' own baselines, the index, and heads on principal components."""
    rows = [Classified(name, None, found) for name, found in labels.baselines(lead).items()]
    rows.append(index_row(labels, lead))
    rows += [classify(labels, LogisticHead(), own, lead, f"{name} [logistic]", None) for name, own in pcs.items()]
    plain = {name: values[:, :-4] for name, values in pcs["PCA"].items()}
    rows.append(classify(labels, NearestHead(), plain, lead, "PCA [kNN]", None))
    return rows
