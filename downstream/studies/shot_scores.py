"""Scores of classes told from a few examples: intervals over test units and over the draws of the examples together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..metrics.paired_bootstrap import Resampled
from ..results.row import Row
from ..results.target import Metric, Target

BALANCED, AUC, BRIER = "balanced_accuracy", "auc", "brier_skill"


def shot_target(
    name: str, truth: np.ndarray, climatology: np.ndarray, units: np.ndarray, block: int, seed: int = 0
) -> Target:
    """Return a target whose forecasts are chances by draw of the examples, (draw, sample, class).

    Heads see as many examples of one class as of another: their chances are those of equally frequent classes. Balanced
    accuracy (mean over the classes of the share called right) and AUC (mean over the classes of one against the rest; a
    tie counts half) take them so; for the Brier skill they are multiplied by the climatology and made to sum to 1.

    Args:
        name: In tables.
        truth: Class of each test sample, (n,).
        climatology: Chances that the Brier skill refers to, (n, class).
        units: Independent unit of each sample.
        block: Neighbouring units drawn together.
        seed: Of the resampled draws.
    """

    def metric(which: str, kind: Callable[..., _OverDraws]) -> Metric:
        def statistic(rows: Sequence[Row]) -> Resampled:
            return kind([row.forecast[name] for row in rows], truth, climatology, units, seed)

        return Metric(which, statistic, pairs=_same_head)

    return Target(name, units, [metric(BALANCED, _Balanced), metric(AUC, _Auc), metric(BRIER, _Brier)], block)


def _same_head(row: str, reference: str) -> bool:
    return row.rpartition("[")[2] == reference.rpartition("[")[2]


class _OverDraws(Resampled):
    """A score that is worked out from sums over units, its mean taken over draws of the examples.

    A resample of the units comes with one of the draws, the same for all rows.
    """

    def __init__(
        self,
        chances: Sequence[np.ndarray],
        truth: np.ndarray,
        climatology: np.ndarray,
        units: np.ndarray,
        seed: int,
    ) -> None:
        self.units, self.at = np.unique(units, return_inverse=True)
        self.draws, self.seed, classes = len(chances[0]), seed, climatology.shape[1]
        self.occurred = np.eye(classes)[truth]
        self.totals = self.by_unit(self.occurred)
        self.parts = [np.stack([self.part(draw, climatology) for draw in own]) for own in chances]

    def by_unit(self, values: np.ndarray) -> np.ndarray:
        """Return sums of values (sample, …) over the samples of each unit, (unit, …)."""
        out = np.zeros((len(self.units), *values.shape[1:]))
        np.add.at(out, self.at, values)
        return out

    def part(self, chance: np.ndarray, climatology: np.ndarray) -> np.ndarray:
        """Return what the score of a draw is worked out from, given its chances (sample, class)."""
        raise NotImplementedError

    def scored(self, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return scores (resample, draw) from the parts of each draw, and how often each unit occurs in a resample."""
        raise NotImplementedError

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        first = np.unique(self.at, return_index=True)[1]
        return np.array([self.scored(own, weights[first][None])[0].mean() for own in self.parts])

    def resample(self, counts: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.draws, len(counts)])
        share = rng.multinomial(self.draws, np.full(self.draws, 1 / self.draws), len(counts)) / self.draws
        return np.stack([(self.scored(own, counts) * share).sum(axis=1) for own in self.parts], axis=1)


class _Balanced(_OverDraws):
    def part(self, chance: np.ndarray, climatology: np.ndarray) -> np.ndarray:
        return self.by_unit(self.occurred * (chance.argmax(axis=1) == self.occurred.argmax(axis=1))[:, None])

    def scored(self, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        total = (counts @ self.totals)[:, None]
        right = np.tensordot(counts, parts, (1, 1))
        there = total > 0
        return np.asarray((right / np.where(there, total, 1)).sum(axis=2) / there.sum(axis=2))


class _Brier(_OverDraws):
    def part(self, chance: np.ndarray, climatology: np.ndarray) -> np.ndarray:
        own = chance * climatology
        own = own / own.sum(axis=1, keepdims=True)
        errors = [((one - self.occurred) ** 2).sum(axis=1) for one in (own, climatology)]
        return self.by_unit(np.stack(errors, axis=1))

    def scored(self, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        summed = np.tensordot(counts, parts, (1, 1))
        return np.asarray(1 - summed[..., 0] / summed[..., 1])


class _Auc(_OverDraws):
    """From the numbers of pairs in the right order, an event of one unit and a sample without it of another."""

    def part(self, chance: np.ndarray, climatology: np.ndarray) -> np.ndarray:
        count = len(self.units)
        # Of two classes, one against the other is the other against the one.
        asked = range(1, 2) if chance.shape[1] == 2 else range(chance.shape[1])
        made = np.zeros((len(asked), count, count))
        for j, k in enumerate(asked):
            event = self.occurred[:, k] > 0
            yes, of = chance[event, k], self.at[event]
            for other in range(count):
                no = np.sort(chance[(self.at == other) & ~event, k])
                below = (np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")) / 2
                made[j, :, other] = np.bincount(of, below, count)
        return made

    def scored(self, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        yes = counts @ (self.totals[:, 1:] if self.totals.shape[1] == 2 else self.totals)
        pairs = (yes * ((counts @ self.totals).sum(axis=1, keepdims=True) - yes))[:, None]
        flat = parts.reshape(-1, *parts.shape[2:])
        right = np.stack([((counts @ one) * counts).sum(axis=1) for one in flat], axis=1)
        right = right.reshape(len(counts), *parts.shape[:2])
        # A class that a resample lacks, or that is all it has, is left out of its mean.
        there = pairs > 0
        found = np.where(there, right, 0) / np.where(there, pairs, 1)
        return np.asarray(found.sum(axis=2) / np.where(there.any(axis=2), there.sum(axis=2), np.nan))
