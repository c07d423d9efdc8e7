"""Scores of a fine-tuning's rows and their paired differences, by a bootstrap over blocks of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError, nearest
from ..evaluation.summary import DIFFERENCES, SCORES
from ..metrics.classes import class_tables
from ..metrics.paired_bootstrap import FEWEST_UNITS, compare
from .rows import TunedRow
from .samples import LabelSamples

UNITS = {"year": "Y", "month": "M", "week": "W", "day": "D"}
ENOUGH = 8  # units of test, or the next shorter one is taken
Statistic = Callable[[np.ndarray], np.ndarray]


def unit_of(times: np.ndarray, unit: str) -> tuple[str, np.ndarray]:
    """Return the unit that is drawn as a whole, and which one each time belongs to.

    Args:
        times: Of the test labels.
        unit: year, month, week or day; auto takes the longest of which there are eight.

    Raises:
        EarthSSLError: If the unit is unknown, or there are fewer than four of it.
    """
    if unit != "auto" and unit not in UNITS:
        known = ("auto", *UNITS)
        raise EarthSSLError(f"finetune.unit: expected {', '.join(known)}, got '{unit}'." + nearest(unit, known))
    found = {name: times.astype(f"datetime64[{code}]").astype(np.int64) for name, code in UNITS.items()}
    if unit == "auto":
        unit = next((name for name, own in found.items() if len(np.unique(own)) >= ENOUGH), "day")
    count = len(np.unique(found[unit]))
    if count < FEWEST_UNITS:
        raise EarthSSLError(
            f"finetune.unit: expected at least {FEWEST_UNITS} {unit}s with test labels for intervals, got {count}; "
            "lengthen the test block or choose a shorter unit"
        )
    return unit, found[unit]


def tuned_tables(
    samples: LabelSamples,
    rows: Sequence[TunedRow],
    area: np.ndarray,
    units: np.ndarray,
    draws: int,
    block: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of all rows and their paired differences from every row but the tuned ones and climatology.

    A row of several seeds scores the mean of its seeds' scores.

    Args:
        samples: The labels; only those of the test block are read.
        rows: What each method says of them.
        area: Share of the sphere of each cell, (row, column), for fields.
        units: Independent unit of each test label.
        draws, block: Of the bootstrap.
    """
    names = list(dict.fromkeys(row.name for row in rows))
    references = [name for name in names if not name.startswith("pretrained, fine-tuned") and name != "climatology"]
    references = references or ["climatology"]
    if samples.kind == "classification":
        return _classes(samples, rows, names, references, units, draws, block)
    scores, differences = [], []
    for target, statistics in _numbers(samples, rows, area).items():
        mean = _mean_over_seeds(rows, names)
        for metric, one in statistics.items():
            found, paired = compare(
                lambda w, one=one, mean=mean: mean @ one(w),  # type: ignore[misc]
                units, names, references, draws=draws, block=block, larger_is_better=metric != "rmse",
            )  # fmt: skip
            scores.append(found.assign(metric=metric, target=target, seed=""))
            differences.append(paired.assign(metric=metric, target=target))
            scores.append(_by_seed(rows, one(np.ones(len(units))), metric, target))
    return _joined(scores, SCORES), _in_order(_joined(differences, DIFFERENCES), names)


def _in_order(differences: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the differences by row, the tuned ones first, so that the first lines answer the question."""
    tuned = [name for name in names if name.startswith("pretrained, fine-tuned")]
    order = {name: k for k, name in enumerate([*tuned, *[name for name in names if name not in tuned]])}
    rank = differences["row"].map(order)
    return differences.assign(rank=rank).sort_values("rank", kind="stable").drop(columns="rank").reset_index(drop=True)


def _mean_over_seeds(rows: Sequence[TunedRow], names: Sequence[str]) -> np.ndarray:
    """Return the matrix from the scores of rows to those of names, (name, row)."""
    own = np.asarray([[row.name == name for row in rows] for name in names], float)
    return own / own.sum(axis=1, keepdims=True)


def _by_seed(rows: Sequence[TunedRow], values: np.ndarray, metric: str, target: str) -> pd.DataFrame:
    several = [k for k, row in enumerate(rows) if sum(other.name == row.name for other in rows) > 1]
    return pd.DataFrame(
        {"row": [rows[k].name for k in several], "seed": [str(rows[k].seed) for k in several], "target": target,
         "metric": metric, "value": [float(values[k]) for k in several], "low": np.nan, "high": np.nan}
    )  # fmt: skip


def _joined(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    kept = [part[list(columns)] for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(columns))


def _numbers(samples: LabelSamples, rows: Sequence[TunedRow], area: np.ndarray) -> dict[str, dict[str, Statistic]]:
    """Return each target's metrics as functions of sample weights, giving one score for each row."""
    test = samples.parts["test"]
    truth, climatology = samples.target[test], samples.base.at(samples.times[test])
    predicted = np.stack([row.predicted for row in rows])
    if samples.kind == "field":
        seen = np.isfinite(truth) & np.isfinite(climatology) & np.isfinite(predicted).all(axis=0)
        weight = seen * area
        if not weight.any():
            raise EarthSSLError("finetune: expected test cells that training saw too, got none; check the labels' gaps")
        truth, climatology = np.nan_to_num(truth), np.nan_to_num(climatology)
        error = (weight * (np.nan_to_num(predicted) - truth) ** 2).sum(axis=(2, 3))
        reference = (weight * (climatology - truth) ** 2).sum(axis=(1, 2))
        return {samples.labels.names[0]: _skill(error, reference, weight.sum(axis=(1, 2)))}
    made = {}
    for k, name in enumerate(samples.labels.names):
        error, reference = (predicted[:, :, k] - truth[:, k]) ** 2, (climatology[:, k] - truth[:, k]) ** 2
        correlated = _correlation(predicted[:, :, k] - climatology[:, k], truth[:, k] - climatology[:, k])
        made[name] = {**_skill(error, reference, np.ones(len(test))), "r": correlated}
    return made


def _skill(error: np.ndarray, reference: np.ndarray, share: np.ndarray) -> dict[str, Statistic]:
    """Return skill (1 - squared error over that of climatology) and RMSE."""
    return {
        "skill": lambda w: 1 - (error @ w) / (reference @ w),
        "rmse": lambda w: np.sqrt((error @ w) / (share @ w)),
    }


def _correlation(predicted: np.ndarray, truth: np.ndarray) -> Statistic:
    """Return Pearson's r of departures from climatology; 0 for a row that is constant."""

    def statistic(w: np.ndarray) -> np.ndarray:
        share = w / w.sum()
        x, y = predicted - (predicted @ share)[:, None], truth - truth @ share
        power = ((x * x) @ share) * ((y * y) @ share)
        return np.where(power > 1e-24, ((x * y) @ share) / np.sqrt(np.maximum(power, 1e-24)), 0.0)

    return statistic


def _classes(
    samples: LabelSamples, rows: Sequence[TunedRow], names: Sequence[str], references: Sequence[str],
    units: np.ndarray, draws: int, block: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    test, target = samples.parts["test"], samples.labels.names[0]
    truth, climatology = samples.target[test], samples.base.at(samples.times[test])
    by_name = {name: [row.predicted for row in rows if row.name == name] for name in names}
    scores, differences = class_tables(by_name, truth, climatology, units, references, draws=draws, block=block)
    parts = [scores.assign(seed="", target=target)]
    for row in rows:
        if len(by_name[row.name]) > 1:
            alone = {row.name: [row.predicted]}
            own, _ = class_tables(alone, truth, climatology, units, [], draws=1, block=1)
            parts.append(own.assign(seed=str(row.seed), target=target, low=np.nan, high=np.nan))
    return _joined(parts, SCORES), _in_order(_joined([differences.assign(target=target)], DIFFERENCES), names)
