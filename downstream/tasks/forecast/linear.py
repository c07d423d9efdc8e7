"""Linear forecasts of the whole globe: ridge regression on principal components of the state, direct and iterative.

*Direct* regresses each lead's fields on the present state; *iterative* regresses the next step on this one and
is applied to its own output (as WeatherBench 1's linear regressions do on whole fields). Components of all
variables together, as many as training carries, make a ridge on components a ridge on the fields themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...features.eof import Eof, lagged
from ...heads.ridge_path import RidgePath
from .baselines import ANOMALY, CHANGE, Forecast
from .samples import ForecastSamples

MOST_STATES = 1500  # training states that the components are found from, evenly spread
MOST_COMPONENTS = 400
# Of standardised components; and, for whole states, of their variance over the total.
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-4, 3.1, 0.5))
STATE_PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-6, 1.1, 0.5))


@dataclass(frozen=True, eq=False)
class States:
    """Principal components of the state, every variable together, at every step of a store.

    Attributes:
        eof: Patterns over (variable, row, column), from training states.
        components: Shape (time, k).
    """

    eof: Eof
    components: np.ndarray

    @classmethod
    def of(cls, samples: ForecastSamples, most: int = MOST_COMPONENTS) -> States:
        """Return the leading components, `most` of them or as many as training carries."""
        store = samples.store
        flat = np.nan_to_num(samples.fields).reshape(len(samples.fields), -1)
        training = np.flatnonzero(store.splits.inside(samples.times.astype("datetime64[ns]"), "train"))
        chosen = training[np.unique(np.linspace(0, len(training) - 1, min(len(training), MOST_STATES)).astype(int))]
        weight = (store.statistics.known * store.grid.area).ravel()
        eof = Eof.fit(flat[chosen], weight, min(most, _rank(flat[chosen], weight)))
        parts = np.array_split(flat, max(1, len(flat) // 512))
        return cls(eof, np.concatenate([eof.project(part) for part in parts]))

    @property
    def scaled(self) -> np.ndarray:
        """Components over the total standard deviation, so that penalties do not depend on units, (time, k)."""
        return self.components / np.sqrt((self.eof.std**2).sum())

    def fields(self, components: np.ndarray, samples: ForecastSamples) -> np.ndarray:
        """Return the forecast variables of components (n, k), float32, (n, forecast variable, row, column)."""
        shape = (len(samples.store.variables), *samples.store.grid.shape)
        patterns = np.nan_to_num(self.eof.patterns).reshape(-1, *shape)[:, samples.positions]
        mean = np.nan_to_num(self.eof.mean).reshape(shape)[samples.positions]
        flat = components.astype(np.float32) @ patterns.reshape(len(patterns), -1).astype(np.float32)
        return np.asarray(flat.reshape(-1, *mean.shape) + mean.astype(np.float32))


def _rank(flat: np.ndarray, weight: np.ndarray) -> int:
    """Return how many components some hundred states carry above rounding."""
    few = flat[np.unique(np.linspace(0, len(flat) - 1, min(len(flat), MOST_COMPONENTS + 100)).astype(int))]
    used = weight > 0
    x = (few[:, used] - few[:, used].mean(axis=0)).astype(np.float64) * np.sqrt(weight[used])
    power = np.linalg.eigvalsh(x @ x.T)
    return max(1, min(int((power > 1e-10 * power[-1]).sum()), len(few) - 1))


def path_errors(
    path: RidgePath, features: np.ndarray, targets: np.ndarray, weight: np.ndarray, penalties: Sequence[float]
) -> np.ndarray:
    """Return Σ weight × squared error over samples and targets for each penalty, without making the predictions.

    Args:
        path: Fitted without groups.
        features: Shape (n, feature).
        targets: Shape (n, target), finite.
        weight: Of each target, (target,).
        penalties: As for `RidgePath.predict`.
    """
    z = ((features - path.feature_mean[0]) / path.feature_scale) @ path.directions
    y = targets - path.target_mean[0]
    loadings = path.loadings
    # The prediction is z diag(a) loadings with a = 1 / (power + penalty n): a quadratic form in a.
    cross = ((z.T @ (y * weight)) * loadings).sum(axis=1)
    square = (z.T @ z) * ((loadings * weight) @ loadings.T)
    power = float((y * y * weight).sum())
    a = 1 / (path.power + np.asarray(penalties)[:, None] * path.samples)
    return np.asarray(power - 2 * a @ cross + np.einsum("pr,rs,ps->p", a, square, a, optimize=True))


@dataclass(frozen=True, eq=False)
class Choice:
    """What validation chose for one lead and variable.

    Attributes:
        features: Name of the features.
        base: What the prediction is added to.
        path: Of all penalties.
        penalty: Multiple of n.
        error: Validation error, Σ weight × squared error.
    """

    features: str
    base: str
    path: RidgePath
    penalty: float
    error: float


@dataclass(frozen=True, eq=False)
class Direct:
    """One ridge regression a lead and variable, onto all cells; features, penalty and base chosen on validation.

    A missing target counts as no anomaly in fit and choice, and nowhere in a score.

    Attributes:
        samples: What it forecasts.
        features: By name, on all steps, (time, feature), NaN where there is no window.
        bases: By name.
        chosen: By (lead, position of the variable).
    """

    samples: ForecastSamples
    features: Mapping[str, np.ndarray]
    bases: Mapping[str, Forecast]
    chosen: Mapping[tuple[int, int], Choice]

    @classmethod
    def fit(
        cls,
        samples: ForecastSamples,
        features: Mapping[str, np.ndarray],
        bases: Mapping[str, Forecast],
        *,
        standardise: bool,
        penalties: Sequence[float],
    ) -> Direct:
        """Return the regressions, fitted on training samples only.

        Args:
            samples: What to forecast.
            features: Candidates.
            bases: Candidates.
            standardise: Give each feature unit variance first.
            penalties: To choose from, multiples of n.

        Raises:
            EarthSSLError: If there is nothing to choose from.
        """
        if not features or not penalties or not bases:
            raise EarthSSLError("expected features, penalties and bases to choose from, got none of one of them")
        weight = samples.weight.reshape(len(samples.names), -1)
        chosen: dict[tuple[int, int], Choice] = {}
        for lead in samples.leads:
            train, val = samples.inits("train", lead), samples.inits("val", lead)
            for base, forecast in bases.items():
                y, y_val = (
                    _cells(np.nan_to_num(samples.truth(rows, lead)) - forecast(rows, lead)) for rows in (train, val)
                )
                for name, x in features.items():
                    whole = RidgePath.fit(x[train], y.reshape(len(y), -1), standardise=standardise)
                    for k, path in enumerate(_split(whole, len(weight))):
                        errors = path_errors(path, x[val], y_val[:, k], weight[k], penalties)
                        best = int(errors.argmin())
                        found = Choice(name, base, path, penalties[best], float(errors[best]))
                        if (lead, k) not in chosen or found.error < chosen[lead, k].error:
                            chosen[lead, k] = found
        return cls(samples, features, bases, chosen)

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        out = np.empty((len(inits), *self.samples.weight.shape), np.float32)
        for k in range(len(self.samples.names)):
            one = self.chosen[lead, k]
            flat = one.path.predict(self.features[one.features][inits], [one.penalty])[0]
            out[:, k] = flat.reshape(len(inits), *out.shape[2:]) + self.bases[one.base](inits, lead)[:, k]
        return out

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain values by variable and lead."""
        return {
            f"{self.samples.names[k]} {self.samples.label(lead)}": {
                "features": one.features, "base": one.base, "penalty": one.penalty,
            }
            for (lead, k), one in self.chosen.items()
        }  # fmt: skip


def _cells(fields: np.ndarray) -> np.ndarray:
    return fields.reshape(*fields.shape[:2], -1).astype(np.float64)


def _split(path: RidgePath, parts: int) -> list[RidgePath]:
    """Return the path of each of equally many targets."""
    pairs = zip(np.split(path.loadings, parts, axis=1), np.split(path.target_mean, parts, axis=1), strict=True)
    return [replace(path, loadings=loadings, target_mean=mean) for loadings, mean in pairs]


@dataclass(frozen=True, eq=False)
class Iterative:
    """One ridge regression from a state to the next, applied again and again.

    Number of components, penalty and base are chosen on validation, on the mean error over the leads of the
    forecast that is made by iteration, over the components of all variables.

    Attributes:
        samples: What it forecasts.
        states: Its state space.
        step: Matrix and constant of one step, on the leading components.
        chosen: Number of components, base, penalty.
    """

    samples: ForecastSamples
    states: States
    step: tuple[np.ndarray, np.ndarray]
    chosen: tuple[int, str, float]

    @classmethod
    def fit(
        cls,
        samples: ForecastSamples,
        states: States,
        *,
        counts: Sequence[int],
        penalties: Sequence[float] = STATE_PENALTIES,
        bases: Sequence[str] = (ANOMALY, CHANGE),
    ) -> Iterative:
        """Return the regression, fitted on training samples only.

        Args:
            samples: What to forecast.
            states: The state space.
            counts: Numbers of leading components to choose from.
            penalties, bases: To choose from.
        """
        z, total = states.scaled, states.components.shape[1]
        train = samples.inits("train", samples.leads[0])
        best: tuple[float, tuple[np.ndarray, np.ndarray], tuple[int, str, float]] | None = None
        for count in sorted({min(count, total) for count in counts}):
            for base in bases:
                change = z[train + 1, :count] - (z[train, :count] if base == CHANGE else 0.0)
                path = RidgePath.fit(z[train, :count], change, standardise=False)
                for penalty in penalties:
                    step = _step(path, penalty, base)
                    error = sum(_state_error(step, z, samples, lead) for lead in samples.leads)
                    if best is None or error < best[0]:
                        best = error, step, (count, base, penalty)
        assert best is not None
        return cls(samples, states, best[1], best[2])

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        z = _iterated(self.step, self.states.scaled[inits], lead)
        full = np.zeros((len(inits), self.states.components.shape[1]))
        full[:, : z.shape[1]] = z * np.sqrt((self.states.eof.std**2).sum())
        return self.states.fields(full, self.samples)

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain values."""
        count, base, penalty = self.chosen
        return {"components": count, "base": base, "penalty": penalty, "step": self.samples.label(1)}


def _step(path: RidgePath, penalty: float, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix A and constant c with next state = state A + c."""
    matrix = path.coefficients(penalty)
    constant = path.target_mean[0] - path.feature_mean[0] @ matrix
    return matrix + (np.eye(len(matrix)) if base == CHANGE else 0.0), constant


def _iterated(step: tuple[np.ndarray, np.ndarray], states: np.ndarray, lead: int) -> np.ndarray:
    matrix, constant = step
    z = states[:, : len(matrix)]
    for _ in range(lead):
        z = z @ matrix + constant
    return z


def _state_error(step: tuple[np.ndarray, np.ndarray], z: np.ndarray, samples: ForecastSamples, lead: int) -> float:
    """Return the mean squared error over all components on validation; those left out are forecast as 0."""
    rows = samples.inits("val", lead)
    with np.errstate(over="ignore", invalid="ignore"):  # an unstable step is one that is not chosen
        forecast = _iterated(step, z[rows], lead)
        truth = z[rows + lead]
        lost = (truth[:, forecast.shape[1] :] ** 2).sum()
        error = float(((truth[:, : forecast.shape[1]] - forecast) ** 2).sum() + lost) / len(rows)
    return error if np.isfinite(error) else np.inf


def state_features(states: States) -> dict[str, np.ndarray]:
    """Return the present state as features: a linear regression on whole fields."""
    return {f"{states.components.shape[1]} components": states.scaled}


def pca_features(states: States, counts: Sequence[int], window: int) -> dict[str, np.ndarray]:
    """Return the leading components over the window's steps, one set for each count the data carry."""
    total = states.components.shape[1]
    counts = [count for count in sorted(set(counts)) if count <= total] or [total]
    return {f"{count} PCs × {window} steps": lagged(states.components[:, :count], window) for count in counts}


def linear_direct(samples: ForecastSamples, states: States, bases: Mapping[str, Forecast]) -> Direct:
    """Return linear regression on the whole present state, one for each lead and variable."""
    return Direct.fit(samples, state_features(states), bases, standardise=False, penalties=STATE_PENALTIES)


def linear_iterative(samples: ForecastSamples, states: States, counts: Sequence[int]) -> Iterative:
    """Return linear regression to the next step, iterated."""
    return Iterative.fit(samples, states, counts=[*counts, states.components.shape[1]])


def feature_ridge(
    samples: ForecastSamples, features: Mapping[str, np.ndarray], bases: Mapping[str, Forecast]
) -> Direct:
    """Return ridge regression on features of the window (components, say), one for each lead and variable."""
    return Direct.fit(samples, features, bases, standardise=True, penalties=PENALTIES)
