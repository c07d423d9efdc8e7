"""The choice of an analogue search on validation: features, their scaling, the distance, and how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...evaluation.window_labels import WindowLabels
from ...heads.neighbours import neighbours
from ...heads.scaling import scaled

MOST_CELLS = 200  # of a field that a choice is made by, evenly spread


@dataclass(frozen=True)
class Chosen:
    """What validation chose for one target.

    Attributes:
        features, scaling, metric: Of the distance.
        neighbours: How many analogues.
        error: Mean squared error of their mean on validation.
    """

    features: str
    scaling: str
    metric: str
    neighbours: int
    error: float


@dataclass(frozen=True)
class Search:
    """How analogues are looked for.

    Attributes:
        days: Of each step, (time,).
        training: Steps that scalings are fitted on: all of training, in the library or not.
        neighbours, metrics, scalings: To choose from.
        exclude: Days between any two analogues, and between an analogue and its date.
        season: Days around the date in the year that analogues come from; None: all.
    """

    days: np.ndarray
    training: np.ndarray
    neighbours: Sequence[int]
    metrics: Sequence[str]
    scalings: Sequence[str]
    exclude: float
    season: float | None

    def found(self, values: np.ndarray, library: np.ndarray, asked: np.ndarray, count: int, metric: str) -> np.ndarray:
        """Return the steps of the analogues of the steps asked for, nearest first, (query, count); -1: no more."""
        places, _ = neighbours(
            values[library], self.days[library], values[asked], self.days[asked], count, exclude=self.exclude,
            apart=self.exclude > 0, season=self.season, metric=metric,
        )  # fmt: skip
        return np.where(places >= 0, library[places], -1)

    def spaces(self, features: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the scalings of features (time, k), float32, fitted on all of training; see `scaled`."""
        return scaled(features, features[self.training], self.scalings)

    def choose(
        self,
        labels: Sequence[WindowLabels],
        weights: Sequence[np.ndarray],
        features: Mapping[str, np.ndarray],
        library: np.ndarray,
    ) -> list[Chosen]:
        """Return for each of the labels, all of the same samples, what has the least error on validation.

        Args:
            labels: What is to be told; values (time, cell).
            weights: Of the cells of each.
            features: Candidates by name, (time, k).
            library: Steps that analogues may come from.

        Raises:
            EarthSSLError: If the library has too few analogues for every date.
        """  # fmt: skip
        best: list[Chosen | None] = [None] * len(labels)
        most = 0
        asked = labels[0].rows["val"]
        for name, values in features.items():
            for scaling, space in self.spaces(values):
                for metric in self.metrics:
                    found = self.found(space, library, asked, min(max(self.neighbours), len(library)), metric)
                    most = int((found >= 0).sum(axis=1).min())
                    usable = [k for k in sorted(self.neighbours) if k <= most]
                    for j, (label, weight) in enumerate(zip(labels, weights, strict=True)):
                        errors = mean_errors(label.values, found, label.values[asked], weight, usable)
                        for k, error in zip(usable, errors, strict=True):
                            old = best[j]
                            if old is None or error < old.error:
                                best[j] = Chosen(name, scaling, metric, k, float(error))
        done = [one for one in best if one is not None]
        if len(done) < len(labels):
            raise EarthSSLError(
                f"analogues.neighbours: expected a number that a library of {len(library)} states has for every date "
                f"(exclude_days {self.exclude:g}, season_days {self.season}), at most {most}, got "
                f"{list(self.neighbours)}; lower neighbours or exclude_days, or widen season_days"
            )
        return done


def mean_errors(
    values: np.ndarray, found: np.ndarray, truth: np.ndarray, weight: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """Return the mean squared error of the mean of the nearest k, for each k of ascending counts, (count,).

    Of a field, over at most 200 of its cells, evenly spread: they tell as well which search is best.

    Args:
        values: What followed each step, (time, cell).
        found: Steps of the analogues, nearest first, (query, analogue).
        truth: (query, cell).
        weight: Of each cell.
        counts: Not more than every query has.
    """
    thin = slice(None, None, -(-values.shape[1] // MOST_CELLS))
    values, truth, share = values[:, thin], truth[:, thin], weight[thin] / weight[thin].sum()
    errors, summed, done = [], np.zeros_like(truth), 0
    for k in counts:
        for analogue in range(done, k):
            summed += values[found[:, analogue]]
        done = k
        errors.append((((summed / k - truth) ** 2) @ share).mean())
    return np.array(errors)
