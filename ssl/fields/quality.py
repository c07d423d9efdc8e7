"""What a field's values look like step by step, and what is odd about them: found from five numbers a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .splits import follows, months_apart
from .usual import marks, unusual
from .variables import Variable

COLUMNS = ("valid", "mean", "spread", "low", "high")  # of one step: share of cells with a value; of those values
# A change of level or of spread is said where it is so many times what the series does of itself (its median absolute
# deviation, as a standard deviation): weather, El Niño and trends stay far below.
SUDDEN = 10.0
SPREAD_RATIO = 2.0
CACHED = 2**17  # cells summed at once: half a megabyte
WIDE = 2**14  # cells
AROUND = 12  # steps on either side that a change is measured over
GAPPY = 0.2  # share of cells by which a step may miss more than most do


def summary(values: np.ndarray) -> np.ndarray:
    """Return `COLUMNS` of each step, float64 (steps, 5); all but the first are NaN where no cell holds a value.

    Args:
        values: float32 (steps, rows, columns), NaN where missing.
    """
    found = np.full((len(values), len(COLUMNS)), np.nan)
    wide = values.reshape(len(values), -1)
    size = max(1, CACHED // max(1, wide.shape[1]))
    for first in range(0, len(wide), size):
        found[first : first + size] = _of_some(wide[first : first + size])
    return found


def _of_some(wide: np.ndarray) -> np.ndarray:
    """Return `COLUMNS` of a few steps, (step, cell), that fit the processor's cache."""
    total = wide.sum(1)  # numpy adds pairwise: single precision is enough
    whole = bool(np.isfinite(total).all())
    valid = None if whole else np.isfinite(wide)
    if valid is not None and wide.shape[1] > WIDE:  # cheaper without the gaps
        return np.stack([_of_valid(step[there], step.size) for step, there in zip(wide, valid, strict=True)])
    count = np.full(len(wide), wide.shape[1]) if valid is None else valid.sum(1)
    low, high = np.fmin.reduce(wide, 1), np.fmax.reduce(wide, 1)
    if valid is not None:
        low, high = np.where(count > 0, low, np.nan), np.where(count > 0, high, np.nan)
        wide = np.where(valid, wide, np.float32(0))
        total = wide.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count.astype(np.float32)
        around = wide - mean[:, None]
        if valid is not None:
            around[~valid] = 0
        np.multiply(around, around, out=around)
        spread = np.sqrt(around.sum(1) / count)
    return np.stack([count / wide.shape[1], mean, spread, low, high], 1)


def _of_valid(values: np.ndarray, cells: int) -> np.ndarray:
    """Return `COLUMNS` of one step from its valid values."""
    if not values.size:
        return np.array([0.0, *[np.nan] * 4])
    return np.array([values.size / cells, *_of_some(values[None])[0, 1:]])


def findings(steps: np.ndarray, times: np.ndarray, variable: Variable) -> list[str]:
    """Return what is odd about a variable, one sentence each.

    Args:
        steps: From `summary`, (steps, 5).
        times: Of the steps, datetime64, ascending.
        variable: What it is.
    """
    valid, mean, spread, low, high = steps.T
    there = valid > 0
    said = []
    if not there.any():
        return ["holds no value at all"]
    if not there.all():
        said.append(f"{_counted(~there, times)} without any value")
    usual = float(np.median(valid[there]))
    gappy = there & (valid < usual - GAPPY)
    if gappy.any():
        said.append(
            f"{_counted(gappy, times)} with values in less than {100 * (usual - GAPPY):.0f} % of the cells (most: "
            f"{100 * usual:.0f} %)"
        )
    constant = there & (low == high) & (low != 0)  # zero is natural for rain, ice and clouds
    if constant.any():
        said.append(f"{_counted(constant, times)} with one value everywhere ({low[constant][0]:g} {variable.units})")
    same = np.zeros(len(steps), bool)
    same[1:] = (steps[1:] == steps[:-1]).all(1) & (low[1:] != high[1:])
    if same.any():
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(int))))[::2]
        said.append(f"{_counted(same, times)} equal to the one before (longest stretch {int(runs.max())})")
    step_days = float(np.median(np.diff(times)) / np.timedelta64(1, "D")) if len(times) > 1 else 0.0
    said += unusual(variable, float(mean[there].mean()), float(low[there].min()), float(high[there].max()), step_days)
    for odd, words in marks(low[there], high[there], spread[there], variable):
        said.append(f"{_counted(odd, times[there])} {words}")
    return said + _sudden(times[there], mean[there], spread[there], variable)


def _sudden(times: np.ndarray, mean: np.ndarray, spread: np.ndarray, variable: Variable) -> list[str]:
    """Return sentences on sudden changes of mean and spread, and on single steps that stand out."""
    if len(times) < 2 * AROUND + 1:
        return []
    level = np.arcsinh(mean / variable.transform_scale) if variable.transform_scale else mean
    level = _without_season(level, times)
    said = []
    at, size = _change(level)
    if at:
        said.append(
            f"its mean changes suddenly at {_date(times[at])} ({np.mean(mean[at - AROUND : at]):.4g} in the "
            f"{AROUND} steps before, {np.mean(mean[at : at + AROUND]):.4g} {variable.units} after; {size:.0f} times "
            "its usual scatter)"
        )
    with np.errstate(divide="ignore"):
        scatter = _without_season(np.log(np.maximum(spread, 1e-30)), times)
    at, size = _change(scatter)
    if at:
        ratio = float(np.exp(np.median(scatter[at : at + AROUND]) - np.median(scatter[at - AROUND : at])))
        if max(ratio, 1 / ratio) >= SPREAD_RATIO:
            said.append(f"its spread changes suddenly at {_date(times[at])}, by a factor of {ratio:.3g}")
    usual = _scatter(level)
    away = np.abs(level - np.median(level)) > 2 * SUDDEN * usual
    alone = away & ~np.roll(away, 1) & ~np.roll(away, -1)
    if usual > 0 and alone.any():
        said.append(f"{_counted(alone, times)} whose mean stands out ({mean[alone][0]:.4g} {variable.units})")
    return said


def _without_season(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return values less the median of their month and hour, of the hour alone in less than three years."""
    stamps = pd.DatetimeIndex(times)
    keys = stamps.month * 24 + (0 if months_apart(times) else stamps.hour)
    first, last = times[[0, -1]].astype("datetime64[s]")  # nanoseconds hold no difference above 292 years
    if last - first < np.timedelta64(3 * 365, "D"):
        keys = keys % 24
    series = pd.Series(values)
    return np.asarray(series - series.groupby(np.asarray(keys)).transform("median"))


def _scatter(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _change(values: np.ndarray) -> tuple[int, float]:
    """Return where a series changes its level for good within one step, and how many times its scatter; 0 if not."""
    windows = np.lib.stride_tricks.sliding_window_view(values, AROUND)
    middles = np.median(windows, 1)
    apart = np.abs(middles[AROUND:] - middles[:-AROUND])  # change at step AROUND + k
    # scatter within the pieces: of a series with a step in it, that about its middle would hold the step itself
    within = np.median(np.abs(windows - middles[:, None]), 1)
    usual = 1.4826 * float(np.median(within))
    step = np.abs(np.diff(values))[AROUND - 1 : AROUND - 1 + len(apart)]
    size = np.minimum(apart, step)
    k = int(size.argmax())
    if not usual > 1e-9 * max(1e-30, float(np.abs(values).max())):
        return 0, 0.0
    return (k + AROUND, float(size[k] / usual)) if size[k] > SUDDEN * usual else (0, 0.0)


def _counted(mask: np.ndarray, times: np.ndarray) -> str:
    count = int(mask.sum())
    first = _date(times[int(np.argmax(mask))])
    return f"{count} of {len(mask)} steps ({'at' if count == 1 else 'the first at'} {first})"


def _date(time: np.datetime64) -> str:
    return str(pd.Timestamp(time)).removesuffix(" 00:00:00")


def gaps(times: np.ndarray) -> list[str]:
    """Return in words, in a list, how many steps do not come one step after the one before; [] where all do.

    Args:
        times: Ascending, datetime64.
    """
    if len(times) < 3:
        return []
    apart = ~follows(times)
    if not apart.any():
        return []
    step = pd.Timedelta(np.median(np.diff(times))).floor("s")
    return [
        f"{int(apart.sum())} of {len(times)} steps do not come one step ({step}) after the one before, the first at "
        f"{_date(times[1:][apart][0])}"
    ]


def quality(steps: np.ndarray, times: np.ndarray, variables: Sequence[Variable]) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each variable's values, plain JSON.

    Args:
        steps: From `summary`, (steps, variables, 5).
        times: Of the steps.
        variables: Of the second axis.

    Returns:
        By name: `low`, `high`, `mean`, `valid` (least and most share of cells with values in a step), `findings`.
    """
    found = {}
    for k, variable in enumerate(variables):
        own = steps[:, k]
        there = own[own[:, 0] > 0]
        found[variable.name] = {
            "low": float(there[:, 3].min()) if len(there) else None,
            "high": float(there[:, 4].max()) if len(there) else None,
            "mean": float(there[:, 1].mean()) if len(there) else None,
            "valid": [float(own[:, 0].min()), float(own[:, 0].max())],
            "findings": findings(own, times, variable),
        }
    return found
