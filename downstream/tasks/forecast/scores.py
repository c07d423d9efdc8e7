"""Scores of forecast rows: error and correlation with paired intervals, range and spectrum beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ...evaluation.summary import DIFFERENCES, SCORES
from ...metrics import weatherbench as wb
from ...metrics.paired_bootstrap import compare
from .baselines import Forecast
from .samples import ForecastSamples

RMSE, ACC, STD_RATIO, SLOPE = "rmse", "acc", "std ratio", "slope"
FORMS = ("wb1_rmse", "wb1_rmse_paper", "wb1_acc", "wb2_rmse", "wb2_rmse_sqrt_before_time_avg", "wb2_acc")
RANGE = ("r", "std_ratio", "slope", "val_over_test_rmse", "half_power_wavenumber", "half_power_km")


@dataclass(frozen=True, eq=False)
class ForecastRow:
    """One line of the table.

    Attributes:
        name: What it is called; rows that differ in `seed` only share it.
        seed: None where nothing is random.
        forecast: Callable (initial steps, lead) -> normalised anomalies.
        settings: What was chosen, plain values.
    """

    name: str
    seed: int | None
    forecast: Forecast
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scored:
    """A row's scores on the test block.

    Attributes:
        name, seed: Of the row.
        squared: Area-weighted mean squared error of each forecast in shown units, by (variable, lead), (sample,).
        correlation: WeatherBench 2's anomaly correlation of each, same.
        numbers: Of each (variable, lead): the forms of `FORMS` and `RANGE`, by name.
        spectrum: Power over the truth's by zonal wavenumber, by (variable, lead); empty where rows have gaps.
    """

    name: str
    seed: int | None
    squared: Mapping[tuple[str, int], np.ndarray]
    correlation: Mapping[tuple[str, int], np.ndarray]
    numbers: Mapping[tuple[str, int], dict[str, float]]
    spectrum: Mapping[tuple[str, int], np.ndarray]


def score(row: ForecastRow, samples: ForecastSamples) -> Scored:
    """Return a row's scores on the test samples; its spread is its error on validation."""
    squared, correlation, numbers, spectrum = {}, {}, {}, {}
    for lead in samples.leads:
        inits = samples.inits("test", lead)
        forecast = row.forecast(inits, lead)
        f, climatology = samples.in_units(forecast, inits, lead)
        o, _ = samples.in_units(samples.truth(inits, lead), inits, lead)
        known = samples.weight > 0
        o = np.where(known, o, np.nan)
        before = samples.inits("val", lead)
        spread = samples.squared_errors(row.forecast(before, lead), before, lead)
        tested = samples.squared_errors(forecast, inits, lead)
        for k, name in enumerate(samples.names):
            at = (name, lead)
            fields = f[:, k], o[:, k], climatology[:, k]
            squared[at] = wb.wb2_squared_error(*fields[:2], samples.store.grid)
            correlation[at] = wb.wb2_acc_by_time(*fields, samples.store.grid)
            spectrum[at], lost = _spectrum(fields[0], fields[1], samples)
            numbers[at] = {
                **_forms(*fields, samples),
                **_range(*fields, samples),
                # The error that validation promised over the error that came: 1 where it can be trusted.
                "val_over_test_rmse": float(np.sqrt(spread[:, k].mean() / max(tested[:, k].mean(), 1e-30))),
                "half_power_wavenumber": lost,
                "half_power_km": _wavelength(lost),
            }
    return Scored(row.name, row.seed, squared, correlation, numbers, spectrum)


def _forms(f: np.ndarray, o: np.ndarray, climatology: np.ndarray, samples: ForecastSamples) -> dict[str, float]:
    grid = samples.store.grid
    return {
        "wb1_rmse": wb.wb1_rmse(f, o, grid.lat),
        "wb1_rmse_paper": wb.wb1_rmse_paper(f, o, grid.lat),
        "wb1_acc": wb.wb1_acc(f, o, grid.lat),
        "wb2_rmse": wb.wb2_rmse(f, o, grid),
        "wb2_rmse_sqrt_before_time_avg": wb.wb2_rmse_sqrt_before_time_avg(f, o, grid),
        "wb2_acc": wb.wb2_acc(f, o, climatology, grid),
    }


def _range(f: np.ndarray, o: np.ndarray, climatology: np.ndarray, samples: ForecastSamples) -> dict[str, float]:
    """Return r, standard deviation of forecast over truth, and slope of truth on forecast, of the anomalies.

    The best forecast in squared error has a ratio of r and a slope of 1; the slope of a forecast without
    anomalies is undefined (NaN).
    """
    return dynamic_range(f - climatology, o - climatology, samples.store.grid.area)


def dynamic_range(forecast: np.ndarray, truth: np.ndarray, area: np.ndarray) -> dict[str, float]:
    """Return r, std_ratio and slope of anomalies (time, row, column), area-weighted over time and space."""
    valid = np.isfinite(truth)
    w = valid * area
    w = w / w.sum()
    f, o = np.where(valid, forecast, 0.0), np.where(valid, truth, 0.0)
    f, o = np.where(valid, f - (w * f).sum(), 0.0), np.where(valid, o - (w * o).sum(), 0.0)
    ff, oo, fo = ((w * a * b).sum() for a, b in ((f, f), (o, o), (f, o)))
    if ff <= 1e-12 * oo:
        return {"r": float("nan"), "std_ratio": 0.0, "slope": float("nan")}
    return {"r": float(fo / np.sqrt(ff * oo)), "std_ratio": float(np.sqrt(ff / oo)), "slope": float(fo / ff)}


def _spectrum(f: np.ndarray, o: np.ndarray, samples: ForecastSamples) -> tuple[np.ndarray, float]:
    """Return the ratio of spectra and the first wavenumber at half the power (NaN for none); empty with gaps."""
    try:
        own, true = (wb.wb2_zonal_spectrum(fields, samples.store.grid) for fields in (f, o))
    except EarthSSLError:  # a region, or land in the middle latitudes
        return np.zeros(0), float("nan")
    lost = wb.half_power(own, true)
    return own / np.maximum(true, 1e-300), float("nan") if lost is None else float(lost)


def _wavelength(wavenumber: float) -> float:
    """Return the wavelength of a zonal wavenumber at 45°, km."""
    return 2 * np.pi * wb.EARTH_RADIUS_KM * np.cos(np.pi / 4) / wavenumber


def score_table(
    scored: Sequence[Scored], samples: ForecastSamples, references: Sequence[str], *,
    unit: str = "auto", block: int = 1, draws: int = 1000,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Return scores and paired differences of the rows, a mean over seeds each, beside the single seeds' scores.

    Args:
        scored: Rows; those of one name are seeds.
        samples: What they forecast.
        references: Names of the rows that differences are taken from.
        unit: Independent unit.
        block: Units drawn together.
        draws: Of the bootstrap.

    Raises:
        EarthSSLError: If there are too few units.
    """
    names = list(dict.fromkeys(one.name for one in scored))
    groups = {name: [one for one in scored if one.name == name] for name in names}
    seeds = np.array([[(one.name == name) / len(group) for one in scored] for name, group in groups.items()])
    scores, differences = [], []
    for variable in samples.names:
        for lead in samples.leads:
            at = (variable, lead)
            target = f"{variable} {samples.label(lead)}"
            found, units = np.unique(samples.units(samples.inits("test", lead), lead, unit), return_inverse=True)
            size = np.bincount(units).astype(float)
            for metric in (RMSE, ACC):
                sums = np.stack([np.bincount(units, _of(one, metric)[at]) for one in scored])

                def statistic(
                    w: np.ndarray, sums: np.ndarray = sums, size: np.ndarray = size, metric: str = metric
                ) -> np.ndarray:
                    mean = sums @ w / (size @ w)
                    return np.asarray(seeds @ (np.sqrt(mean) if metric == RMSE else mean))

                own, paired = compare(
                    statistic, np.arange(len(found)), names, references, draws=draws,
                    block=block, larger_is_better=metric == ACC,
                )  # fmt: skip
                scores.append(own.assign(seed="", target=target, metric=metric))
                scores += [_single(groups, at, target, metric)] if len(scored) > len(names) else []
                differences.append(paired.assign(target=target, metric=metric))
            scores += [_plain(groups, at, target, metric) for metric in (STD_RATIO, SLOPE)]
    return pd.concat(scores, ignore_index=True)[list(SCORES)], pd.concat(differences, ignore_index=True)[
        list(DIFFERENCES)
    ]


def _of(one: Scored, metric: str) -> Mapping[tuple[str, int], np.ndarray]:
    return one.squared if metric == RMSE else one.correlation


def _single(groups: Mapping[str, Sequence[Scored]], at: tuple[str, int], target: str, metric: str) -> pd.DataFrame:
    """Return the scores of the single seeds of rows that have several."""
    lines = []
    for name, group in groups.items():
        for one in group:
            if len(group) < 2:
                continue
            mean = float(_of(one, metric)[at].mean())
            value = mean**0.5 if metric == RMSE else mean
            lines.append((name, str(one.seed), target, metric, value, np.nan, np.nan))
    return pd.DataFrame(lines, columns=list(SCORES))


def _plain(groups: Mapping[str, Sequence[Scored]], at: tuple[str, int], target: str, metric: str) -> pd.DataFrame:
    """Return a number without interval, the mean over seeds."""
    key = metric.replace(" ", "_")
    lines = [
        (name, "", target, metric, float(np.mean([one.numbers[at][key] for one in group])), np.nan, np.nan)
        for name, group in groups.items()
    ]
    return pd.DataFrame(lines, columns=list(SCORES))


def forms_table(scored: Sequence[Scored], samples: ForecastSamples) -> pd.DataFrame:
    """Return every form of error and correlation, and of dynamic range, one line a row, seed, variable and lead."""
    lines = []
    for one in scored:
        for (variable, lead), numbers in one.numbers.items():
            lines.append(
                {
                    "row": one.name, "seed": "" if one.seed is None else one.seed, "variable": variable,
                    "unit": samples.unit(variable), "lead": samples.label(lead),
                    **{name: numbers[name] for name in (*FORMS, *RANGE)},
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def spectrum_table(scored: Sequence[Scored], samples: ForecastSamples) -> pd.DataFrame:
    """Return forecast over true power by zonal wavenumber, one line a row, seed, variable, lead and wavenumber."""
    parts = [
        pd.DataFrame({"wavenumber": np.arange(len(ratio)), "ratio": ratio}).assign(
            row=one.name, seed="" if one.seed is None else one.seed, variable=variable, lead=samples.label(lead)
        )
        for one in scored
        for (variable, lead), ratio in one.spectrum.items()
        if len(ratio)
    ]
    columns = ["row", "seed", "variable", "lead", "wavenumber", "ratio"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
