"""Scores of forecasts: error, correlation and range with paired intervals, every form and the spectrum beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ...metrics import weatherbench as wb
from ...results.row import Row
from ...results.target import Numbers, Target, additive
from .baselines import Forecast, calendar_climatology
from .samples import ForecastSamples

SKILL, RMSE, ACC, STD_RATIO, SLOPE = "skill", "rmse", "acc", "std ratio", "slope"
# What is kept of every forecast, (part, sample): area-weighted mean squared error in shown units and normalised,
# WeatherBench 2's anomaly correlation, and from WEIGHT on the sums that the range of the anomalies is made of.
MOST_PLACES = 100  # that distributions are judged in
SQUARED, NORMALISED, CORRELATION, WEIGHT = range(4)


@dataclass(frozen=True, eq=False)
class Scored:
    """A row's scores on the test block.

    Attributes:
        sums: Of each (variable, lead): what metrics are made of, (part, sample).
        numbers: Of each (variable, lead): every form of error, correlation and range, by name.
        spectrum: Power over the truth's by zonal wavenumber, by (variable, lead); empty where rows have gaps.
        fields: Forecasts in `places`, in shown units, (sample, place), by (variable, lead); empty unless asked for.
    """

    sums: Mapping[tuple[str, int], np.ndarray]
    numbers: Mapping[tuple[str, int], dict[str, float]]
    spectrum: Mapping[tuple[str, int], np.ndarray]
    fields: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict)


def places_of(samples: ForecastSamples) -> np.ndarray:
    """Return cells (variable, place) that distributions are judged in: at most `MOST_PLACES`, evenly over the area."""
    found = []
    for weight in samples.weight.reshape(len(samples.names), -1):
        every = np.cumsum(weight) / weight.sum()
        count = min(MOST_PLACES, int((weight > 0).sum()))
        found.append(np.searchsorted(every, (np.arange(count) + 0.5) / count))
    most = max(len(one) for one in found)
    return np.stack([np.resize(one, most) for one in found])


def target_name(variable: str, lead: int, samples: ForecastSamples) -> str:
    """Return the name of a target, such as "u10 3 d"."""
    return f"{variable} {samples.label(lead)}"


def score(
    forecast: Forecast, samples: ForecastSamples, *, forms: bool = True, places: np.ndarray | None = None
) -> Scored:
    """Return a forecast's scores on the test samples; its spread is its error on validation.

    Args:
        forecast: Takes (initial steps, lead), returns normalised anomalies.
        samples: What it forecasts.
        forms: Whether `numbers` and `spectrum` are wanted.
        places: Cells (variable, place) whose forecasts are wanted; None: none.
    """
    sums, numbers, spectrum, kept = {}, {}, {}, {}
    for lead in samples.leads:
        inits = samples.inits("test", lead)
        made = forecast(inits, lead)
        f, climatology = samples.in_units(made, inits, lead)
        o, _ = samples.in_units(samples.truth(inits, lead), inits, lead)
        o = np.where(samples.weight > 0, o, np.nan)
        tested = samples.squared_errors(made, inits, lead)
        if forms:
            before = samples.inits("val", lead)
            spread = samples.squared_errors(forecast(before, lead), before, lead)
        for k, name in enumerate(samples.names):
            at, grid = (name, lead), samples.store.grid
            fields = f[:, k], o[:, k], climatology[:, k]
            own = range_sums(f[:, k] - climatology[:, k], o[:, k] - climatology[:, k], grid.area)
            squared, correlation = wb.wb2_squared_error(*fields[:2], grid), wb.wb2_acc_by_time(*fields, grid)
            sums[at] = np.stack([squared, tested[:, k], correlation, *own])
            if places is not None:
                kept[at] = f[:, k].reshape(len(f), -1)[:, places[k]].astype(np.float32)
            if not forms:
                continue
            spectrum[at], lost = _spectrum(fields[0], fields[1], samples)
            numbers[at] = {
                "wb1_rmse": wb.wb1_rmse(*fields[:2], grid.lat),
                "wb1_rmse_paper": wb.wb1_rmse_paper(*fields[:2], grid.lat),
                "wb1_acc": wb.wb1_acc(*fields[:2], grid.lat),
                "wb2_rmse": wb.wb2_rmse(*fields[:2], grid),
                "wb2_rmse_sqrt_before_time_avg": wb.wb2_rmse_sqrt_before_time_avg(*fields[:2], grid),
                "wb2_acc": wb.wb2_acc(*fields, grid),
                **dynamic_range(own.sum(axis=1)),
                # The error that validation promised over the error that came: 1 where it can be trusted.
                "val_over_test_rmse": float(np.sqrt(spread[:, k].mean() / max(tested[:, k].mean(), 1e-30))),
                "half_power_wavenumber": lost,
                "half_power_km": 2 * np.pi * wb.EARTH_RADIUS_KM * np.cos(np.pi / 4) / lost,  # at 45°
            }
    return Scored(sums, numbers, spectrum, kept)


def range_sums(forecast: np.ndarray, truth: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return of anomalies (time, row, column) the sums of w, w f, w o, w f², w o², w f o over the cells with truth.

    Shape (6, time).
    """
    valid = np.isfinite(truth)
    w = valid * area
    f, o = np.where(valid, forecast, 0.0), np.where(valid, truth, 0.0)
    return np.stack([(w * part).sum(axis=(1, 2)) for part in (1.0, f, o, f * f, o * o, f * o)])


def dynamic_range(sums: np.ndarray) -> dict[str, Any]:
    """Return r, std_ratio and slope of anomalies, from sums over times of `range_sums`, (6, …), of that shape.

    std_ratio: standard deviation of forecast over truth; slope: of truth on forecast. The best forecast in squared
    error has a ratio of r and a slope of 1; the slope of a forecast without anomalies is undefined (NaN).
    """
    total, f, o, ff, oo, fo = sums
    ff, oo, fo = ff / total - (f / total) ** 2, oo / total - (o / total) ** 2, fo / total - f * o / total**2
    none = ff <= 1e-12 * oo
    safe = np.where(none, 1.0, ff)
    return {
        "r": np.where(none, np.nan, fo / np.sqrt(safe * oo))[()],
        "std_ratio": np.where(none, 0.0, np.sqrt(safe / oo))[()],
        "slope": np.where(none, np.nan, fo / safe)[()],
    }


def _spectrum(f: np.ndarray, o: np.ndarray, samples: ForecastSamples) -> tuple[np.ndarray, float]:
    """Return the ratio of spectra and the first wavenumber at half the power (NaN for none); empty with gaps."""
    try:
        own, true = (wb.wb2_zonal_spectrum(fields, samples.store.grid) for fields in (f, o))
    except EarthSSLError:  # a region, or land in the middle latitudes
        return np.zeros(0), float("nan")
    lost = wb.half_power(own, true)
    return own / np.maximum(true, 1e-300), float("nan") if lost is None else float(lost)


def forecast_targets(samples: ForecastSamples, unit: str, block: int, uncertain: bool = False) -> list[Target]:
    """Return a target for each variable and lead; rows hold their `Scored.sums`.

    Args:
        samples: What is forecast.
        unit: Independent unit, see `ForecastSamples.units`.
        block: Units drawn together.
        uncertain: Whether distributions of the fields are judged.
    """
    places = places_of(samples) if uncertain else None
    none = score(calendar_climatology(samples), samples, forms=False, places=places)
    made = []
    for k, name in enumerate(samples.names):
        for lead in samples.leads:
            inits = samples.inits("test", lead)
            one = _target(
                target_name(name, lead, samples), none.sums[name, lead], samples.units(inits, lead, unit), block
            )
            if places is not None:
                truth, _ = samples.in_units(samples.truth(inits, lead), inits, lead)
                told = _numbers(one.name, truth[:, k].reshape(len(inits), -1)[:, places[k]], none.fields[name, lead])
                one = replace(one, numbers=replace(told, times=samples.times[inits + lead]))
            made.append(one)
    return made


def _numbers(name: str, truth: np.ndarray, climatology: np.ndarray) -> Numbers:
    weight = np.isfinite(truth).astype(float)
    return Numbers(truth, lambda row: row.fields[name], climatology, weight)


def _target(name: str, none: np.ndarray, units: np.ndarray, block: int) -> Target:
    def parts(row: Row) -> np.ndarray:
        return row.forecast[name]

    metrics = [
        additive(SKILL, parts, lambda s, w: 1 - s[SQUARED] / (none[SQUARED] @ w)),
        additive(RMSE, parts, lambda s, w: np.sqrt(s[SQUARED] / w.sum()), larger_is_better=False),
        additive(ACC, parts, lambda s, w: s[CORRELATION] / w.sum()),
        additive(STD_RATIO, parts, lambda s, w: dynamic_range(s[WEIGHT:])["std_ratio"], compared=False),
        additive(SLOPE, parts, lambda s, w: dynamic_range(s[WEIGHT:])["slope"], compared=False),
    ]
    return Target(
        name, units, metrics, block,
        errors=lambda row: row.forecast[name][NORMALISED],
        reference_errors=none[NORMALISED],
    )  # fmt: skip


def forms_table(scored: Mapping[tuple[str, Any], Scored], samples: ForecastSamples) -> pd.DataFrame:
    """Return every form of error and correlation, and of dynamic range, one line a row, seed, variable and lead.

    Args:
        scored: By name and seed of the row.
        samples: What they forecast.
    """
    return pd.DataFrame([
        {
            "row": row, "seed": "" if seed is None else seed, "variable": variable, "unit": samples.unit(variable),
            "lead": samples.label(lead), **numbers,
        }
        for (row, seed), one in scored.items()
        for (variable, lead), numbers in one.numbers.items()
    ])  # fmt: skip


def spectrum_table(scored: Mapping[tuple[str, Any], Scored], samples: ForecastSamples) -> pd.DataFrame:
    """Return forecast over true power by zonal wavenumber, one line a row, seed, variable, lead and wavenumber."""
    lines = [
        (row, "" if seed is None else seed, variable, samples.label(lead), wavenumber, ratio)
        for (row, seed), one in scored.items()
        for (variable, lead), ratios in one.spectrum.items()
        for wavenumber, ratio in enumerate(ratios)
    ]
    return pd.DataFrame(lines, columns=["row", "seed", "variable", "lead", "wavenumber", "ratio"])
