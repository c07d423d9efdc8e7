"""Heat waves as labels, from the fields of a daily store alone: the share of the sea (or land) in one, days ahead.

Hobday et al. 2016, doi 10.1016/j.pocean.2015.12.014: five days or more above the 90th percentile of the time of year;
interruptions of two days at most are part of it. Percentile and mean are of the training years of the store, in windows
of 11 days, smoothed over 31.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError, check_known, check_settings
from ....ssl.store.store import Store
from ...features.eof import window_components
from ...features.raw_window import raw_window

HALF_WINDOW, SMOOTHING = 5, 31  # days
YEAR = 365
FEWEST_YEARS = 5  # of training
OFTEN = 0.9  # share of training days on which a cell that counts has values
MOST = 0.5  # share of days whose labels are known
LIM_LAG = 5  # days
LIM_EOFS = (2, 5, 10, 20, 40)
MEAN, SHARE = "anomaly", "wave"


@dataclass(frozen=True)
class HeatWavesConfig:
    """Labels made from the store itself: anomaly_5d, wave_5d, …, in place of a table.

    Attributes:
        variable: Whose heat waves they are, such as sst; empty: none.
        leads: Days ahead.
        percentile: Above which a day is hot, of the values of that time of year in training.
        days: Fewest hot days in a row.
        gap: Longest interruption, days, between two heat waves that are then one.
    """

    variable: str = ""
    leads: list[int] = field(default_factory=lambda: [5, 10, 20])
    percentile: float = 90.0
    days: int = 5
    gap: int = 2

    def __post_init__(self) -> None:
        rules = {"leads days": "≥ 1", "gap": "≥ 0", "percentile": "(0, 100]"}
        check_settings("heat_waves", self, rules)
        if len(set(self.leads)) < len(self.leads):
            raise EarthSSLError(f"heat_waves.leads: expected leads each once, got {self.leads}")


def heat_wave_labels(store: Store, config: HeatWavesConfig) -> pd.DataFrame:
    """Return the labels at the steps of a store, indexed by its times.

    Columns:
        anomaly_0d: Mean over the grid, by area, of the departure from the mean of the day of the year; anomaly_5d: the
            same five days later. In the unit of the variable.
        wave_5d: Share of the area that is in a heat wave five days later, NaN where a day that it hangs on is unknown
            or beyond the record (days + gap - 1 before and after); wave_0d: share that is hot today, which is
            what is known today, as a heat wave is one only when it has lasted.

    Raises:
        EarthSSLError: If the store lacks the variable, is not daily, has too few training years, too many days
            without values, or gaps between its blocks that a label reaches across.
    """
    check_known("heat_waves.variable", [config.variable], store.variables)
    if not abs(store.step_days - 1) <= 0.01:
        raise EarthSSLError(f"heat_waves: expected a daily store, got steps of {store.step_days:g} days; prepare one")
    reach = max(config.leads) + config.days + config.gap
    if store.splits.embargo_days < reach:
        raise EarthSSLError(
            f"heat_waves: expected gaps between the blocks of {reach} days or more (longest lead + days + gap), got "
            f"{store.splits.embargo_days:g}; prepare with --splits.embargo_days {reach}"
        )
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"))
    every = pd.date_range(times[0], times[-1], freq="D")
    if not times.isin(every).all():
        raise EarthSSLError("heat_waves: expected steps at one hour of the day, got others; prepare daily means")
    fields = store.dataset([config.variable])[config.variable].to_numpy()
    values = np.full((len(every), fields[0].size), np.nan, np.float32)
    values[every.get_indexer(times)] = fields.reshape(len(fields), -1)
    train = store.splits.inside(every.to_numpy("datetime64[ns]"), "train")
    years = len(np.unique(every[train].year))
    if years < FEWEST_YEARS:
        raise EarthSSLError(
            f"heat_waves: expected {FEWEST_YEARS} training years or more for a percentile, got {years}; lengthen train"
        )
    present, day = np.isfinite(values[train]).mean(axis=0), day_of_year(every)
    used = present > OFTEN
    mean, threshold = seasonal(values[:, used], day, train, config.percentile)
    whole = np.isfinite(mean + threshold).all(axis=0)  # none of a cell under ice for a month, whose year is not known
    used[used] = whole
    if not used.any():
        raise EarthSSLError(
            f"heat_waves: expected cells of {config.variable} with values on nine of ten training days and at every "
            f"time of the year, got none (the best on {100 * present.max():.0f} % of {int(train.sum())}); let train "
            "begin later, or fill the gaps"
        )
    mean, threshold = mean[:, whole], threshold[:, whole]
    values, area = values[:, used], store.grid.area.reshape(-1)[used]
    area = area / area.sum()
    hot = values > threshold[day]
    inside = heat_waves(hot, config.days, config.gap)
    known = np.isfinite(values).all(axis=1)
    around = config.days + config.gap - 1  # what decides whether a day is in a heat wave lies within so many days
    surrounded = np.convolve(known, np.ones(2 * around + 1), "same").round() == 2 * around + 1
    kept = surrounded[every.get_indexer(times)].mean()
    if kept < MOST:
        raise EarthSSLError(
            f"heat_waves: expected most days with values of {config.variable} in every cell {around} days before to "
            f"{around} days after, got {100 * kept:.0f} % of {len(times)}; fill the gaps, or cut the region to cells "
            "without"
        )
    series = {
        MEAN: np.where(known, np.nan_to_num(values - mean[day]) @ area, np.nan),
        SHARE: np.where(surrounded, inside @ area, np.nan),
    }
    found = pd.DataFrame({f"{MEAN}_0d": series[MEAN], f"{SHARE}_0d": np.where(known, hot @ area, np.nan)}, every)
    ahead = {
        f"{name}_{lead}d": pd.Series(one, every).shift(-lead) for name, one in series.items() for lead in config.leads
    }
    return found.assign(**ahead).reindex(times).rename_axis("time")


def day_of_year(times: pd.DatetimeIndex) -> np.ndarray:
    """Return the day of a year of 365 days, 0…364; 29 February counts as the 28th."""
    after = times.is_leap_year & (times.day_of_year >= 60)
    return np.asarray(times.day_of_year - 1 - after)


def seasonal(
    values: np.ndarray, day: np.ndarray, train: np.ndarray, percentile: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and percentile of each day of the year, (365, cell): of 11 days around it, smoothed over 31.

    Args:
        values: (time, cell); NaN where unknown.
        day: Of each time, 0…364.
        train: Mask of the times that count.
        percentile: In %.
    """
    own, when = values[train], day[train]
    mean, high = np.empty((2, YEAR, values.shape[1]))
    with warnings.catch_warnings():  # numpy's of empty means: NaN is what is said of them
        warnings.simplefilter("ignore", RuntimeWarning)
        for one in range(YEAR):
            near = own[np.abs((when - one + YEAR // 2) % YEAR - YEAR // 2) <= HALF_WINDOW]
            mean[one] = np.nanmean(near, axis=0)
            high[one] = np.nanpercentile(near, percentile, axis=0)
    return _smooth(mean), _smooth(high)


def _smooth(cycle: np.ndarray) -> np.ndarray:
    """Return the running mean over `SMOOTHING` days of a yearly cycle, (365, cell)."""
    half = SMOOTHING // 2
    wide = np.concatenate([cycle[-half:], cycle, cycle[:half]])
    total = np.concatenate([np.zeros((1, cycle.shape[1])), np.cumsum(wide, axis=0)])
    return (total[SMOOTHING:] - total[:-SMOOTHING]) / SMOOTHING


def heat_waves(hot: np.ndarray, days: int, gap: int) -> np.ndarray:
    """Return which days are in a heat wave, bool (time, cell): runs of so many hot days, joined across short gaps.

    Args:
        hot: Bool, (time, cell), every day.
        days: Fewest in a row.
        gap: Longest interruption between two heat waves.
    """
    inside = hot & (_run_lengths(hot) >= days)
    between = ~inside & (_run_lengths(~inside) <= gap)
    started = np.logical_or.accumulate(inside, axis=0)
    goes_on = np.logical_or.accumulate(inside[::-1], axis=0)[::-1]
    return inside | (between & started & goes_on)


def _run_lengths(on: np.ndarray) -> np.ndarray:
    """Return the length of the run of days that each day is in; 0 where it is off."""

    def since(rows: np.ndarray) -> np.ndarray:
        found, count = np.zeros(rows.shape, np.int32), np.zeros(rows.shape[1:], np.int32)
        for k, row in enumerate(rows):
            count = (count + 1) * row
            found[k] = count
        return found

    return np.where(on, since(on) + since(on[::-1])[::-1] - 1, 0)


def lim_means(store: Store, present: np.ndarray, leads: Sequence[int]) -> Mapping[int, Mapping[int, np.ndarray]]:
    """Return what linear inverse models of the fields say of their mean ahead: lead -> number of EOFs -> (time,).

    x(t + 5 days) = G x(t) on training steps, x the leading principal components of a day (Penland & Sardeshmukh 1995);
    the mean is the combination of components that fits it best on the training days.

    Args:
        store: Daily.
        present: Mean anomaly of each day, (time,).
        leads: Days ahead, multiples of 5 (others take the nearest).
    """
    day = raw_window(store, 1)
    inside = np.flatnonzero(
        store.splits.inside(store.times, "train") & np.isfinite(day).all(axis=1) & np.isfinite(present)
    )
    sets = window_components(day, inside, LIM_EOFS)
    made: dict[int, dict[int, np.ndarray]] = {lead: {} for lead in leads}
    days = store.times.astype("datetime64[D]").astype(int)
    later = np.searchsorted(days, days[inside] + LIM_LAG)  # by date: days may be missing
    paired = np.isin(days[inside] + LIM_LAG, days[inside])
    pairs, later = inside[paired], later[paired]
    for x in sets.values():
        step = np.linalg.lstsq(x[pairs], x[later], rcond=None)[0]
        to_mean = np.linalg.lstsq(x[inside], present[inside], rcond=None)[0]
        for lead in leads:
            power = np.linalg.matrix_power(step, max(1, round(lead / LIM_LAG)))
            made[lead][x.shape[1]] = x @ power @ to_mean
    return made
