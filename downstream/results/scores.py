"""The one table maker: rows and targets become scores with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..metrics.paired_bootstrap import FEWEST_UNITS, Resampled, Statistic, compare
from .row import Row, names_of, over_seeds
from .summary import DIFFERENCES, SCORES
from .target import Target


def tables(
    targets: Sequence[Target], rows: Sequence[Row], *, draws: int, references: Sequence[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of all rows at all targets, and their paired differences from the rows to be beaten.

    A row of several seeds scores the mean of its seeds' scores; each seed's own score stands apart, without interval.
    Intervals are percentiles of a bootstrap over blocks of the target's independent units (see `compare`).

    Args:
        targets: What was forecast.
        rows: What each method says; a row without a forecast of a target has no score there.
        draws: Of the bootstrap.
        references: Names of the rows to subtract; None: all that are `subtracted`.

    Returns:
        Columns of `SCORES` and of `DIFFERENCES`.
    """
    scores, differences = [], []
    for target in targets:
        block = target.block if len(np.unique(target.units)) >= max(FEWEST_UNITS, 2 * target.block) else 1
        for metric in target.metrics:
            own = [row for row in rows if target.name in row.forecast and metric.takes(row)]
            if not own:
                continue
            names = names_of(own)
            wanted = {row.name for row in own if row.subtracted} if references is None else set(references)
            statistic = metric.statistic(own)
            found, paired = compare(
                mean_of(own, statistic), target.units, names,
                [name for name in names if name in wanted] if metric.compared else [],
                draws=draws, block=block, larger_is_better=metric.larger_is_better,
            )  # fmt: skip
            place = {"target": target.name, "metric": metric.name}
            scores.append(found.assign(seed="", **place))
            told = [metric.pairs(row, other) for row, other in zip(paired["row"], paired["reference"], strict=True)]
            differences.append(paired[np.array(told, dtype=bool)].assign(**place))
            scores.append(_by_seed(own, statistic(np.ones(len(target.units)))).assign(**place))
    return joined(scores, SCORES), joined(differences, DIFFERENCES)


def mean_of(rows: Sequence[Row], statistic: Statistic) -> Statistic:
    """Return a statistic of rows as that of their names: the mean over seeds."""
    mean = over_seeds(rows)
    if isinstance(statistic, Resampled):
        return _ResampledMean(mean, statistic)
    return lambda weights: _averaged(mean, statistic(weights))


def _averaged(mean: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return means over seeds, (…, name), of values (…, row); a NaN is one of its own name only."""
    undefined = np.isnan(values)
    if not undefined.any():
        return np.asarray(values @ mean.T if values.ndim > 1 else mean @ values)
    return np.where(undefined @ (mean > 0).T, np.nan, np.where(undefined, 0.0, values) @ mean.T)


class _ResampledMean(Resampled):
    def __init__(self, mean: np.ndarray, statistic: Resampled) -> None:
        self.mean, self.statistic = mean, statistic

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return _averaged(self.mean, self.statistic(weights))

    def resample(self, counts: np.ndarray) -> np.ndarray:
        return _averaged(self.mean, self.statistic.resample(counts))


def _by_seed(rows: Sequence[Row], values: np.ndarray) -> pd.DataFrame:
    """Return the score of each seed of the rows that have several."""
    names = [row.name for row in rows]
    several = [k for k, name in enumerate(names) if names.count(name) > 1]
    return pd.DataFrame(
        {"row": [names[k] for k in several], "seed": [str(rows[k].seed) for k in several],
         "value": [float(values[k]) for k in several], "low": np.nan, "high": np.nan}
    )  # fmt: skip


def joined(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return the columns of several tables, one after the other."""
    kept = [part[list(columns)] for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(columns))
