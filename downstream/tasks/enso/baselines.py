"""The rows that an encoder must beat on ENSO: persistence, linear inverse models, and PCA with the same head.

Nothing here sees the test block: EOFs, regressions and propagators are fitted on train to be chosen on
validation, and once more on train … validation to forecast the test samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...features.anomalies import monthly_anomaly
from ...features.eof import Eof, lagged
from ...metrics.seasonal import valid_mean
from ...results.row import Row
from .labels import EnsoLabels, nino34_weight
from .linear_inverse_model import Lim
from .monthly_ridge import HeadOptions, fixed_head, refit, select

TROPICAL_PACIFIC = (-30.0, 30.0, 120.0, 290.0)  # south, north, west, east

LIM_EOFS = (5, 10, 15, 20)

PCA_COMPONENTS = (5, 10, 20, 40)

PUBLISHED = ((10, 3), (20, 3))  # components × months of the fixed rows that stand beside, whatever the encoder sees

Region = tuple[float, float, float, float]

CONSTANT_K = 1e-4  # deviation of an index that only rounding (float32 near 300 K) moves, K


def climatology(task: EnsoLabels) -> Row:
    """Return the forecast of no anomaly, 0 K at every lead."""
    return task.row("climatology", np.zeros(task.target.shape), {}, reference=False)


def persistence(task: EnsoLabels) -> Row:
    """Return the last input month's Niño 3.4 as the forecast at every lead."""
    return task.row("persistence", np.broadcast_to(task.index, task.target.shape), {})


def damped_persistence(task: EnsoLabels) -> Row:
    """Return the regression of the target on the last month's Niño 3.4, per initial month and lead."""
    fitted = task.samples("fit")[0]
    forecast = np.full(task.target.shape, np.nan)
    for m in range(12):
        rows, served = fitted & (task.month == m), task.month == m
        if rows.sum() < 3:
            raise EarthSSLError(
                f"expected at least 3 fit samples of each calendar month, got {int(rows.sum())}; "
                "lengthen the training block"
            )
        x, y = task.index[rows], task.target[:, rows]
        power = ((x - x.mean()) ** 2).sum()
        if not power > CONSTANT_K**2 * len(x):
            raise EarthSSLError(
                f"expected a Niño 3.4 index that varies, got a constant in calendar month {m + 1} of "
                f"{task.blocks['fit'][0]}…{task.blocks['fit'][1]}; choose data that hold more than the seasonal cycle"
            )
        slope = (y - y.mean(axis=1, keepdims=True)) @ (x - x.mean()) / power
        forecast[:, served] = y.mean(axis=1)[:, None] + slope[:, None] * (task.index[served] - x.mean())
    return task.row("damped persistence", forecast, {"fitted on": "initial month and lead"})


def stationary_lim(task: EnsoLabels, k: int = 15, region: Region = TROPICAL_PACIFIC) -> Row:
    """Return the forecasts of one propagator on k EOFs of SST, started from the last input month."""
    (k,) = carried([k], task.anomaly[task.within("fit")], _region_weight(task, region))
    states, to_index = _states(task, k, "fit", region)
    lim = Lim.stationary(states[task.within("fit")])
    forecast = _lim_forecast(task, lim, states, to_index, task.inits("test"))
    return task.row("LIM", forecast, {"eofs": k})


def cyclostationary_lim(
    task: EnsoLabels,
    ks: Sequence[int] = LIM_EOFS,
    region: Region = TROPICAL_PACIFIC,
    *,
    ridge: float = 1e-3,
    criterion: str = "rmse",
) -> Row:
    """Return the forecasts of a propagator per calendar month; the number of EOFs is chosen on validation.

    Components are scaled to unit variance and each propagator is fitted on three calendar months with a
    ridge of `ridge` n.
    """
    scores: dict[int, float] = {}
    wanted = task.inits("val")
    for k in carried(ks, task.anomaly[task.within("train")], _region_weight(task, region)):
        forecast = _cyclostationary(task, k, "train", region, ridge, wanted)
        scores[k] = float(valid_mean(task.validation_score(forecast, criterion), axis=-1))
    best = max(scores, key=lambda k: scores[k])
    forecast = _cyclostationary(task, best, "fit", region, ridge, task.inits("test"))
    settings = {
        "eofs": best,
        "ridge": ridge,
        "criterion": criterion,
        "validation_score": scores[best],
    }
    return task.row("cyclostationary LIM", forecast, settings)


def _cyclostationary(
    task: EnsoLabels, k: int, block: str, region: Region, ridge: float, wanted: np.ndarray
) -> np.ndarray:
    states, to_index = _states(task, k, block, region)
    inside = task.within(block)
    lim = Lim.cyclostationary(states[inside], task.month[inside], ridge=ridge)
    return _lim_forecast(task, lim, states, to_index, wanted)


def _states(task: EnsoLabels, k: int, block: str, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Return components of unit variance over the block, (time, k), and the Niño 3.4 of one unit, (k,)."""
    eof = Eof.fit(task.anomaly[task.within(block)], _region_weight(task, region), k)
    to_index = eof.mean_of(nino34_weight(task.grid)) * eof.std
    return eof.project(task.anomaly) / eof.std, to_index


def _region_weight(task: EnsoLabels, region: Region) -> np.ndarray:
    """Return cell areas inside a region, 0 outside."""
    return np.where(task.grid.box(*region), task.grid.area, 0.0)


def carried(ks: Sequence[int], fields: np.ndarray, weight: np.ndarray) -> list[int]:
    """Return the numbers of EOFs, ascending, that fields (time, …cells) carry; all that they do where none is so small.

    Args:
        ks: Numbers asked for.
        fields: NaN where missing: times without any value are left out, and only cells without gaps count.
        weight: Of each cell; those of weight 0 do not count.
    """
    flat = fields.reshape(len(fields), -1)
    flat = flat[np.isfinite(flat).any(axis=1)]
    cells = int((np.isfinite(flat).all(axis=0) & (weight.reshape(-1) > 0)).sum())
    most = max(1, min(cells, len(flat) - 1))
    return [k for k in sorted(ks) if k <= most] or [most]


def _lim_forecast(task: EnsoLabels, lim: Lim, states: np.ndarray, to_index: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the 3-month means of the forecast Niño 3.4, shape (lead, time), NaN where not wanted."""
    path = lim.forecast(states[wanted], task.month[wanted], task.leads[-1] + 1) @ to_index
    forecast = np.full(task.target.shape, np.nan)
    for j, lead in enumerate(task.leads):
        forecast[j, wanted] = path[lead - 1 : lead + 2].mean(axis=0)
    return forecast


def input_cells(
    task: EnsoLabels, block: str, extra: Mapping[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw input as (time, cells), anomalies, and the weight of each cell, (cells,).

    SST alone is weighted by area. With `extra` variables each one is weighted by area over its mean
    variance within the block, so that all count alike.

    Args:
        task: Its SST anomaly is the first variable.
        block: Months whose variance sets the weights.
        extra: Further raw variables on the task's grid and times, each (time, rows, columns).
    """
    inside = task.within(block)
    fields = {"sst": task.anomaly}
    for name, values in (extra or {}).items():
        if values.shape != task.anomaly.shape:
            raise EarthSSLError(
                f"expected '{name}' of shape {task.anomaly.shape} like SST, got {values.shape}; "
                "bring it to the task's grid and months"
            )
        fields[name] = monthly_anomaly(values, task.month, task.within("fit"))
    weights = []
    for values in fields.values():
        power = valid_mean(values[inside] ** 2, axis=0)
        mean_power = float(valid_mean(power, axis=(0, 1))) if extra else 1.0
        weights.append((task.grid.area / mean_power).reshape(-1))
    flat = [values.reshape(len(values), -1) for values in fields.values()]
    return np.concatenate(flat, axis=1), np.concatenate(weights)


def pca_features(
    task: EnsoLabels,
    ks: Sequence[int],
    block: str,
    window: int = 3,
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return lagged principal components of the input, one set for each k; EOFs are fitted on a block.

    A k beyond what the data carry is left out while a smaller one remains.
    """
    if window > task.window:
        raise EarthSSLError(
            f"expected PCA features within the task's window of {task.window} months, got {window}; "
            "the blocks are kept apart for that window only"
        )
    cells, weight = input_cells(task, block, extra)
    inside = task.within(block)
    ks = carried(ks, cells[inside], weight)
    components = Eof.fit(cells[inside], weight, ks[-1]).project(cells)
    return {f"{k} PCs × {window} months": lagged(components[:, :k], window) for k in ks}


def pca_fixed(
    task: EnsoLabels,
    k: int,
    *,
    window: int = 3,
    penalty: float = 2.0,
    extra: Mapping[str, np.ndarray] | None = None,
) -> Row:
    """Return k PCs × window months with a head per calendar month and a given penalty of `penalty` n."""
    ((name, features),) = pca_features(task, [k], "fit", window, extra).items()
    return fixed_head(task, features, name=f"PCA: {name}, fixed", penalty=penalty)


def pca(
    task: EnsoLabels,
    ks: Sequence[int] = PCA_COMPONENTS,
    *,
    window: int = 3,
    options: HeadOptions | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> Row:
    """Return PCA of the raw input with the encoder rows' head; k and the head are chosen on validation."""
    options = options or HeadOptions()
    selection = select(task, pca_features(task, ks, "train", window, extra), options)
    features = pca_features(task, ks, "fit", window, extra)
    return refit(task, features, selection, name="PCA", standardise=options.standardise)


def baseline_rows(
    task: EnsoLabels,
    window: int,
    *,
    options: HeadOptions | None = None,
    region: Region = TROPICAL_PACIFIC,
    extra: Mapping[str, np.ndarray] | None = None,
) -> list[Row]:
    """Return every baseline row.

    Args:
        task: Labels, samples and the SST anomaly.
        window: Months of input for the tuned PCA, at most the task's.
        options: The head, as for the encoder rows.
        region: South, north, west, east of the linear inverse models, degrees.
        extra: Raw variables beside SST that the encoder sees, for a further row; see `input_cells`.
    """
    options = options or HeadOptions()
    fixed = {row.name: row for row in (pca_fixed(task, k, window=months) for k, months in PUBLISHED)}
    rows = [
        climatology(task),
        persistence(task),
        damped_persistence(task),
        stationary_lim(task, region=region),
        cyclostationary_lim(task, region=region, criterion=options.criterion),
        *fixed.values(),
        pca(task, window=window, options=options),
    ]
    if extra:
        rows.append(replace(pca(task, window=window, options=options, extra=extra), name="PCA, all variables"))
    return rows
