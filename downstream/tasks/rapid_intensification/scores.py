"""Scores of forecasts of rapid intensification on the test storms, and their paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from ...metrics.events import (
    CALLS,
    Contingency,
    Ranking,
    best_threshold,
    calibration_error,
    log_loss,
    murphy,
    reliability,
)
from ...metrics.paired_bootstrap import FEWEST_UNITS, compare
from .models import Forecast, Problem

BSS, BSS_TRAIN, AUC, AP, PSS, HSS = "BSS", "BSS train", "AUC", "AP", "PSS", "HSS"
METRICS = (BSS, BSS_TRAIN, AUC, AP, PSS, HSS)
BINS = 20  # of reliability: the last holds the highest twentieth of the forecasts
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Scored:
    """What is known of all rows at one threshold.

    Attributes:
        scores, differences: As in `Summary`.
        tables: contingency, murphy and reliability, by name.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    tables: dict[str, pd.DataFrame]


class Judge:
    """Scores a set of rows on the test block of a problem.

    Args:
        problem: The event.
        forecasts: Rows, several seeds of one under the same name.
        climatology: The training frequency of each sample's basin on the test block.
    """

    def __init__(self, problem: Problem, forecasts: Sequence[Forecast], climatology: np.ndarray) -> None:
        test = problem.inside("test")
        self.forecasts, self.climatology = list(forecasts), climatology
        self.event, self.basin = problem.event[test], problem.basin[test]
        self.basins = list(problem.basins)
        self.storms = problem.samples["storm"].to_numpy()[test]
        self.target = f"{problem.threshold_kt:g} kt"
        validated = problem.event[problem.inside("val")]
        self.thresholds = [
            {name: 0.5 if one.calls else best_threshold(one.val, validated, name) for name in CALLS}
            for one in self.forecasts
        ]

    def scored(self, references: Sequence[str], draws: int, metrics: Sequence[str] = METRICS) -> Scored:
        """Return the scores asked for, the differences from the reference rows, and the tables beside them."""
        scores, differences = [], []
        statistics = self._statistics()
        for metric in metrics:
            own, statistic = statistics[metric]
            names, mean = _over_seeds(own)
            wanted = [name for name in references if name in names]
            found, paired = compare(averaged(mean, statistic), self.storms, names, wanted, draws=draws)
            scores.append(found.assign(seed="", target=self.target, metric=metric))
            if len(names) < len(own):
                scores.append(self._by_seed(own, names, metric, statistic(np.ones(len(self.event)))))
            differences.append(paired.assign(target=self.target, metric=metric))
        tables = {"contingency": self._contingency(), "murphy": self._murphy(), "reliability": self._reliability()}
        return Scored(pd.concat(scores, ignore_index=True), pd.concat(differences, ignore_index=True), tables)

    def by_basin(self, draws: int) -> pd.DataFrame:
        """Return BSS (against the basin's test frequency), AUC and AP of each basin with intervals.

        Columns basin, n, events, storms, row, metric, value, low, high. Basins with one class only, or with fewer
        storms than a bootstrap needs, are left out.
        """
        own = [one for one in self.forecasts if not one.calls]
        names, mean = _over_seeds(own)
        parts = []
        for number, basin in enumerate(self.basins):
            here = self.basin == number
            event, storms = self.event[here], self.storms[here]
            if not 0 < event.sum() < len(event) or len(np.unique(storms)) < FEWEST_UNITS:
                continue
            p = np.stack([one.test[here] for one in own])
            for metric, statistic in ranked(p, event, np.zeros(len(event), int)).items():
                found, _ = compare(averaged(mean, statistic), storms, names, [], draws=draws)
                found = found.assign(basin=basin, metric=metric, n=len(event), events=int(event.sum()))
                parts.append(found.assign(storms=len(np.unique(storms))))
        columns = ["basin", "n", "events", "storms", "row", "metric", "value", "low", "high"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)

    def _statistics(self) -> dict[str, tuple[list[Forecast], Statistic]]:
        """Return for each metric the rows that have it, and all their scores as a function of sample weights."""
        own = [one for one in self.forecasts if not one.calls]
        p = np.stack([one.test for one in own])
        made = {name: (own, one) for name, one in ranked(p, self.event, self.basin).items()}
        error, reference = (p - self.event) ** 2, (self.climatology - self.event) ** 2
        # rounded: the climatology's own skill is 0 but for the order of summation
        made[BSS_TRAIN] = own, lambda w: np.round(1 - error @ w / (reference @ w), 12) + 0.0
        for metric, name in ((PSS, "pss"), (HSS, "hss")):
            called = np.stack([one.test >= t[name] for one, t in zip(self.forecasts, self.thresholds, strict=True)])
            made[metric] = self.forecasts, self._called(called.astype(float), name)
        return made

    def _called(self, calls: np.ndarray, name: str) -> Statistic:
        return lambda w: np.asarray(getattr(Contingency.of(calls, self.event, w), name))

    def _by_seed(self, own: Sequence[Forecast], names: Sequence[str], metric: str, values: np.ndarray) -> pd.DataFrame:
        """Return the scores of each seed of the rows that have several."""
        several = {name for name in names if sum(one.row == name for one in own) > 1}
        lines = [
            {"row": one.row, "value": float(value), "low": np.nan, "high": np.nan, "seed": str(one.seed)}
            for one, value in zip(own, values, strict=True)
            if one.row in several
        ]
        return pd.DataFrame(lines).assign(target=self.target, metric=metric)

    def _contingency(self) -> pd.DataFrame:
        """Return the calls of every row by both thresholds, of all basins together and of each."""
        lines = []
        for one, thresholds in zip(self.forecasts, self.thresholds, strict=True):
            for name in CALLS[:1] if one.calls else CALLS:
                for basin, here in self._places().items():
                    found = Contingency.of(one.test[here] >= thresholds[name], self.event[here])
                    line = {
                        score: float(getattr(found, score)) for score in ("pod", "far", "pofd", "pss", "hss", "csi")
                    }
                    lines.append({
                        "target": self.target, "row": one.row, "seed": _text(one.seed), "basin": basin,
                        "best": "–" if one.calls else name, "threshold": thresholds[name], **line,
                        **{k: int(v) for k, v in asdict(found).items()},
                    })  # fmt: skip
        return pd.DataFrame(lines)

    def _places(self) -> dict[str, np.ndarray]:
        return {"all": np.ones(len(self.event), bool), **{b: self.basin == k for k, b in enumerate(self.basins)}}

    def _murphy(self) -> pd.DataFrame:
        lines = []
        for one in self.forecasts:
            if not one.calls:
                parts = asdict(murphy(one.test, self.event, bins=BINS))
                parts |= {
                    "ece": calibration_error(one.test, self.event, bins=BINS),
                    "log_loss": log_loss(one.test, self.event),
                }
                lines.append({"target": self.target, "row": one.row, "seed": _text(one.seed), **parts})
        return pd.DataFrame(lines)

    def _reliability(self) -> pd.DataFrame:
        parts = [
            reliability(one.test, self.event, bins=BINS).assign(target=self.target, row=one.row, seed=_text(one.seed))
            for one in self.forecasts
            if not one.calls
        ]
        return pd.concat(parts, ignore_index=True)


def ranked(p: np.ndarray, event: np.ndarray, basin: np.ndarray) -> dict[str, Statistic]:
    """Return Brier skill, AUC and average precision of forecasts (m, n) as functions of sample weights.

    The Brier skill's reference is the frequency of each basin in the (reweighted) sample itself, whose summed
    squared error is Σ W f (1 - f) over the basins.
    """
    error, ranking = (p - event) ** 2, Ranking(p, event)

    def skill(w: np.ndarray) -> np.ndarray:
        total, hits = np.bincount(basin, w), np.bincount(basin, w * event)
        least = float((hits * (1 - hits / np.where(total > 0, total, 1))).sum())
        return 1 - error @ w / least if least > 0 else np.full(len(p), np.nan)

    return {BSS: skill, AUC: ranking.auc, AP: ranking.average_precision}


def averaged(mean: np.ndarray, statistic: Statistic) -> Statistic:
    """Return a statistic of forecasts as that of rows, given the matrix (rows, forecasts) that takes the means."""
    return lambda w: mean @ statistic(w)


def _over_seeds(forecasts: Sequence[Forecast]) -> tuple[list[str], np.ndarray]:
    """Return the rows' names and the matrix (rows, forecasts) that takes the mean over each row's seeds."""
    names = list(dict.fromkeys(one.row for one in forecasts))
    member = np.array([[float(one.row == name) for one in forecasts] for name in names])
    return names, member / member.sum(axis=1, keepdims=True)


def _text(seed: int | None) -> str:
    return "" if seed is None else str(seed)
