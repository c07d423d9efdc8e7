"""Scores of probability forecasts of an event: Brier and its parts, reliability, ROC and precision, contingency.

Every score takes sample weights, so that a bootstrap draw is a set of weights. Conventions: Murphy 1973 (doi
10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2), Wilks 2019 (Statistical Methods in the Atmospheric Sciences).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ..ssl.errors import EarthSSLError

BINS = 10


def check(probability: np.ndarray, event: np.ndarray, name: str = "") -> None:
    """Raise an EarthSSLError unless probabilities lie in [0, 1], events are 0 or 1, and both classes occur."""
    where = f" in row '{name}'" if name else ""
    if probability.shape != event.shape or probability.ndim != 1:
        raise EarthSSLError(f"expected one probability an event{where}, got {probability.shape} and {event.shape}")
    if not (np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()):
        raise EarthSSLError(f"expected probabilities within [0, 1]{where}, got others; calibrate or clip the forecasts")
    found = set(np.unique(event).tolist())
    if found != {0, 1}:
        raise EarthSSLError(
            f"expected events and non-events{where}, got only {sorted(found)} among {len(event)} samples; lengthen the "
            "block, or lower the threshold"
        )


def brier(probability: np.ndarray, event: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the Brier score, the mean of (p - o)²."""
    return float(np.average((probability - event) ** 2, weights=weights))


def brier_skill(
    probability: np.ndarray, event: np.ndarray, reference: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return 1 - Brier score / that of the reference probabilities: name the reference with the number."""
    base = brier(reference, event, weights)
    return 1 - brier(probability, event, weights) / base if base > 0 else float("nan")


@dataclass(frozen=True)
class Murphy:
    """The Brier score in parts: reliability - resolution + uncertainty (+ what the bins leave) = score.

    Attributes:
        reliability: Mean squared distance between forecast and frequency, 0 is best.
        resolution: Mean squared distance between frequencies of the bins and the overall one.
        uncertainty: p (1 - p) of the overall frequency p.
        within: Variance of the forecasts in their bins less twice their covariance with the events, so that the sum
            is the score itself (Stephenson et al. 2008, doi 10.1175/2007WAF2006116.1); 0 for discrete forecasts.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float

    @property
    def score(self) -> float:
        """The Brier score they add up to."""
        return self.reliability - self.resolution + self.uncertainty + self.within


def murphy(probability: np.ndarray, event: np.ndarray, bins: int = BINS, weights: np.ndarray | None = None) -> Murphy:
    """Return the decomposition over equally wide bins of the forecast probability."""
    table = reliability_table(probability, event, bins, weights)
    share = table["weight"].to_numpy() / table["weight"].sum()
    base = float(np.average(event, weights=weights))
    forecast, frequency = table["forecast"].to_numpy(), table["frequency"].to_numpy()
    reliability = float((share * (forecast - frequency) ** 2).sum())
    resolution = float((share * (frequency - base) ** 2).sum())
    uncertainty = base * (1 - base)
    total = brier(probability, event, weights)
    return Murphy(reliability, resolution, uncertainty, total - (reliability - resolution + uncertainty))


def reliability_table(
    probability: np.ndarray, event: np.ndarray, bins: int = BINS, weights: np.ndarray | None = None
) -> pd.DataFrame:
    """Return for each bin that holds a forecast: low, high, weight, mean forecast, frequency of the event."""
    w = np.ones(len(event)) if weights is None else weights
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, bins - 1)
    total = np.bincount(at, w, bins)
    some = total > 0
    mean = np.bincount(at, w * probability, bins)[some] / total[some]
    rate = np.bincount(at, w * event, bins)[some] / total[some]
    return pd.DataFrame(
        {"low": edges[:-1][some], "high": edges[1:][some], "weight": total[some], "forecast": mean, "frequency": rate}
    )


def expected_calibration_error(
    probability: np.ndarray, event: np.ndarray, bins: int = BINS, weights: np.ndarray | None = None
) -> float:
    """Return the weighted mean distance between mean forecast and frequency over the bins."""
    table = reliability_table(probability, event, bins, weights)
    return float(np.average((table["forecast"] - table["frequency"]).abs(), weights=table["weight"]))


class Ranking:
    """Area under the ROC curve of one set of forecasts for many sets of weights, sorted once."""

    def __init__(self, probability: np.ndarray, event: np.ndarray) -> None:
        order = np.argsort(probability, kind="stable")
        self._order, self._event = order, event[order].astype(float)
        self._starts = np.flatnonzero(np.r_[True, np.diff(probability[order]) > 0])

    def auc(self, weights: np.ndarray | None = None) -> float:
        """Return the chance that an event ranks above a non-event, ties counting half; NaN with one class only."""
        w = np.ones(len(self._event)) if weights is None else weights[self._order]
        positive, negative = (np.add.reduceat(w * part, self._starts) for part in (self._event, 1 - self._event))
        below = np.cumsum(negative) - negative
        both = positive.sum() * negative.sum()
        return float((positive * (below + negative / 2)).sum() / both) if both > 0 else float("nan")

    def average_precision(self, weights: np.ndarray | None = None) -> float:
        """Return Σ (recall step) × precision from the highest forecast down; NaN without events."""
        w = np.ones(len(self._event)) if weights is None else weights[self._order]
        hits = np.add.reduceat(w * self._event, self._starts)[::-1]
        all_ = np.add.reduceat(w, self._starts)[::-1]
        if not hits.sum() > 0:
            return float("nan")
        seen = np.cumsum(all_)
        precision = np.divide(np.cumsum(hits), seen, out=np.zeros_like(seen), where=seen > 0)
        return float((hits * precision).sum() / hits.sum())


@dataclass(frozen=True)
class Contingency:
    """Yes/no forecasts against events: hits, false alarms, misses, correct negatives (weights add up)."""

    hits: float
    false_alarms: float
    misses: float
    correct_negatives: float

    @classmethod
    def of(cls, forecast: np.ndarray, event: np.ndarray, weights: np.ndarray | None = None) -> Contingency:
        """Return the table of boolean forecasts and events."""
        w = np.ones(len(event)) if weights is None else weights
        yes, was = forecast.astype(bool), event.astype(bool)
        cells = [w[a & b].sum() for a, b in ((yes, was), (yes, ~was), (~yes, was), (~yes, ~was))]
        return cls(*map(float, cells))

    @property
    def total(self) -> float:
        """Number of samples."""
        return self.hits + self.false_alarms + self.misses + self.correct_negatives

    @cached_property
    def pod(self) -> float:
        """Probability of detection, hits / events."""
        return _ratio(self.hits, self.hits + self.misses)

    @cached_property
    def pofd(self) -> float:
        """Probability of false detection, false alarms / non-events."""
        return _ratio(self.false_alarms, self.false_alarms + self.correct_negatives)

    @cached_property
    def far(self) -> float:
        """False alarm ratio, false alarms / warnings; NaN without a warning."""
        return _ratio(self.false_alarms, self.hits + self.false_alarms)

    @cached_property
    def pss(self) -> float:
        """Peirce skill score, POD - POFD."""
        return self.pod - self.pofd

    @cached_property
    def csi(self) -> float:
        """Critical success index, hits / (hits + false alarms + misses)."""
        return _ratio(self.hits, self.hits + self.false_alarms + self.misses)

    @cached_property
    def hss(self) -> float:
        """Heidke skill score: share correct above what chance would get."""
        a, b, c, d, n = self.hits, self.false_alarms, self.misses, self.correct_negatives, self.total
        by_chance = ((a + b) * (a + c) + (c + d) * (b + d)) / n
        return _ratio(a + d - by_chance, n - by_chance)


def _ratio(over: float, under: float) -> float:
    return over / under if under > 0 else float("nan")


def best_threshold(probability: np.ndarray, event: np.ndarray, score: str) -> float:
    """Return the probability from which to warn that gives the best `score` ("pss" or "hss"); pick it on validation."""
    order = np.argsort(-probability, kind="stable")
    p, o = probability[order], event[order].astype(float)
    hits, alarms = np.cumsum(o), np.cumsum(1 - o)
    last = np.flatnonzero(np.r_[np.diff(p) < 0, True])  # a threshold takes ties together
    a, b = hits[last], alarms[last]
    positives, negatives = o.sum(), len(o) - o.sum()
    if score == "pss":
        value = a / positives - b / negatives
    elif score == "hss":
        c, d, n = positives - a, negatives - b, len(o)
        chance = ((a + b) * (a + c) + (c + d) * (b + d)) / n
        value = (a + d - chance) / np.maximum(n - chance, 1e-12)
    else:
        raise EarthSSLError(f"expected a threshold for pss or hss, got '{score}'")
    return float(p[last][int(np.argmax(value))])


__all__ = [
    "BINS",
    "Contingency",
    "Murphy",
    "Ranking",
    "best_threshold",
    "brier",
    "brier_skill",
    "check",
    "expected_calibration_error",
    "murphy",
    "reliability_table",
]
