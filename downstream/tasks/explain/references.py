"""What attribution maps are held against: linear maps of the raw fields, and the synthetic planet's own mechanism."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.randomness import key, uniform
from ....ssl.sources.planet.geography import COLUMNS
from ....ssl.sources.planet.planet import Planet
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...features.anomalies import monthly_anomaly
from ...heads.ridge_path import PENALTIES, RidgePath
from ..enso.state_labels import SEASON, StateLabels
from .index_function import Windows

MOST_NUMBERS = 3e8  # of the raw input of all training samples
MECHANISM = ("t_e", "h_w", "wind", "t_squared")  # what drives the oscillator: SST, thermocline, wind bursts


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Linear regression of the index on the raw normalised fields.

    Attributes:
        weight: Ridge coefficients of all cells together, K, (step, variable, row, column).
        correlation: Of each cell alone with the index over training, same shape; 0 where nothing varies.
        penalty: Chosen on validation.
        validation_rmse: K, fitted on training alone.
        forecast: K, at the samples asked for.
    """

    weight: np.ndarray
    correlation: np.ndarray
    penalty: float
    validation_rmse: float
    forecast: np.ndarray


def linear_map(store: Store, labels: StateLabels, lead: int, length: int, wanted: np.ndarray) -> LinearMap:
    """Return the regression with an intercept for each calendar month, chosen and refitted as the head is.

    Args:
        store, labels, lead: As for the head.
        length: Input steps, those of the encoder.
        wanted: Last input months of the samples to forecast.

    Raises:
        EarthSSLError: If the raw input does not fit into memory.
    """
    train, val = labels.rows("train", lead), labels.rows("val", lead)
    size = (len(train) + len(val)) * length * np.prod(store.shape[1:])
    if size > MOST_NUMBERS:
        raise EarthSSLError(
            f"explain: expected at most {MOST_NUMBERS:.0e} input numbers for the linear regression map, got "
            f"{size:.1e}; prepare a smaller region, a coarser grid or fewer variables, or take a shorter window"
        )

    def flat(rows: np.ndarray) -> np.ndarray:
        return Windows.read(store, rows, length).values.flatten(1).numpy()

    month, season = labels.enso.month, labels.season
    x, y, x_val, y_val = flat(train), season[train + lead], flat(val), season[val + lead]
    path = RidgePath.fit(x, y[:, None], month[train])
    errors = np.sqrt(((path.predict(x_val, PENALTIES, month[val])[..., 0] - y_val) ** 2).mean(axis=1))
    penalty = PENALTIES[int(errors.argmin())]
    shape = (length, *store.shape[1:])
    r = _correlation(x, y, month[train]).reshape(shape)
    both = np.concatenate([x, x_val])
    path = RidgePath.fit(both, np.concatenate([y, y_val])[:, None], month[np.concatenate([train, val])])
    weight = path.coefficients(penalty)[:, 0].reshape(shape)
    forecast = path.predict(flat(wanted), [penalty], month[wanted])[0, :, 0]
    return LinearMap(weight, r, penalty, float(errors.min()), forecast)


def _correlation(x: np.ndarray, y: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Return the correlation of each column with y, both less their calendar-month means, (columns,)."""
    every = np.ones(len(y), dtype=bool)
    a, b = monthly_anomaly(x, month, every), monthly_anomaly(y, month, every)
    power = np.sqrt((a * a).sum(axis=0) * (b * b).sum())
    return np.where(power > 0, (a * b[:, None]).sum(axis=0) / np.where(power > 0, power, 1.0), 0.0)


def random_maps(samples: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return maps of uniform noise, (samples, *shape): the order that knows nothing."""
    keys = torch.tensor([key(seed, "random order", k) for k in range(samples)])
    return uniform(keys, int(np.prod(shape))).reshape(samples, *shape)


def mechanism(store: Store, labels: StateLabels, lead: int) -> np.ndarray | None:
    """Return where the synthetic planet keeps what its index will depend on; None on any other data.

    The best reachable forecast of the season is known from the planet's hidden state. Given is the correlation of
    each cell in the last input month with that forecast, so far as the cell carries it through the states that
    drive the oscillator (SST T, thermocline h, wind bursts, T²): patterns of the planet × covariance of the states
    with the forecast over the training months, over the cell's standard deviation.

    Returns:
        Shape (variable, row, column); NaN at unknown cells.
    """
    attributes = store.manifest["attributes"]
    if "planet" not in attributes or any(name not in ("sst", "t2m", "u10", "v10", "msl") for name in store.variables):
        return None
    planet = recorded_planet(attributes)
    rows = labels.rows("train", lead)
    months, hidden = labels.enso.time, planet.hidden()
    first = np.searchsorted(hidden["time"].values.astype("datetime64[M]"), months[0])
    forecast = _best_forecast(planet, hidden["nino34"].values, months, rows, lead, int(first))
    states = np.stack([hidden[name].values[first + rows] for name in MECHANISM], axis=1)
    month, every = labels.enso.month[rows], np.ones(len(rows), dtype=bool)
    y, c = monthly_anomaly(forecast, month, every), monthly_anomaly(states, month, every)
    covariance = (c * y[:, None]).mean(axis=0) / y.std()
    patterns, cells = planet.geography.patterns(), _cells(planet, store)
    fields = store.dataset()
    made = []
    for name in store.variables:
        carried = sum(k * patterns[name][COLUMNS.index(s)] for k, s in zip(covariance, MECHANISM, strict=True))
        anomaly = monthly_anomaly(fields[name].values[rows], month, every)
        spread = np.sqrt((anomaly**2).mean(axis=0))
        made.append(np.asarray(carried)[cells] / np.where(spread > 0, spread, np.nan))
    return np.where(store.statistics.known, np.stack(made), np.nan)


def _best_forecast(
    planet: Planet, index: np.ndarray, months: np.ndarray, rows: np.ndarray, lead: int, first: int
) -> np.ndarray:
    """Return the expected index of the season; the season itself where the inputs hold its central month."""
    if lead < 2:
        last = first + rows + lead
        return np.asarray(np.mean([index[last - k] for k in range(SEASON)], axis=0))
    return planet.nino34_forecast(months[rows].astype("datetime64[ns]"), [lead - 1])[0]


def _cells(planet: Planet, store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells of the planet those of the store are."""
    rows = np.abs(planet.grid.lat[:, None] - store.grid.lat[None]).argmin(axis=0)
    columns = np.abs(planet.grid.lon[:, None] - store.grid.lon[None]).argmin(axis=0)
    return np.ix_(rows, columns)  # type: ignore[return-value]
