"""Rows of the storm tiles: chances that a storm lies in each tile, by each method, and how they are scored.

Every head is one logistic regression shared by all tiles, given the log odds of the climatology of latitude band and
season beside its features: a row below the climatology has not merely missed where the tropics are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ...features.patches import PatchFeatures, PatchGrid, pca_features
from ...heads.base import Samples, choose
from ...heads.linear import LogisticHead
from ...metrics.events import Contingency, Ranking, best_threshold
from ...metrics.paired_bootstrap import compare
from .labels import BAND, TileLabels

PCA, EXTREMES = "PCA of the tile [logistic]", "minimum, maximum, mean, spread [logistic]"
BSS, AUC, AP, BALANCED = "brier_skill", "auc", "average_precision", "balanced_accuracy"
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class TileRow:
    """What one row says of the test block.

    Attributes:
        row: Name.
        seed: None where nothing is random.
        chances: Of a storm in each tile, (test time, place).
        threshold: From this chance on a storm is called; chosen on validation.
        chosen: What validation chose.
    """

    row: str
    seed: int | None
    chances: np.ndarray
    threshold: float
    chosen: Mapping[str, Any] = field(default_factory=dict)


def threshold_of(chances: np.ndarray, storms: np.ndarray) -> float:
    """Return the chance from which on calls have the best balanced accuracy (PSS + 1, halved)."""
    return best_threshold(chances.ravel(), storms.ravel().astype(int), "pss")


def climatology_rows(labels: TileLabels) -> list[TileRow]:
    """Return the rows that see no field; thresholds from frequencies of train, chances from train and validation."""
    val, test = labels.inside("val"), labels.inside("test")
    first, final = (labels.climatologies(labels.inside(*parts)) for parts in (("train",), ("train", "val")))
    return [
        TileRow(name, None, final[name][test], threshold_of(first[name][val], labels.storms[val])) for name in final
    ]


def log_odds(labels: TileLabels) -> np.ndarray:
    """Return the log odds of the training climatology of latitude band and season at all times, (n, place)."""
    chance = labels.climatologies(labels.inside("train"))[BAND]
    return np.log(chance / (1 - chance))


def logistic_row(
    labels: TileLabels, features: Mapping[str, np.ndarray], costs: Sequence[float], row: str, seed: int | None
) -> TileRow:
    """Return a row by logistic regression: features and C chosen on validation, refitted on train and validation.

    Args:
        labels: The storms.
        features: Candidates by name, each (n, place, feature) at all sample times.
        costs: C to choose from.
        row, seed: Of the row.
    """
    head, odds = LogisticHead(tuple(costs)), log_odds(labels)[..., None]

    def given(name: str, *parts: str) -> Samples:
        return labels.samples(np.concatenate([features[name], odds], axis=-1), *parts)

    train, val = ({name: given(name, part) for name in features} for part in ("train", "val"))
    choice = choose(head, train, val)
    name, setting = choice.candidate, [choice.setting]
    on_val = head.predict(train[name], val[name], setting)[0][:, 1]
    fit, test = given(name, "train", "val"), given(name, "test")
    chances = head.predict(fit, test, setting)[0][:, 1].reshape(-1, labels.storms.shape[1])
    threshold = threshold_of(on_val, labels.storms[labels.inside("val")])
    chosen = {"features": name, "C": choice.setting, "validation_brier": choice.error}
    return TileRow(row, seed, chances, threshold, chosen)


def raw_cells(fields: np.ndarray, grid: PatchGrid, steps: np.ndarray, window: int) -> np.ndarray:
    """Return what an encoder sees of each tile over the window that ends at each step, (n, place, value); 0 = missing.

    Args:
        fields: Of the store, normalised, (time, variable, row, column).
        grid: How the globe is cut.
        steps: Last steps, (n,).
        window: Steps.
    """
    parts = [np.nan_to_num(grid.cut(fields[steps - back])) for back in range(window)[::-1]]
    return np.concatenate(parts, axis=-1)


def component_features(
    cells: np.ndarray, grid: PatchGrid, labels: TileLabels, tiles: np.ndarray, counts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return leading principal components of each tile, alone and beside those of its eight neighbours.

    The neighbours are for fairness: an encoder's token has looked at them. Components are fitted on training times.

    Args:
        cells: See `raw_cells`.
        grid: How the globe is cut.
        labels: Says which times are training.
        tiles: Number of each place's tile, (place,).
        counts: Numbers of components; those beyond what the tiles carry are all there are.
    """
    raw = PatchFeatures(np.arange(len(cells)), cells)
    found = pca_features(raw, np.flatnonzero(labels.inside("train")), grid.area, max(counts)).values
    columns = -(-grid.store.grid.shape[1] // grid.patch[1])
    made = {}
    for count in sorted({min(count, found.shape[-1]) for count in counts}):
        own = found[..., :count]
        made[f"{count} components"] = own
        made[f"{count} components of it and its neighbours"] = with_neighbours(
            own, tiles, columns, grid.store.grid.periodic
        )
    return made


def with_neighbours(values: np.ndarray, tiles: np.ndarray, columns: int, periodic: bool) -> np.ndarray:
    """Return each place's features beside those of its eight neighbours, 0 where there is none, (n, place, 9 feature).

    Args:
        values: Shape (n, place, feature).
        tiles: Tile number of each place, row × columns + column.
        columns: Tiles in a row.
        periodic: Whether the last column borders on the first.
    """
    row, column = np.divmod(tiles, columns)
    place = {int(tile): k for k, tile in enumerate(tiles)}
    padded = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)  # the last one: nobody
    parts = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            r, c = row + down, column + across
            c = c % columns if periodic else c
            inside = (r >= 0) & (c >= 0) & (c < columns)
            wanted = np.where(inside, r * columns + c, -1)
            parts.append(padded[:, [place.get(int(tile), len(tiles)) for tile in wanted]])
    return np.concatenate(parts, axis=-1)


def extreme_features(fields: np.ndarray, grid: PatchGrid, steps: np.ndarray) -> np.ndarray:
    """Return minimum, maximum, mean and standard deviation of each variable in each tile, (n, place, 4 variable)."""
    cells = grid.cut(fields[steps])
    cells = cells.reshape(*cells.shape[:2], fields.shape[1], -1)
    valid = np.isfinite(cells)
    count = np.maximum(valid.sum(axis=-1), 1)
    known = valid.any(axis=-1)
    low = np.where(known, np.where(valid, cells, np.inf).min(axis=-1), 0)
    high = np.where(known, np.where(valid, cells, -np.inf).max(axis=-1), 0)
    mean = np.where(valid, cells, 0).sum(axis=-1) / count
    spread = np.sqrt(np.where(valid, (cells - mean[..., None]) ** 2, 0).sum(axis=-1) / count)
    return np.concatenate([low, high, mean, spread], axis=-1)


def statistics(
    chances: np.ndarray, thresholds: np.ndarray, storms: np.ndarray, climatology: np.ndarray
) -> dict[str, Statistic]:
    """Return each metric as a function of sample weights (n,), giving one score for each forecast (m,).

    Args:
        chances: Of m forecasts, (m, n).
        thresholds: From which on each calls a storm, (m,).
        storms: What was, bool (n,).
        climatology: Chances of the reference of the Brier skill, (n,).
    """
    error, reference = (chances - storms) ** 2, (climatology - storms) ** 2
    ranked = Ranking(chances, storms.astype(int))
    calls = chances >= thresholds[:, None]
    return {
        BSS: lambda w: 1 - (error @ w) / (reference @ w),
        AUC: ranked.auc,
        AP: ranked.average_precision,
        BALANCED: lambda w: (1 + Contingency.of(calls, storms.astype(int), w).pss) / 2,
    }


def tile_tables(
    rows: Sequence[TileRow], labels: TileLabels, references: Sequence[str], *, draws: int, block_weeks: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores and paired differences, by a bootstrap over blocks of test weeks.

    Args:
        rows: Those of one name are seeds of one row, whose score is the mean of theirs.
        labels: What was.
        references: Rows to subtract.
        draws: Of the bootstrap.
        block_weeks: Neighbouring weeks drawn together; storms live up to two.

    Returns:
        Columns row, seed, metric, value, low, high; and row, reference, metric, value, low, high, verdict.
    """
    test = labels.inside("test")
    storms = labels.storms[test]
    weeks = np.repeat(labels.times[test].astype("datetime64[W]").astype(int), storms.shape[1])
    chances = np.stack([one.chances.ravel() for one in rows])
    reference = next(one.chances.ravel() for one in rows if one.row == BAND)
    names = list(dict.fromkeys(one.row for one in rows))
    seeds = np.array([[one.row == name for one in rows] for name in names], dtype=float)
    mean = seeds / seeds.sum(axis=1, keepdims=True)
    thresholds = np.array([one.threshold for one in rows])
    scores, differences = [], []
    for metric, one in statistics(chances, thresholds, storms.ravel(), reference).items():
        found, paired = compare(
            lambda w, one=one: mean @ one(w),  # type: ignore[misc]
            weeks, names, references, draws=draws, block=block_weeks,
        )  # fmt: skip
        scores.append(found.assign(metric=metric, seed=""))
        differences.append(paired.assign(metric=metric))
        each = one(np.ones(storms.size))
        own = [(k, row) for k, row in enumerate(rows) if seeds[names.index(row.row)].sum() > 1]
        if own:
            lines = [{"row": row.row, "seed": str(row.seed), "metric": metric, "value": each[k], "low": np.nan,
                      "high": np.nan} for k, row in own]  # fmt: skip
            scores.append(pd.DataFrame(lines))
    return pd.concat(scores, ignore_index=True), pd.concat(differences, ignore_index=True)
