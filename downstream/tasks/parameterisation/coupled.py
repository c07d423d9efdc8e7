"""The slow variables coupled to a closure: long runs and their climate, and ensemble forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scoringrules

from ....ssl.sources.lorenz96 import resolved, rk4
from ...results.target import Target, additive
from .closures import Closure

DETERMINISTIC, NOISE, STATE_NOISE = "", ", AR(1)", ", AR(1) by state"  # added to a row's name
BOUND = 100.0  # |X| beyond which a run has blown up; the truth stays within 20
X_BINS, U_BINS = np.arange(-25.0, 30.0, 0.5), np.arange(-30.0, 40.0, 0.5)
QUANTILES = (0.01, 0.99)
MOST_LAG = 40  # fields of the autocorrelation


@dataclass(frozen=True, eq=False)
class Course:
    """What members did.

    Attributes:
        slow, subgrid: X and U, as the closure said it with its noise, at every kept step, (kept, member, K); 0 after
            a blow-up.
        ended: Model step at which each member left the bounds, (member,); -1 where it never did.
    """

    slow: np.ndarray
    subgrid: np.ndarray
    ended: np.ndarray

    def of(self, members: slice | np.ndarray) -> Course:
        """Return some of the members."""
        return Course(self.slow[:, members], self.subgrid[:, members], self.ended[members])


def run(
    closure: Closure,
    history: np.ndarray,
    noises: Sequence[str],
    steps: int,
    *,
    dt: float,
    stride: int,
    forcing: float,
    keep: Sequence[int] | int,
    seed: int,
) -> dict[str, Course]:
    """Return the course of members from given starts, once for each kind of noise.

    The closure is called once a step, as physics is in a model; U stays for the four stages of the step. Members of all
    kinds are run side by side, and those of the same start see the same random numbers.

    Args:
        closure: What is told of the fast variables.
        history: X at every model step up to the start, (member, step, K); at least the window's.
        noises: Kinds: `DETERMINISTIC`, `NOISE`, `STATE_NOISE`.
        steps: Model steps.
        dt: Time units of one.
        stride: Model steps from one field of the closure's history to the next.
        forcing: F.
        keep: Steps that are kept, or every how many.
        seed: Of the noise, whose start is drawn from its stationary distribution.
    """
    rng = np.random.default_rng(seed)
    count, kinds = len(history), len(noises)
    length = (closure.window - 1) * stride + 1
    past = np.tile(np.moveaxis(history[:, -length:], 1, 0), (1, kinds, 1))  # a ring over time: (step, member, K)
    by_state = np.repeat([kind == STATE_NOISE for kind in noises], count)[:, None]
    size = np.repeat([float(kind != DETERMINISTIC) for kind in noises], count)[:, None]
    phi = np.where(by_state, closure.phi[1], closure.phi[0])
    fresh = np.sqrt(1 - phi**2)
    x, ended = past[-1].copy(), np.full(count * kinds, -1)
    noise = np.tile(rng.standard_normal((count, x.shape[1])), (kinds, 1))
    kept = range(0, steps, keep) if isinstance(keep, int) else keep
    places = {step: k for k, step in enumerate(kept)}
    slow, subgrid = np.zeros((2, len(kept), *x.shape))
    back = np.arange(-(length - 1), 1, stride)
    for step in range(max(kept) + 1):
        here = (length - 1 + step) % length
        past[here] = x
        mean, spread = closure(past[(here + back) % length].swapaxes(0, 1), step)
        unresolved = mean + size * noise * np.where(by_state, spread, closure.spread)
        if step in places:
            slow[places[step]], subgrid[places[step]] = x, unresolved
        x = rk4(lambda now, u=unresolved.T: (resolved(now, forcing) - u,), (x.T,), dt)[0].T
        with np.errstate(invalid="ignore"):
            lost = ~(np.abs(x).max(axis=1) < BOUND)
        if lost.any():
            ended[lost & (ended < 0)] = step
            x[lost] = 0.0
        if (ended >= 0).any():
            x[ended >= 0] = 0.0
            past[:, ended >= 0] = 0.0
        noise = phi * noise + fresh * np.tile(rng.standard_normal((count, x.shape[1])), (kinds, 1))
    parts = [slice(k * count, (k + 1) * count) for k in range(kinds)]
    return {kind: Course(slow, subgrid, ended).of(part) for kind, part in zip(noises, parts, strict=True)}


def density(slow: np.ndarray, subgrid: np.ndarray | None = None) -> np.ndarray:
    """Return the share of the values in each bin of X, or of X and U; values beyond the last bin count in it."""
    x = np.clip(slow.ravel(), X_BINS[0], X_BINS[-1])
    if subgrid is None:
        return np.asarray(np.histogram(x, X_BINS)[0] / x.size)
    u = np.clip(subgrid.ravel(), U_BINS[0], U_BINS[-1])
    return np.asarray(np.histogram2d(x, u, (X_BINS, U_BINS))[0] / x.size)


def hellinger(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Hellinger distance of two densities on the same bins, 0 (alike) to 1 (apart)."""
    return float(np.sqrt(max(0.0, 0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum())))


def autocorrelation(slow: np.ndarray) -> np.ndarray:
    """Return the autocorrelation of X (time, member, K) at lags of 0, 1, … fields, the mean over all."""
    left = slow - slow.mean()
    lags = range(min(MOST_LAG, len(slow) - 1) + 1)
    products = [float((left[lag:] * left[: len(left) - lag]).mean()) for lag in lags]
    return np.array(products) / max(products[0], 1e-12)


def climate(course: Course, truth: Course) -> dict[str, float]:
    """Return how the climate of runs differs from the truth's; of blown-up runs nothing but that they did."""
    whole = course.of(course.ended < 0)
    found: dict[str, float] = {"runs": len(course.ended), "blown up": int((course.ended >= 0).sum())}
    if not len(whole.ended):
        return found
    low, high = (np.quantile(whole.slow, q) - np.quantile(truth.slow, q) for q in QUANTILES)
    curves = autocorrelation(whole.slow), autocorrelation(truth.slow)
    common = min(map(len, curves))
    apart = curves[0][:common] - curves[1][:common]
    return found | {
        "mean X": float(whole.slow.mean()), "sd X": float(whole.slow.std()), "mean U": float(whole.subgrid.mean()),
        "sd U": float(whole.subgrid.std()),
        "sd U over truth": float(whole.subgrid.std() / truth.subgrid.std()),
        "sd X over truth": float(whole.slow.std() / truth.slow.std()),
        "1 % of X, off by": float(low), "99 % of X, off by": float(high),
        "autocorrelation, rms off": float(np.sqrt((apart**2).mean())),
        "Hellinger X": hellinger(density(whole.slow), density(truth.slow)),
        "Hellinger X and U": hellinger(density(whole.slow, whole.subgrid), density(truth.slow, truth.subgrid)),
    }  # fmt: skip


def closeness(course: Course, truth: Course) -> np.ndarray:
    """Return 1 - the Hellinger distances of X, and of X and U, of each run to the truth, (2, run); 0 if it blew up."""
    x, both = density(truth.slow), density(truth.slow, truth.subgrid)
    found = np.zeros((2, len(course.ended)))
    for k in np.flatnonzero(course.ended < 0):
        one = course.of(slice(k, k + 1))
        found[:, k] = 1 - hellinger(density(one.slow), x), 1 - hellinger(density(one.slow, one.subgrid), both)
    return found


def ensemble_scores(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the fair CRPS, squared error of the mean and the variance that it should have, (3, case).

    The CRPS is mean |x - y| - Σ |x_i - x_j| / (2 M (M - 1)) over ordered pairs (Ferro 2014); of one member, |x - y|.

    Args:
        members: (member, case).
        truth: (case,).
    """
    count = len(members)
    if count == 1:
        return np.stack([np.abs(members[0] - truth), (members[0] - truth) ** 2, np.zeros_like(truth)])
    crps = scoringrules.crps_ensemble(truth, members, m_axis=0, estimator="pwm")  # the fair one, by sorting
    # Of a mean of so many members: the variance that the error of a calibrated ensemble has (Fortin et al. 2014).
    expected = (1 + 1 / count) * members.var(axis=0, ddof=1)
    return np.stack([crps, (members.mean(axis=0) - truth) ** 2, expected])


def climate_table(courses: dict[str, Course], truth: Course, dt: float) -> pd.DataFrame:
    """Return `climate` of every row, the truth first, with the mean time units until a blow-up."""
    rows = [{"row": "truth", **climate(truth, truth)}]
    for name, course in courses.items():
        lost = course.ended[course.ended >= 0]
        rows.append({"row": name, **climate(course, truth), "blow-up after": dt * lost.mean() if len(lost) else np.nan})
    return pd.DataFrame(rows)


def forecast_target(name: str, reference: np.ndarray, units: np.ndarray) -> Target:
    """Return the target of ensemble forecasts, whose rows hold `ensemble_scores`.

    Args:
        name: Of the target.
        reference: CRPS of an ensemble that knows nothing of the state, (case,).
        units: Independent unit of each case.
    """
    metrics = [
        additive("crps_skill", lambda row: row.forecast[name][0], lambda error, w: 1 - error / (reference @ w)),
        additive("crps", lambda row: row.forecast[name][0], lambda error, w: error / w.sum(), larger_is_better=False),
        additive("rmse", lambda row: row.forecast[name][1], lambda error, w: np.sqrt(error / w.sum()),
                 larger_is_better=False),
        additive("spread_over_error", lambda row: row.forecast[name][1:],
                 lambda both, w: np.sqrt(both[1] / np.maximum(both[0], 1e-12)), compared=False),
    ]  # fmt: skip
    return Target(name, units, metrics)
