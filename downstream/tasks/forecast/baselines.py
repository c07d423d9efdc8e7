"""Forecasts without a model: persistence, damped persistence and climatologies, all from training times only.

A forecast is a callable (initial steps, lead) -> normalised anomalies (sample, forecast variable, row, column).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ssl.common.errors import check_known
from ....ssl.fields.splits import is_monthly
from .samples import ForecastSamples

Forecast = Callable[[np.ndarray, int], np.ndarray]
WEEKS = 52

# What a head's output is added to: nothing (it predicts the future anomaly), the present state (its change), or
# damped persistence (the departure from it).
ANOMALY, CHANGE, DEPARTURE = "anomaly", "change", "departure"
BASES = (ANOMALY, CHANGE, DEPARTURE)
COMPONENTS = (10, 20, 40, 80, 150)
PERSISTENCE, OF_ANOMALY, DAMPED = "persistence", "persistence of the anomaly", "persistence, damped"
MEAN, WEEKLY, CALENDAR = "climatology, train mean", "climatology, weekly", "climatology, calendar"
PCA, PATCH_PCA = "PCA + ridge", "PCA of patches [patch head]"
CCA = "predictable directions (CCA) + ridge"


def anomaly_persistence(samples: ForecastSamples) -> Forecast:
    """Return the forecast that the present anomaly stays."""
    return lambda inits, lead: samples.present(inits)


def persistence(samples: ForecastSamples) -> Forecast:
    """Return the forecast that the present field stays, season and hour included, as WeatherBench's does."""
    statistics = samples.store.statistics.select(samples.positions)
    times = samples.times.astype("datetime64[ns]")

    def forecast(inits: np.ndarray, lead: int) -> np.ndarray:
        fields = statistics.denormalise(samples.fields[inits][:, samples.positions], times[inits])
        # A missing value is no anomaly.
        return np.nan_to_num(statistics.normalise(fields, times[inits + lead]))

    return forecast


def calendar_climatology(samples: ForecastSamples) -> Forecast:
    """Return the forecast of no anomaly from the store's climatology (calendar month, or season and hour)."""
    return lambda inits, lead: np.zeros((len(inits), *samples.weight.shape), np.float32)


def mean_climatology(samples: ForecastSamples) -> Forecast:
    """Return the forecast of the mean over all training times."""
    return _climatology(samples, np.zeros(len(samples.times), np.int64))


def weekly_climatology(samples: ForecastSamples) -> Forecast | None:
    """Return the forecast of the mean of each week of the year, None where training does not hold them all.

    Week k has the days 7k … 7k + 6 of the year, the last one also the days left over.
    """
    if is_monthly(samples.times):
        return None
    days = (samples.times.astype("datetime64[D]") - samples.times.astype("datetime64[Y]")).astype(int)
    week = np.minimum(days // 7, WEEKS - 1)
    wanted = week[samples.inside("val") | samples.inside("test")]
    return _climatology(samples, week) if np.isin(wanted, week[samples.inside("train")]).all() else None


def _climatology(samples: ForecastSamples, group: np.ndarray) -> Forecast:
    """Return the forecast of each group's training mean in units, as anomalies from the store's climatology."""
    statistics = samples.store.statistics.select(samples.positions)
    times = samples.times.astype("datetime64[ns]")
    training = samples.inside("train")
    means: dict[int, np.ndarray] = {}
    for g in np.unique(group[training]):
        rows = np.flatnonzero(training & (group == g))
        fields = statistics.denormalise(samples.fields[rows][:, samples.positions], times[rows])
        valid = np.isfinite(fields)
        count = valid.sum(axis=0)
        total = np.where(valid, fields, 0.0).sum(axis=0, dtype=np.float64)
        means[int(g)] = np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def forecast(inits: np.ndarray, lead: int) -> np.ndarray:
        target = inits + lead
        fields = np.stack([means[int(g)] for g in group[target]])
        # A cell that training saw in other groups only is forecast as its calendar climatology.
        return np.nan_to_num(statistics.normalise(fields, times[target]))

    return forecast


@dataclass(frozen=True, eq=False)
class Damped:
    """Damped persistence: a coefficient times the present anomaly.

    Attributes:
        samples: What it forecasts.
        coefficient: By lead, (forecast variable, row, column).
        chosen: Whether validation took a coefficient for each cell or for each variable, by lead.
    """

    samples: ForecastSamples
    coefficient: dict[int, np.ndarray]
    chosen: dict[int, str]

    @classmethod
    def fit(cls, samples: ForecastSamples) -> Damped:
        """Return the regressions of the future on the present anomaly, fitted on training samples."""
        coefficient, chosen = {}, {}
        for lead in samples.leads:
            rows, val = samples.inits("train", lead), samples.inits("val", lead)
            now, truth = samples.present(rows), samples.truth(rows, lead)
            both = np.where(np.isfinite(truth), now, 0.0).astype(np.float64)
            product, power = (both * np.nan_to_num(truth)).sum(axis=0), (both * both).sum(axis=0)
            of_variable = (samples.weight * product).sum(axis=(1, 2)) / np.maximum(
                (samples.weight * power).sum(axis=(1, 2)), 1e-30
            )
            candidates = {
                "cell": product / np.maximum(power, 1e-30),
                "variable": np.broadcast_to(of_variable[:, None, None], product.shape),
            }
            errors = {
                name: samples.squared_errors(c.astype(np.float32) * samples.present(val), val, lead).mean()
                for name, c in candidates.items()
            }
            chosen[lead] = min(errors, key=lambda name: errors[name])
            coefficient[lead] = candidates[chosen[lead]].astype(np.float32)
        return cls(samples, coefficient, chosen)

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies."""
        return self.coefficient[lead] * self.samples.present(inits)

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain values by lead."""
        return {self.samples.label(lead): {"coefficient for each": name} for lead, name in self.chosen.items()}


def bases_of(samples: ForecastSamples, names: Sequence[str] = BASES) -> dict[str, Forecast]:
    """Return by name what heads may add their output to.

    Raises:
        EarthSSLError: If a name is unknown, or there is none.
    """
    makers: dict[str, Callable[[ForecastSamples], Forecast]] = {
        ANOMALY: calendar_climatology, CHANGE: anomaly_persistence, DEPARTURE: Damped.fit,
    }  # fmt: skip
    check_known("forecast.bases", names, BASES)
    return {name: makers[name](samples) for name in names}


UNFITTED: dict[str, Callable[[ForecastSamples], Forecast | None]] = {
    PERSISTENCE: persistence, OF_ANOMALY: anomaly_persistence, MEAN: mean_climatology, WEEKLY: weekly_climatology,
    CALENDAR: calendar_climatology,
}  # fmt: skip
