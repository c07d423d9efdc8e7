"""What attribution maps are held against: linear maps of the raw fields, and the synthetic planet's own mechanism."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.randomness import key, uniform
from ....ssl.sources.planet.geography import COLUMNS
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...features.anomalies import monthly_anomaly
from ...features.frozen_features import Pooled
from ...features.store_windows import StoreWindows
from ...metrics.seasonal import pearson
from ..enso.state_labels import SEASON, StateLabels
from .index_function import TokenHead, fit_head

MOST_NUMBERS = 3e8  # of the raw input of all training samples
BLOCK_NUMBERS = 1e6  # of raw input that are correlated at once
MECHANISM = ("t_e", "h_w", "wind", "t_squared")  # what drives the oscillator: SST, thermocline, wind bursts


def linear_map(store: Store, labels: StateLabels, lead: int, length: int) -> tuple[TokenHead, np.ndarray]:
    """Return the linear regression of the index on the raw normalised fields, chosen and refitted as the head is.

    Args:
        store, labels, lead: As for the head.
        length: Input steps, those of the encoder.

    Returns:
        The regression, and the correlation of each cell alone with the index over training, (step, variable, row,
        column); 0 where nothing varies.

    Raises:
        EarthSSLError: If the raw input does not fit into memory.
    """
    train, val, test = (labels.rows(block, lead) for block in ("train", "val", "test"))
    shape = (length, *store.shape[1:])
    size = (len(train) + len(val)) * math.prod(shape)
    if size > MOST_NUMBERS:
        raise EarthSSLError(
            f"explain: expected at most {MOST_NUMBERS:.0e} input numbers for the linear regression map, got "
            f"{size:.1e}; prepare a smaller region, a coarser grid or fewer variables, or take a shorter window"
        )
    rows = np.concatenate([train, val, test])
    x = StoreWindows(store, length).batch(rows).values.flatten(1).numpy()
    head = fit_head([Pooled("", "all cells", 0, x)], rows, labels, lead, lambda _, b: (b.reshape(shape), 0.0))
    month, every = labels.enso.month[train], np.ones(len(train), dtype=bool)
    y = monthly_anomaly(labels.season[train + lead], month, every)
    return head, correlations(x[: len(train)], y, month).reshape(shape)


def correlations(x: np.ndarray, y: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Return the correlation of each column's monthly anomaly with y, (column,), some columns at a time.

    Args:
        x: Shape (time, column).
        y: Monthly anomaly, (time,).
        month: Calendar month of each time.
    """
    every = np.ones(len(x), dtype=bool)
    step = max(1, int(BLOCK_NUMBERS) // max(1, len(x)))  # it takes a dozen copies in double precision
    blocks = (x[:, first : first + step] for first in range(0, x.shape[1], step))
    return np.concatenate([pearson(monthly_anomaly(block, month, every), y[:, None], axis=0) for block in blocks])


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
    if lead < 2:  # the inputs hold the central month of the season: the season itself
        index = hidden["nino34"].values
        forecast = np.mean([index[first + rows + lead - k] for k in range(SEASON)], axis=0)
    else:
        forecast = planet.nino34_forecast(months[rows].astype("datetime64[ns]"), [lead - 1])[0]
    states = np.stack([hidden[name].values[first + rows] for name in MECHANISM], axis=1)
    month, every = labels.enso.month[rows], np.ones(len(rows), dtype=bool)
    y, c = monthly_anomaly(forecast, month, every), monthly_anomaly(states, month, every)
    covariance = (c * y[:, None]).mean(axis=0) / y.std()
    patterns = planet.geography.patterns()
    pairs = ((planet.grid.lat, store.grid.lat), (planet.grid.lon, store.grid.lon))
    cells = np.ix_(*(np.abs(own[:, None] - its).argmin(axis=0) for own, its in pairs))  # the store's on the planet
    fields = store.dataset()
    made = []
    for name in store.variables:
        carried = sum(k * patterns[name][COLUMNS.index(s)] for k, s in zip(covariance, MECHANISM, strict=True))
        anomaly = monthly_anomaly(fields[name].values[rows], month, every)
        spread = np.sqrt((anomaly**2).mean(axis=0))
        made.append(np.asarray(carried)[cells] / np.where(spread > 0, spread, np.nan))
    return np.where(store.statistics.known, np.stack(made), np.nan)
