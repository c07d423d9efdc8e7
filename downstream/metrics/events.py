"""Scores of the probability of an event: Brier and its parts, ranks, yes/no calls.

Those that are bootstrapped take sample weights. A weight is how often a sample counts, so a bootstrap draw is a vector
of weights, and a score under it is the score of the resampled data. Whatever has to be sorted is sorted once
(`Ranking`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ...ssl.common.errors import EarthSSLError, check_known

CALLS = ("pss", "hss")
FLOOR = 1e-6  # least chance that the log loss believes: a forecast of 0 for what happens costs 14, not infinity


def log_loss(probability: np.ndarray, event: np.ndarray) -> float:
    """Return the mean of -ln of the chance given to what happened; chances below 1e-6 count as 1e-6."""
    p, o = checked(probability, event)
    return float(-np.log(np.maximum(np.where(o == 1, p, 1 - p), FLOOR)).mean())


# ---- Reliability -----------------------------------------------------------------------------------------------


def bins_of(probability: np.ndarray, count: int = 10) -> np.ndarray:
    """Return the number of each forecast's bin, ascending, shape (n,).

    Bins hold about equally many forecasts, as those of a rare event crowd near 0; equal forecasts share a bin.
    Where there are no more than `count` different forecasts, each is a bin.

    Raises:
        EarthSSLError: If fewer than 2 bins are asked for.
    """
    if count < 2:
        raise EarthSSLError(f"reliability: expected at least 2 bins, got {count}")
    values, at = np.unique(probability, return_inverse=True)
    if len(values) > count:
        # a value lies in the bin that holds the middle of its ranks
        middle = (rankdata(probability) - 0.5) / len(probability)
        at = np.unique(np.minimum((middle * count).astype(int), count - 1), return_inverse=True)[1]
    return np.asarray(at)


def reliability(probability: np.ndarray, event: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Return one line a bin: from, to, forecast (mean), observed (frequency), share (of the samples), n."""
    p, o = checked(probability, event)
    by_bin = pd.DataFrame({"p": p, "o": o}).groupby(bins_of(p, bins))
    found, n = by_bin["p"].agg(["min", "max", "mean"]).to_numpy().T, by_bin.size()
    return pd.DataFrame({"from": found[0], "to": found[1], "forecast": found[2], "observed": by_bin["o"].mean(),
                         "share": n / len(p), "n": n})  # fmt: skip


def calibration_error(probability: np.ndarray, event: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error: the mean over the bins of |forecast - observed|, by their samples."""
    table = reliability(probability, event, bins=bins)
    gap = (table["forecast"] - table["observed"]).abs()
    return float(table["share"].to_numpy() @ gap.to_numpy())


@dataclass(frozen=True)
class Murphy:
    """The Brier score in parts: brier = reliability - resolution + uncertainty + within_variance - within_covariance.

    Murphy 1973; the two terms within bins are those of Stephenson et al. 2008 (doi 10.1175/2007WAF2006116.1), and 0
    where a bin holds one forecast value.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float


def murphy(probability: np.ndarray, event: np.ndarray, bins: int = 10) -> Murphy:
    """Return the parts of the Brier score; they add up exactly whatever the bins."""
    p, o = checked(probability, event)
    at = bins_of(p, bins)
    forecast, observed = ((np.bincount(at, values) / np.bincount(at))[at] for values in (p, o))
    rate = float(o.mean())
    return Murphy(
        brier=float(((p - o) ** 2).mean()),
        reliability=float(((forecast - observed) ** 2).mean()),
        resolution=float(((observed - rate) ** 2).mean()),
        uncertainty=rate * (1 - rate),
        within_variance=float(((p - forecast) ** 2).mean()),
        within_covariance=float(2 * ((p - forecast) * (o - observed)).mean()),
    )


# ---- Ranks -----------------------------------------------------------------------------------------------------


class Ranking:
    """Forecasts sorted once, highest first, so that rank scores under new weights cost one pass over them.

    Args:
        probabilities: Of m forecasts, shape (m, n) or (n,); any numbers whose order is the forecast.
        event: 0 or 1, shape (n,).
    """

    def __init__(self, probabilities: np.ndarray, event: np.ndarray) -> None:
        p = np.atleast_2d(np.asarray(probabilities, dtype=float))
        _check_events(np.asarray(event), p.shape[1:])
        if not np.isfinite(p).all():
            raise EarthSSLError("expected finite forecasts, got NaN or infinity; leave those samples out")
        self._event = np.asarray(event, dtype=float)
        self._order = np.argsort(-p, axis=1, kind="stable")
        # the last of each run of equal forecasts; None where all differ
        self._ends: list[np.ndarray | None] = []
        for row, order in zip(p, self._order, strict=True):
            ends = np.append(np.flatnonzero(np.diff(row[order])), p.shape[1] - 1)
            self._ends.append(ends if len(ends) < p.shape[1] else None)

    def auc(self, weight: np.ndarray | None = None) -> np.ndarray:
        """Return the area under the ROC curve of each forecast, (m,): a tie counts half. NaN with one class only."""
        return np.array([_auc(*counts) for counts in self.counts(weight)])

    def average_precision(self, weight: np.ndarray | None = None) -> np.ndarray:
        """Return Σ (R_i - R_{i-1}) P_i over the different forecast values of each forecast, (m,); NaN without events.

        R_i and P_i are recall and precision of calling everything from the i-th highest value on.
        """
        return np.array([_average_precision(*counts) for counts in self.counts(weight)])

    def counts(self, weight: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each forecast the weight of events and of the others at or above each of its values."""
        w = np.ones(len(self._event)) if weight is None else np.asarray(weight, dtype=float)
        yes, no = w * self._event, w * (1 - self._event)
        found = []
        for order, ends in zip(self._order, self._ends, strict=True):
            hits, false_alarms = np.cumsum(yes[order]), np.cumsum(no[order])
            found.append((hits, false_alarms) if ends is None else (hits[ends], false_alarms[ends]))
        return found


def _auc(hits: np.ndarray, false_alarms: np.ndarray) -> float:
    total = hits[-1] * false_alarms[-1]
    if not total > 0:
        return float("nan")
    # the trapezoidal rule is what counts a tie half
    area = hits[0] * false_alarms[0] + (false_alarms[1:] - false_alarms[:-1]) @ (hits[1:] + hits[:-1])
    return float(area / (2 * total))


def _average_precision(hits: np.ndarray, false_alarms: np.ndarray) -> float:
    if not hits[-1] > 0:
        return float("nan")
    called = hits + false_alarms
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return float((hits[0] * precision[0] + (hits[1:] - hits[:-1]) @ precision[1:]) / hits[-1])


# ---- Calls -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Contingency:
    """How often an event was called and occurred: numbers, or arrays of the same shape.

    Attributes:
        hits: Called, occurred.
        false_alarms: Called, did not occur.
        misses: Not called, occurred.
        correct_negatives: Neither.
    """

    hits: np.ndarray
    false_alarms: np.ndarray
    misses: np.ndarray
    correct_negatives: np.ndarray

    @classmethod
    def of(cls, calls: np.ndarray, event: np.ndarray, weight: np.ndarray | None = None) -> Contingency:
        """Count the calls of m forecasts, bool (m, n) or (n,), against events 0 or 1, (n,)."""
        yes = np.asarray(calls, dtype=float)
        _check_events(np.asarray(event), yes.shape[-1:])
        w = np.ones(yes.shape[-1]) if weight is None else np.asarray(weight, dtype=float)
        occurred = w * event
        hits, called = yes @ occurred, yes @ w
        return cls(hits, called - hits, occurred.sum() - hits, w.sum() - occurred.sum() - (called - hits))

    @property
    def pod(self) -> np.ndarray:
        """Probability of detection, a / (a + c): the share of the events that were called."""
        return _ratio(self.hits, self.hits + self.misses)

    @property
    def pofd(self) -> np.ndarray:
        """Probability of false detection, b / (b + d): the share of the non-events that were called."""
        return _ratio(self.false_alarms, self.false_alarms + self.correct_negatives)

    @property
    def far(self) -> np.ndarray:
        """False alarm ratio, b / (a + b): the share of the calls that were wrong; NaN without calls."""
        return _ratio(self.false_alarms, self.hits + self.false_alarms)

    @property
    def csi(self) -> np.ndarray:
        """Critical success index, a / (a + b + c)."""
        return _ratio(self.hits, self.hits + self.false_alarms + self.misses)

    @property
    def pss(self) -> np.ndarray:
        """Peirce's skill score, POD - POFD."""
        return self.pod - self.pofd

    @property
    def hss(self) -> np.ndarray:
        """Heidke's skill score, (a + d - E) / (n - E), E being what chance gets right."""
        a, b, c, d = self.hits, self.false_alarms, self.misses, self.correct_negatives
        n = a + b + c + d
        chance = _ratio((a + b) * (a + c) + (c + d) * (b + d), n)
        return _ratio(a + d - chance, n - chance)


def best_threshold(probability: np.ndarray, event: np.ndarray, score: str) -> float:
    """Return the forecast value from which on calls have the largest PSS or HSS; the highest of several.

    It is meant for validation samples: a threshold chosen on the samples it is scored on flatters.

    Args:
        probability, event: Shape (n,).
        score: pss or hss.

    Raises:
        EarthSSLError: If the score is another, or there is one class only.
    """
    check_known("best_threshold", [score], CALLS)
    p, o = checked(probability, event)
    if not 0 < o.sum() < len(o):
        raise EarthSSLError(
            f"best_threshold: expected events and non-events to choose a threshold on, got {o.sum():g} events among "
            f"{len(o)} samples; lengthen the validation block"
        )
    ((a, b),) = Ranking(p, o).counts(None)
    counts = Contingency(a, b, a[-1] - a, b[-1] - b)
    return float(np.unique(p)[::-1][np.nanargmax(getattr(counts, score))])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    a, b = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0)[()]


def checked(probability: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and events as float64 (n,).

    Raises:
        EarthSSLError: If shapes differ, a probability lies outside [0, 1], or an event is neither 0 nor 1.
    """
    p, o = np.asarray(probability, dtype=float), np.asarray(event)
    if p.ndim != 1 or not len(p):
        raise EarthSSLError(f"expected probabilities of shape (n,), n > 0, got {p.shape}")
    _check_events(o, p.shape)
    if not ((p >= 0) & (p <= 1)).all():  # False for NaN too
        bad = p[~((p >= 0) & (p <= 1))]
        raise EarthSSLError(f"expected probabilities from 0 to 1, got {len(bad)} others, such as {bad[0]:g}")
    return p, o.astype(float)


def _check_events(event: np.ndarray, shape: tuple[int, ...]) -> None:
    if event.shape != shape or not np.isin(event, (0, 1)).all():
        raise EarthSSLError(f"expected events 0 or 1 of shape {shape}, got shape {event.shape} or other values")
