"""Scores of chances of rain: CRPS, calls by threshold, fractions by scale, reliability, from sums over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter

from ...results.row import Row
from ...results.target import Metric, Target, additive

CHANCES = np.concatenate([[0.01, 0.02], np.arange(0.05, 0.96, 0.05)])  # from which on rain is called, to choose from
BINS = 10  # of chance, equally wide
HITS, FALSE, MISSES = range(3)
AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Scorer:
    """What is kept of each sample, and the metrics of its sums.

    Attributes:
        names: Of the targets, one a lead.
        thresholds: Lower edges of the classes from 1 on, mm/h; class 0 lies below the first.
        event: The threshold of fractions and of reliability, one of `thresholds`.
        scales: Cells along each side of the squares of the fractions skill score.
        values: A rain rate that stands for each class, mm/h, (class,).
        usual: How often each class fell in training, (lead, class).
    """

    names: Sequence[str]
    thresholds: Sequence[float]
    event: float
    scales: Sequence[int]
    values: np.ndarray
    usual: np.ndarray
    layout: dict[str, slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"cells": 1, "crps": 1, "squared": 1, **{f"calls {one:g}": 3 for one in self.thresholds},
                 **{f"fractions {one}": 2 for one in self.scales}, "bins": 3 * BINS}  # fmt: skip
        at = 0
        for name, size in sizes.items():
            self.layout[name] = slice(at, at + size)
            at += size

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.thresholds) + 1

    def class_of(self, rain: np.ndarray) -> np.ndarray:
        """Return the class of rain rates, -1 where they are not known."""
        return np.where(np.isfinite(rain), np.searchsorted(self.thresholds, rain, side="right"), -1)

    def above(self, chances: np.ndarray, threshold: float) -> np.ndarray:
        """Return the chance of as much or more, (sample, row, column), of chances (sample, class, row, column)."""
        return np.asarray(chances[:, list(self.thresholds).index(threshold) + 1 :].sum(axis=1))

    def crps_of(self, chances: np.ndarray, rain: np.ndarray) -> np.ndarray:
        """Return E|X - y| - E|X - X'| / 2 of each cell, mm/h: X has the values of the classes with their chances.

        Args:
            chances: (sample, class, row, column).
            rain: What fell, y, (sample, row, column); NaN stays.
        """
        made = np.zeros(rain.shape)
        for k, value in enumerate(self.values):
            made += chances[:, k] * np.abs(value - rain)
            for j in range(k):
                made -= chances[:, k] * chances[:, j] * abs(value - self.values[j])
        return made

    def crps(self, chances: np.ndarray, rain: np.ndarray) -> float:
        """Return the mean CRPS over known cells; inf where there is none."""
        if not np.isfinite(rain).any():
            return np.inf
        return float(np.nanmean(self.crps_of(chances, rain)))

    def calls(self, chances: np.ndarray, rain: np.ndarray) -> list[float]:
        """Return from which chance on each threshold is called: that of the best critical success index, or 0.5."""
        known, made = np.isfinite(rain), []
        for threshold in self.thresholds:
            chance, event = self.above(chances, threshold)[known], rain[known] >= threshold
            hits, called = ([float((chance[own] >= one).sum()) for one in CHANCES] for own in (event, slice(None)))
            csi = np.array(hits) / np.maximum(np.array(called) + event.sum() - np.array(hits), 1)
            made.append(float(CHANCES[csi.argmax()]) if csi.max() > 0 else 0.5)
        return made

    def parts(self, chances: np.ndarray, rain: np.ndarray, calls: Sequence[float]) -> np.ndarray:
        """Return what is summed, float64 (sample, part), as `layout` has it.

        Args:
            chances: (sample, class, row, column).
            rain: What fell, mm/h, NaN where not known, (sample, row, column).
            calls: See `calls`.
        """
        known = np.isfinite(rain)
        made = np.zeros((len(rain), max(one.stop for one in self.layout.values())))

        def keep(name: str, *sums: np.ndarray) -> None:
            made[:, self.layout[name]] = np.stack(sums, axis=1)

        keep("cells", known.sum((1, 2)))
        keep("crps", np.nansum(self.crps_of(chances, rain), axis=(1, 2)))
        for threshold, call in zip(self.thresholds, calls, strict=True):
            called, fell = (self.above(chances, threshold) >= call) & known, (rain >= threshold) & known
            pairs = ((called & fell), (called & ~fell), (~called & fell))
            keep(f"calls {threshold:g}", *(one.sum((1, 2)) for one in pairs))
        chance, fell = np.where(known, self.above(chances, self.event), 0), (rain >= self.event) & known
        keep("squared", (((chance - fell) ** 2) * known).sum((1, 2)))
        for scale in self.scales:
            told, true = (_fraction(one, known, scale) for one in (chance, fell))
            keep(f"fractions {scale}", (((told - true) ** 2) * known).sum((1, 2)),
                 ((told**2 + true**2) * known).sum((1, 2)))  # fmt: skip
        place = np.minimum((chance * BINS).astype(int), BINS - 1) + BINS * np.arange(len(rain))[:, None, None]
        binned = [np.bincount(place.ravel(), one.ravel().astype(float), BINS * len(rain)).reshape(len(rain), BINS)
                  for one in (known, chance * known, fell)]  # fmt: skip
        made[:, self.layout["bins"]] = np.concatenate(binned, axis=1)
        return made

    def target(self, name: str, units: np.ndarray, usual: np.ndarray, block: int, cell_km: float) -> Target:
        """Return the target of a lead.

        Args:
            name: Of the target.
            units, block: As for `Target`.
            usual: Parts of the climatology at the test samples.
            cell_km: Side of a cell.
        """
        crps = usual[:, self.layout["crps"]][:, 0]

        def metric(
            words: str, part: str, formula: Callable[[np.ndarray, np.ndarray], np.ndarray], **more: Any
        ) -> Metric:
            def parts(row: Row) -> np.ndarray:
                return row.forecast[name][:, self.layout[part]].T

            return additive(words, parts, formula, **more)

        def reliability(sums: np.ndarray, w: np.ndarray) -> np.ndarray:
            cells, told, fell = np.split(sums, 3)
            return np.asarray(_ratio((_ratio(told - fell, cells) ** 2 * cells).sum(0), cells.sum(0)))

        metrics = [
            metric("crps_skill", "crps", lambda s, w: 1 - s[0] / (crps @ w)),
            *(metric(f"csi_{one:g}", f"calls {one:g}", lambda s, w: _ratio(s[HITS], s.sum(0)))
              for one in self.thresholds),
            *(metric(f"fss_{self.event:g}_{scale * cell_km:g}km", f"fractions {scale}",
                     lambda s, w: 1 - _ratio(s[0], s[1])) for scale in self.scales),
            metric(f"reliability_{self.event:g}", "bins", reliability, larger_is_better=False),
            additive("crps", lambda row: row.forecast[name][:, :2].T, lambda s, w: s[1] / s[0], larger_is_better=False),
            *(metric(f"bias_{one:g}", f"calls {one:g}", lambda s, w: _ratio(s[HITS] + s[FALSE], s[HITS] + s[MISSES]),
                     compared=False) for one in self.thresholds),
        ]  # fmt: skip
        main = ("crps_skill", f"csi_{self.event:g}", f"reliability_{self.event:g}")
        squared = self.layout["squared"]
        return Target(name, units, metrics, block, errors=lambda row: row.forecast[name][:, squared][:, 0],
                      reference_errors=usual[:, squared][:, 0], main=main)  # fmt: skip

    def reliability_table(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Return how often the event fell where a chance of it was told: a line for each row, target and bin."""
        found = []
        for name in self.names:
            sums: dict[str, np.ndarray] = {}
            for row in rows:
                own = row.forecast[name][:, self.layout["bins"]].sum(0).reshape(3, BINS)
                sums[row.name] = sums.get(row.name, 0) + own
            for words, (cells, told, fell) in sums.items():
                found += [{"row": words, "target": name, "chance": told[k] / cells[k], "observed": fell[k] / cells[k],
                           "share": cells[k] / cells.sum()} for k in range(BINS) if cells[k]]  # fmt: skip
        return pd.DataFrame(found)


def _fraction(field: np.ndarray, known: np.ndarray, scale: int) -> np.ndarray:
    """Return the mean over known cells in squares around each cell, inside the target alone."""
    over = (1, scale, scale)
    share = uniform_filter(known.astype(float), over, mode="constant")
    return np.asarray(uniform_filter(field * known.astype(float), over, mode="constant") / np.maximum(share, 1e-9))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    a, b = np.asarray(above, float), np.asarray(below, float)
    return np.asarray(np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b > 0))
