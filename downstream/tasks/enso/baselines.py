"""The rows that an encoder must beat on ENSO: persistence, linear inverse models, and PCA with the same head.

Nothing here sees the test block: EOFs, regressions and propagators are fitted on train to be chosen on
validation, and once more on train … validation to forecast the test samples.

Linear inverse models: x(t + 1) = G x(t) + noise, with one G or one for each calendar month. Stationary: Penland &
Sardeshmukh 1995, doi 10.1175/1520-0442(1995)008<1999:TOGOTS>2.0.CO;2. Cyclostationary: Shin et al. 2021,
doi 10.1175/JCLI-D-20-0291.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...features.anomalies import monthly_anomaly
from ...features.eof import Eof, lagged
from ...metrics.seasonal import valid_mean
from ...results.row import Row
from .labels import BLOCKS, EnsoLabels, area_mean, nino34_weight
from .monthly_ridge import HEAD, HeadOptions, fixed_head, refit, select, select_and_refit

TROPICAL_PACIFIC = (-30.0, 30.0, 120.0, 290.0)  # of the linear inverse models: south, north, west, east
EQUATORIAL_PACIFIC = (-5.0, 5.0, 120.0, 280.0)  # of the warm water, likewise
LIM_EOFS = (5, 10, 15, 20)
LIM_RIDGE = 1e-3
PCA_COMPONENTS = (5, 10, 20, 40)
PUBLISHED = ((10, 3), (20, 3))  # components × months of the fixed rows that stand beside, whatever the encoder sees
CONSTANT_K = 1e-4  # deviation of an index that only rounding (float32 near 300 K) moves, K


def climatology(labels: EnsoLabels) -> Row:
    """Return the forecast of no anomaly, 0 K at every lead."""
    return labels.row("climatology", np.zeros(labels.target.shape), {}, reference=False)


def persistence(labels: EnsoLabels) -> Row:
    """Return the last input month's Niño 3.4 as the forecast at every lead."""
    return labels.row("persistence", np.broadcast_to(labels.index, labels.target.shape), {})


def damped_persistence(labels: EnsoLabels) -> Row:
    """Return the regression of the target on the last month's Niño 3.4, per initial month and lead."""
    fitted = labels.samples("fit")[0]
    forecast = np.full(labels.target.shape, np.nan)
    for m in range(12):
        rows, served = fitted & (labels.month == m), labels.month == m
        if rows.sum() < 3:
            raise EarthSSLError(
                f"expected at least 3 fit samples of each calendar month, got {int(rows.sum())}; "
                "lengthen the training block"
            )
        x, y = labels.index[rows], labels.target[:, rows]
        power = ((x - x.mean()) ** 2).sum()
        if not power > CONSTANT_K**2 * len(x):
            raise EarthSSLError(
                f"expected a Niño 3.4 index that varies, got a constant in calendar month {m + 1} of "
                f"{labels.words('fit')}; choose data that hold more than the seasonal cycle"
            )
        slope = (y - y.mean(axis=1, keepdims=True)) @ (x - x.mean()) / power
        forecast[:, served] = y.mean(axis=1)[:, None] + slope[:, None] * (labels.index[served] - x.mean())
    return labels.row("damped persistence", forecast, {"fitted on": "initial month and lead"})


def stationary_lim(labels: EnsoLabels, k: int = 15) -> Row:
    """Return the forecasts of one propagator on k EOFs of SST, started from the last input month."""
    cells, weight = _pacific_cells(labels, "fit")
    (k,) = carried([k], cells[labels.within("fit")], weight)
    forecast = _lim_forecast(labels, cells, weight, k, "fit", labels.inits("test"), None)
    return labels.row("LIM", forecast, {"eofs": k})


def cyclostationary_lim(
    labels: EnsoLabels,
    ks: Sequence[int] = LIM_EOFS,
    criterion: str = "rmse",
    extra: Mapping[str, np.ndarray] | None = None,
) -> Row:
    """Return the forecasts of a propagator per calendar month; the number of EOFs is chosen on validation.

    Components are scaled to unit variance and each propagator is fitted on three calendar months with a
    ridge of `LIM_RIDGE` n.

    Args:
        labels, ks, criterion: SST, numbers of EOFs to try, and what chooses.
        extra: Raw variables beside SST, each weighted by its variance (`input_cells`), for EOFs of all together.
    """
    scores: dict[int, float] = {}
    cells, weight = _pacific_cells(labels, "train", extra)
    for k in carried(ks, cells[labels.within("train")], weight):
        tried = _lim_forecast(labels, cells, weight, k, "train", labels.inits("val"), LIM_RIDGE)
        scores[k] = float(valid_mean(labels.validation_score(tried, criterion), axis=-1))
    best = max(scores, key=lambda k: scores[k])
    cells, weight = _pacific_cells(labels, "fit", extra)
    forecast = _lim_forecast(labels, cells, weight, best, "fit", labels.inits("test"), LIM_RIDGE)
    settings = {"eofs": best, "ridge": LIM_RIDGE, "criterion": criterion, "validation_score": scores[best]}
    return labels.row("cyclostationary LIM, all variables" if extra else "cyclostationary LIM", forecast, settings)


def warm_water(labels: EnsoLabels, sea_level: np.ndarray, options: HeadOptions = HEAD) -> Row:
    """Return ridge on Niño 3.4 and the mean sea level of the equatorial Pacific, both of the last input month.

    Sea level stands for the warm water above the thermocline, which leads Niño 3.4 by two to three seasons
    (recharge: Jin 1997, doi 10.1175/1520-0469(1997)054<0811:AEORPF>2.0.CO;2; Meinen & McPhaden 2000, doi
    10.1175/1520-0442(2000)013<3551:OOWWVC>2.0.CO;2).

    Args:
        labels: Labels and samples.
        sea_level: m, on the labels' grid and months, (time, rows, columns).
        options: The head, as for the encoder rows.
    """
    anomaly = monthly_anomaly(sea_level, labels.month, labels.within("fit"))
    volume = area_mean(anomaly, np.where(labels.grid.box(*EQUATORIAL_PACIFIC), labels.grid.area, 0.0))
    features = {"last month": np.stack([labels.index, volume], axis=1)}
    return select_and_refit(labels, features, name="Niño 3.4 + warm water", options=options)


def _lim_forecast(
    labels: EnsoLabels, cells: np.ndarray, weight: np.ndarray, k: int, block: str, wanted: np.ndarray,
    ridge: float | None,
) -> np.ndarray:  # fmt: skip
    """Return the 3-month means of Niño 3.4 by a model fitted on a block, (lead, time), NaN where not wanted.

    Its states are k components of unit variance, of SST and what is beside it. Without a ridge, one propagator serves
    all months.
    """
    inside = labels.within(block)
    eof = Eof.fit(cells[inside], weight, k)
    states = eof.project(cells) / eof.std
    fitted = np.where(inside[:, None], states, np.nan)  # a month that is left out breaks the pairs around it
    if ridge is None:
        lim = Lim.stationary(fitted)
    else:
        lim = Lim.cyclostationary(fitted, labels.month, ridge=ridge)
    index = nino34_weight(labels.grid).reshape(-1)
    to_index = eof.mean_of(np.pad(index, (0, len(weight) - len(index)))) * eof.std
    path = lim.forecast(states[wanted], labels.month[wanted], labels.leads[-1] + 1) @ to_index
    forecast = np.full(labels.target.shape, np.nan)
    for j, lead in enumerate(labels.leads):
        forecast[j, wanted] = path[lead - 1 : lead + 2].mean(axis=0)
    return forecast


def _pacific_cells(
    labels: EnsoLabels, block: str, extra: Mapping[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw input as `input_cells` does, with no weight outside the tropical Pacific."""
    cells, weight = input_cells(labels, block, extra)
    inside = labels.grid.box(*TROPICAL_PACIFIC).reshape(-1)
    return cells, np.where(np.tile(inside, len(weight) // len(inside)), weight, 0.0)


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


@dataclass(frozen=True, eq=False)
class Lim:
    """Propagators over one month.

    Attributes:
        propagators: G of each calendar month of departure, shape (12, k, k); all equal where stationary.
    """

    propagators: np.ndarray

    @classmethod
    def stationary(cls, states: np.ndarray) -> Lim:
        """Return the LIM with G = C(1) C(0)^-1 from consecutive monthly states, shape (time, k).

        Both covariances run over the same pairs, which makes G the least-squares propagator.
        Pairs with a missing state are left out.
        """
        propagator = _propagator(states, _paired(states), 0.0)
        return cls(np.broadcast_to(propagator, (12, *propagator.shape)))

    @classmethod
    def cyclostationary(cls, states: np.ndarray, month: np.ndarray, *, window: int = 3, ridge: float = 1e-3) -> Lim:
        """Return the LIM with a propagator for each calendar month.

        Args:
            states: Consecutive monthly states, best of unit variance (the ridge is absolute), (time, k).
            month: Calendar month of each state, 0…11, shape (time,).
            window: Calendar months, centred on the month of departure, that share a propagator; odd.
            ridge: Added to the diagonal of C(0), times the number of pairs n.
        """
        if window not in (1, 3, 5, 7, 9, 11):
            raise EarthSSLError(f"expected an odd window of 1 to 11 months, got {window}")
        distance = np.abs((month[:-1, None] - np.arange(12)[None, :] + 6) % 12 - 6)
        near = _paired(states)[:, None] & (distance <= window // 2)
        return cls(np.stack([_propagator(states, chosen, ridge) for chosen in near.T]))

    def forecast(self, states: np.ndarray, month: np.ndarray, steps: int) -> np.ndarray:
        """Return the expected states 0…`steps` months after each state.

        Args:
            states: Initial states, shape (n, k).
            month: Calendar month of each, 0…11, shape (n,).
            steps: Months ahead.

        Returns:
            Shape (steps + 1, n, k); the first is the initial state itself.
        """
        path = [np.asarray(states, dtype=np.float64)]
        for step in range(steps):
            path.append(np.einsum("nij,nj->ni", self.propagators[(month + step) % 12], path[-1]))
        return np.stack(path)


def _paired(states: np.ndarray) -> np.ndarray:
    """Return which months are whole, and the month after them too, (time - 1,)."""
    whole = np.isfinite(states).all(axis=1)
    return np.asarray(whole[:-1] & whole[1:])


def _propagator(states: np.ndarray, chosen: np.ndarray, ridge: float) -> np.ndarray:
    """Return G = (later^T earlier)(earlier^T earlier + ridge n I)^-1 of the chosen months and those after, (k, k)."""
    earlier, later = states[:-1][chosen], states[1:][chosen]
    n, k = earlier.shape
    if n <= k:
        raise EarthSSLError(
            f"expected more pairs of months than the LIM has components ({k}), got {n}; "
            "use fewer EOFs or a longer fit period"
        )
    power = earlier.T @ earlier + ridge * n * np.eye(k)
    return np.linalg.solve(power, earlier.T @ later).T


def input_cells(
    labels: EnsoLabels, block: str, extra: Mapping[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw input as (time, cells), anomalies, and the weight of each cell, (cells,).

    SST alone is weighted by area. With `extra` variables each one is weighted by area over its mean
    variance within the block, so that all count alike; months that lack one of them are NaN throughout.

    Args:
        labels: Its SST anomaly is the first variable.
        block: Months whose variance sets the weights.
        extra: Further raw variables on the labels' grid and times, each (time, rows, columns).
    """
    inside = labels.within(block)
    fields = {"sst": labels.anomaly}
    for name, values in (extra or {}).items():
        if values.shape != labels.anomaly.shape:
            raise EarthSSLError(
                f"expected '{name}' of shape {labels.anomaly.shape} like SST, got {values.shape}; "
                "bring it to the labels' grid and months"
            )
        fields[name] = monthly_anomaly(values, labels.month, labels.within("fit"))
    flat = [values.reshape(len(values), -1) for values in fields.values()]
    power = [valid_mean(valid_mean(v[inside] ** 2, axis=0), axis=(0, 1)) if extra else 1.0 for v in fields.values()]
    weights = [(labels.grid.area / (one or np.inf)).reshape(-1) for one in power]  # what never varies does not count
    if extra:
        # EOFs leave out empty months, but every cell with a gap: one month would cost a variable all of its cells.
        whole = np.all([np.isfinite(v).any(axis=1) for v in flat], axis=0)
        flat = [np.where(whole[:, None], v, np.nan) for v in flat]
    return np.concatenate(flat, axis=1), np.concatenate(weights)


def lacking(labels: EnsoLabels, inits: np.ndarray, extra: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return in which months each variable has no value although SST is fitted on or seen by a sample, (time,).

    Args:
        labels: The record, its blocks, and the months that a sample sees.
        inits: Last input months of the samples, bool, (time,).
        extra: Variables beside SST, each (time, rows, columns).
    """
    needed, n = labels.within("fit"), len(inits)
    for back in range(labels.window):
        needed[: n - back] |= inits[back:]
    needed &= np.isfinite(labels.index)
    return {name: needed & ~np.isfinite(v).reshape(n, -1).any(axis=1) for name, v in extra.items()}


def whole_variables(labels: EnsoLabels, extra: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables beside SST that no month lacks which is fitted on or seen by a sample.

    Raises:
        EarthSSLError: If one begins later than the training block, and is whole from then on, validation and the test's
            inputs with it.
    """
    lacks = lacking(labels, np.any([labels.inits(block) for block in BLOCKS], axis=0), extra)
    for name, own in lacks.items():
        if not own.any():
            continue
        first = labels.time[np.flatnonzero(own)[-1]] + 1
        earlier = labels.within("fit") & (labels.time < first) & np.isfinite(labels.index)
        helps = earlier.any() and own[earlier].all() and not own[~labels.within("fit")].any()
        # what `later` takes: a month of a training block, with validation after it
        taken = any(start <= first < end for start, end in labels.spans["train"])
        if helps and taken and first <= labels.spans["val"][0][0]:
            raise EarthSSLError(
                f"enso: expected '{name}' in every month that is fitted on, from {labels.time[np.argmax(own)]}, got no "
                f"value before {first}; set since: '{first}', the first month from which it is whole, or leave the "
                "variable out of the store"
            )
    return {name: values for name, values in extra.items() if not lacks[name].any()}


def pca_features(
    labels: EnsoLabels,
    ks: Sequence[int],
    block: str,
    window: int = 3,
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return lagged principal components of the input, one set for each k; EOFs are fitted on a block.

    A k beyond what the data carry is left out while a smaller one remains.
    """
    if window > labels.window:
        raise EarthSSLError(
            f"expected PCA features within the labels' window of {labels.window} months, got {window}; "
            "the blocks are kept apart for that window only"
        )
    cells, weight = input_cells(labels, block, extra)
    inside = labels.within(block)
    ks = carried(ks, cells[inside], weight)
    components = Eof.fit(cells[inside], weight, ks[-1]).project(cells)
    return {f"{k} PCs × {window} months": lagged(components[:, :k], window) for k in ks}


def pca_fixed(labels: EnsoLabels, k: int, window: int = 3) -> Row:
    """Return k PCs × window months with a head per calendar month and a given penalty of 2 n."""
    ((name, features),) = pca_features(labels, [k], "fit", window).items()
    return fixed_head(labels, features, name=f"PCA: {name}, fixed", penalty=2.0)


def pca(
    labels: EnsoLabels,
    ks: Sequence[int] = PCA_COMPONENTS,
    *,
    window: int = 3,
    options: HeadOptions = HEAD,
    extra: Mapping[str, np.ndarray] | None = None,
) -> Row:
    """Return PCA of the raw input with the encoder rows' head; k and the head are chosen on validation."""
    selection = select(labels, pca_features(labels, ks, "train", window, extra), options)
    name = "PCA, all variables" if extra else "PCA"
    return refit(labels, pca_features(labels, ks, "fit", window, extra), selection, name=name)


def baseline_rows(labels: EnsoLabels, window: int, options: HeadOptions, extra: Mapping[str, np.ndarray]) -> list[Row]:
    """Return every baseline row.

    Args:
        labels: Labels, samples and the SST anomaly.
        window: Months of input for the tuned PCA, at most the labels'.
        options: The head, as for the encoder rows.
        extra: Raw variables beside SST that the encoder sees, for a further row; see `input_cells`.
    """
    sets = [None, extra] if extra else [None]
    fixed = {row.name: row for row in (pca_fixed(labels, k, months) for k, months in PUBLISHED)}
    return [
        climatology(labels),
        persistence(labels),
        damped_persistence(labels),
        stationary_lim(labels),
        *(cyclostationary_lim(labels, criterion=options.criterion, extra=own) for own in sets),
        *([warm_water(labels, extra["ssh"], options)] if "ssh" in extra else []),
        *fixed.values(),
        *(pca(labels, window=window, options=options, extra=own) for own in sets),
    ]
