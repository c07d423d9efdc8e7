"""Linear forecasts, closed form: of the whole globe, direct and iterative, and of each patch from its own features.

*Direct* regresses each lead's fields on the present state; *iterative* regresses the next step on this one and
is applied to its own output (as WeatherBench 1's linear regressions do on whole fields). Components of all
variables together, as many as training carries, make a ridge on components a ridge on the fields themselves.
The *patch head* is one linear map for all places, from the features of a patch to the patch's future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...features.eof import Eof, lagged
from ...features.patches import PatchFeatures, PatchGrid, pca_features, raw_features
from ...heads.patch_ridge import PENALTIES, PatchRidge, observed_mean
from ...heads.ridge_path import RidgePath
from .baselines import ANOMALY, CHANGE, Forecast
from .samples import ForecastSamples

MOST_STATES = 1500  # training states that the components are found from, evenly spread
MOST_COMPONENTS = 400
# Of standardised components; and, for whole states, of their variance over the total.
COMPONENT_PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-4, 3.1, 0.5))
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
    def of(cls, samples: ForecastSamples) -> States:
        """Return the leading components, `MOST_COMPONENTS` of them or as many as training carries."""
        flat = np.nan_to_num(samples.fields).reshape(len(samples.fields), -1)
        training = np.flatnonzero(samples.inside("train"))
        chosen = training[np.unique(np.linspace(0, len(training) - 1, min(len(training), MOST_STATES)).astype(int))]
        weight = (samples.store.statistics.known * samples.store.grid.area).ravel()
        eof = Eof.fit(flat[chosen], weight, MOST_COMPONENTS, fewer=True)
        parts = np.array_split(flat, max(1, len(flat) // 512))
        return cls(eof, np.concatenate([eof.project(part) for part in parts]))

    @property
    def deviation(self) -> float:
        """Total standard deviation."""
        return float(np.sqrt((self.eof.std**2).sum()))

    @property
    def scaled(self) -> np.ndarray:
        """Components over the total standard deviation, so that penalties do not depend on units, (time, k)."""
        return self.components / self.deviation

    def fields(self, components: np.ndarray, samples: ForecastSamples) -> np.ndarray:
        """Return the forecast variables of components (n, k), float32, (n, forecast variable, row, column)."""
        shape = (len(samples.store.variables), *samples.store.grid.shape)
        patterns = np.nan_to_num(self.eof.patterns).reshape(-1, *shape)[:, samples.positions]
        mean = np.nan_to_num(self.eof.mean).reshape(shape)[samples.positions]
        flat = components.astype(np.float32) @ patterns.reshape(len(patterns), -1).astype(np.float32)
        return np.asarray(flat.reshape(-1, *mean.shape) + mean.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Choice:
    """What validation chose for one lead and variable.

    Attributes:
        features: Name of the features.
        base: What the prediction is added to.
        penalty: Multiple of n.
        error: On validation; only those of one lead and variable compare.
        departure: From initial steps to departures from the base, (sample, row, column).
    """

    features: str
    base: str
    penalty: float
    error: float
    departure: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Regression:
    """Regressions, one a lead and variable, each added to its base.

    Attributes:
        samples: What it forecasts.
        bases: By name.
        chosen: By (lead, position of the variable).
    """

    samples: ForecastSamples
    bases: Mapping[str, Forecast]
    chosen: Mapping[tuple[int, int], Choice]

    @classmethod
    def best(
        cls,
        samples: ForecastSamples,
        bases: Mapping[str, Forecast],
        candidates: Callable[[int], Iterable[tuple[int, Choice]]],
    ) -> Regression:
        """Return the regressions that do best on validation.

        Args:
            samples, bases: As above.
            candidates: Returns those of a lead, each with the position of its variable; the first of equals is taken.

        Raises:
            EarthSSLError: If there is nothing to choose from.
        """
        chosen: dict[tuple[int, int], Choice] = {}
        for lead in samples.leads:
            for k, one in candidates(lead):
                if (lead, k) not in chosen or one.error < chosen[lead, k].error:
                    chosen[lead, k] = one
        if not chosen:
            raise EarthSSLError("expected features and bases to choose from, got none of one of them")
        return cls(samples, bases, chosen)

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        out = np.empty((len(inits), *self.samples.weight.shape), np.float32)
        for k in range(len(self.samples.names)):
            one = self.chosen[lead, k]
            out[:, k] = one.departure(inits) + self.bases[one.base](inits, lead)[:, k]
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


def feature_ridge(
    samples: ForecastSamples,
    features: Mapping[str, np.ndarray],
    bases: Mapping[str, Forecast],
    *,
    standardise: bool = True,
    penalties: Sequence[float] = COMPONENT_PENALTIES,
) -> Regression:
    """Return ridge regressions from features of the globe onto all cells, fitted on training samples only.

    A missing target counts as no anomaly in fit and choice, and nowhere in a score.

    Args:
        samples: What to forecast.
        features: Candidates on all steps, (time, feature), NaN where there is no window.
        bases: Candidates.
        standardise: Give each feature unit variance first.
        penalties: To choose from, multiples of n.
    """
    weight = samples.weight.reshape(len(samples.names), -1)

    def departure(path: RidgePath, x: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda inits: path.predict(x[inits], [penalty])[0].reshape(-1, *samples.weight.shape[1:])

    def candidates(lead: int) -> Iterable[tuple[int, Choice]]:
        train, val = samples.inits("train", lead), samples.inits("val", lead)
        for base, forecast in bases.items():
            y, y_val = (
                (np.nan_to_num(samples.truth(rows, lead)) - forecast(rows, lead))
                .reshape(len(rows), *weight.shape)
                .astype(np.float64)
                for rows in (train, val)
            )
            for name, x in features.items():
                whole = RidgePath.fit(x[train], y.reshape(len(y), -1), standardise=standardise)
                for k, path in enumerate(_split(whole, len(weight))):
                    errors = path_errors(path, x[val], y_val[:, k], weight[k], penalties)
                    best = int(errors.argmin())
                    found = departure(path, x, penalties[best])
                    yield k, Choice(name, base, penalties[best], float(errors[best]), found)

    return Regression.best(samples, bases, candidates)


def _split(path: RidgePath, parts: int) -> list[RidgePath]:
    """Return the path of each of equally many targets."""
    pairs = zip(np.split(path.loadings, parts, axis=1), np.split(path.target_mean, parts, axis=1), strict=True)
    return [replace(path, loadings=loadings, target_mean=mean) for loadings, mean in pairs]


def linear_direct(samples: ForecastSamples, states: States, bases: Mapping[str, Forecast]) -> Regression:
    """Return linear regression on the whole present state, one for each lead and variable."""
    features = {f"{states.components.shape[1]} components": states.scaled}
    return feature_ridge(samples, features, bases, standardise=False, penalties=STATE_PENALTIES)


def window_states(states: States, counts: Sequence[int], window: int) -> dict[str, np.ndarray]:
    """Return the leading components over the window's steps, one set for each count the data carry."""
    total = states.components.shape[1]
    counts = [count for count in sorted(set(counts)) if count <= total] or [total]
    return {f"{count} PCs × {window} steps": lagged(states.components[:, :count], window) for count in counts}


def patch_head(
    samples: ForecastSamples,
    grid: PatchGrid,
    features: Mapping[str, np.ndarray],
    bases: Mapping[str, Forecast],
    penalties: Sequence[float] = PENALTIES,
) -> Regression:
    """Return linear heads that all places share, from the features of a patch to its cells ahead.

    Args:
        samples: What to forecast.
        grid: How the globe is cut.
        features: Candidates (a layer, a pooling) at all steps, (time, place, feature), NaN where there is no window.
        bases: Candidates.
        penalties: To choose from, multiples of n.

    Raises:
        EarthSSLError: If there is nothing to choose from, or no patch is ever observed whole.
    """
    weight = grid.weight(samples.positions)
    cells = weight.shape[1] // len(samples.names)

    def departure(head: PatchRidge, x: np.ndarray, number: int) -> Callable[[np.ndarray], np.ndarray]:
        def made(inits: np.ndarray) -> np.ndarray:
            values = head.predict(x[inits].astype(np.float32), number)
            return np.asarray(np.nan_to_num(grid.join(values, 1)[:, 0]))

        return made

    def candidates(lead: int) -> Iterable[tuple[int, Choice]]:
        train, val = samples.inits("train", lead), samples.inits("val", lead)
        # All bases stand side by side as targets: the features' moments are made once.
        y, y_val = (
            np.concatenate([grid.cut(samples.truth(r, lead) - base(r, lead)) for base in bases.values()], axis=2)
            for r in (train, val)
        )
        w = np.concatenate([weight] * len(bases), axis=1)
        for name, x in features.items():
            head = PatchRidge.fit(x[train].astype(np.float32), y, w, penalties)
            errors = head.errors(x[val].astype(np.float32), y_val, w)
            for part, (base, k) in enumerate((base, k) for base in bases for k in range(len(samples.names))):
                columns = slice(part * cells, (part + 1) * cells)
                error = observed_mean(errors[:, columns], w[:, columns].sum(axis=0), "patch head")
                best = int(error.argmin())
                found = departure(head.take(columns), x, best)
                yield k, Choice(name, base, head.penalties[best], float(error[best]), found)

    return Regression.best(samples, bases, candidates)


def patch_components(samples: ForecastSamples, grid: PatchGrid, count: int) -> PatchFeatures:
    """Return principal components of each patch over the window: the linear counterpart of an encoder's tokens."""
    raw = raw_features(samples.fields, grid, samples.window, samples.times)
    return pca_features(raw, samples.inits("train", samples.leads[0]), grid.area, count)


@dataclass(frozen=True, eq=False)
class Iterative:
    """One ridge regression from a state to the next, applied again and again.

    Attributes:
        samples: What it forecasts.
        states: Its state space.
        step: Matrix A and constant c of one step, next state = state A + c, on the leading components.
        chosen: Number of components, base, penalty.
    """

    samples: ForecastSamples
    states: States
    step: tuple[np.ndarray, np.ndarray]
    chosen: tuple[int, str, float]

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        z = _iterated(self.step, self.states.scaled[inits], lead)
        full = np.zeros((len(inits), self.states.components.shape[1]))
        full[:, : z.shape[1]] = z * self.states.deviation
        return self.states.fields(full, self.samples)

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain values."""
        count, base, penalty = self.chosen
        return {"components": count, "base": base, "penalty": penalty, "step": self.samples.label(1)}


def linear_iterative(samples: ForecastSamples, states: States, counts: Sequence[int]) -> Iterative:
    """Return linear regression to the next step, iterated, fitted on training samples only.

    Number of components (of `counts`, or all), penalty and base are chosen on validation, on the mean error over the
    leads of the forecast that is made by iteration, over the components of all variables.
    """
    z, total = states.scaled, states.components.shape[1]
    train = samples.inits("train", samples.leads[0])
    best, found = np.inf, None
    for count in sorted({min(count, total) for count in (*counts, total)}):
        for base in (ANOMALY, CHANGE):
            change = z[train + 1, :count] - (z[train, :count] if base == CHANGE else 0.0)
            path = RidgePath.fit(z[train, :count], change, standardise=False)
            for penalty in STATE_PENALTIES:
                matrix = path.coefficients(penalty)
                constant = path.target_mean[0] - path.feature_mean[0] @ matrix
                step = matrix + (np.eye(count) if base == CHANGE else 0.0), constant
                error = sum(_state_error(step, z, samples, lead) for lead in samples.leads)
                if found is None or error < best:
                    best, found = error, Iterative(samples, states, step, (count, base, penalty))
    assert found is not None
    return found


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
