"""Scores of masks: one confusion matrix over the test block, average precision, objects that are found.

All are formulas of sums over samples, so each row keeps, of each test sample, only what is summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.grid import LatLonGrid
from ...metrics.calibration import chance_sums
from ...results.row import Row
from ...results.target import Chances, Metric, Target, additive

BINS = 240  # of the log odds from -LARGEST to LARGEST: average precision ranks by these
LARGEST = 12.0
FLOOR = 1e-6  # least chance
FACTORS = np.arange(-4.0, 4.01, 0.25)  # of a class, logarithms, to choose from
BEYOND = np.arange(4.25, 14.01, 0.25)  # where the best is the least or the largest: FLOOR is -13.8
ROUNDS = 2  # over the classes
OBJECTS = 4  # true, found, called, right


@dataclass(frozen=True, eq=False)
class Scorer:
    """What is kept of each test sample, and the metrics of its sums.

    Attributes:
        classes: Names, the background first.
        grid: Cells.
        overlap: Share of an object's area that makes it found, or right.
    """

    classes: Sequence[str]
    grid: LatLonGrid
    overlap: float

    def parts(self, chances: np.ndarray, factors: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return what is summed, float64 (part, sample).

        Args:
            chances: (sample, class, row, column).
            factors: Logarithms, see `called`.
            truth: Class of each cell, (sample, row, column).
        """
        count, area = len(self.classes), self.grid.area / self.grid.area.mean()
        calls = called(chances, factors)
        pair = truth.astype(int) * count + calls
        made = []
        for weight in (area, np.ones_like(area)):
            made.append(np.stack([((pair == k) * weight).sum((1, 2)) for k in range(count * count)]))
        for k in range(1, count):
            chance = np.clip(chances[:, k].astype(np.float64), FLOOR, 1 - FLOOR)
            odds = (np.log(chance / (1 - chance)) + LARGEST) / (2 * LARGEST) * BINS
            place = np.clip(odds, 0, BINS - 1).astype(int) + BINS * (truth == k)
            place += 2 * BINS * np.arange(len(truth))[:, None, None]
            weight = np.broadcast_to(area, truth.shape)
            binned = np.bincount(place.ravel(), weight.ravel(), 2 * BINS * len(truth))
            made.append(binned.reshape(len(truth), 2 * BINS).T)
        made += [self._objects(calls == k, truth == k) for k in range(1, count)]
        return np.concatenate(made)

    def _objects(self, calls: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return how many true objects there are and how many are found, called ones and how many are right."""
        there, found = _overlapped(truth, calls, self.grid, self.overlap)
        said, right = _overlapped(calls, truth, self.grid, self.overlap)
        return np.stack([there, found, said, right])

    def target(self, name: str, units: np.ndarray, block: int) -> Target:
        """Return the target: the mean IoU of the classes beside the background, first.

        Args:
            name: Of the target.
            units, block: As for `Target`.
        """
        count, events = len(self.classes), range(1, len(self.classes))
        square = count * count
        of = ["", *(f", {name}" if count > 2 else "" for name in self.classes[1:])]

        def confusion(which: int, name_of: str, chosen: Sequence[int]) -> Metric:
            def formula(sums: np.ndarray, w: np.ndarray) -> np.ndarray:
                return np.asarray(iou(sums.T.reshape(-1, count, count))[:, chosen].mean(axis=1))

            return additive(name_of, lambda row: row.forecast[name][which * square : (which + 1) * square], formula)

        def precision(k: int) -> Metric:
            first = 2 * square + (k - 1) * 2 * BINS
            return additive(
                f"average_precision{of[k]}", lambda row: row.forecast[name][first : first + 2 * BINS],
                lambda sums, w: average_precision(sums[BINS:], sums[:BINS]),
            )  # fmt: skip

        def objects(k: int, which: str) -> Metric:
            first = 2 * square + (count - 1) * 2 * BINS + (k - 1) * OBJECTS

            def formula(sums: np.ndarray, w: np.ndarray) -> np.ndarray:
                recall, right = _ratio(sums[1], sums[0]), _ratio(sums[3], sums[2])
                return {"recall": recall, "precision": right, "f1": _f1(recall, right)}[which]

            return additive(f"object_{which}{of[k]}", lambda row: row.forecast[name][first : first + OBJECTS], formula)

        metrics = [confusion(0, "iou", list(events))]
        metrics += [confusion(0, f"iou{of[k]}", [k]) for k in events] if count > 2 else []
        metrics += [precision(k) for k in events]
        metrics += [objects(k, which) for k in events for which in ("f1", "recall", "precision")]
        metrics += [
            confusion(0, "mean_iou", list(range(count))),
            confusion(1, "mean_iou_cells", list(range(count))),
            confusion(0, "iou, background", [0]),
        ]
        shown = [one.name for one in metrics if one.name.startswith(("iou, ", "average", "object_f1"))][:-1]
        chances = Chances(list(self.classes[1:]), lambda row: self._chances(row.forecast[name]))
        return Target(name, units, metrics, block, main=("iou", *shown), chances=chances)

    def _chances(self, parts: np.ndarray) -> np.ndarray:
        """Return what calibration sums of the chances of each class beside the background, (class, part, sample)."""
        count, made = len(self.classes), []
        chance = expit((np.arange(BINS) + 0.5) / BINS * 2 * LARGEST - LARGEST)
        for k in range(count - 1):
            first = 2 * count * count + k * 2 * BINS
            missed, hits = parts[first : first + BINS].T, parts[first + BINS : first + 2 * BINS].T
            both = np.concatenate([missed, hits], axis=1)
            occurred = np.broadcast_to(np.repeat([0.0, 1.0], BINS), both.shape)
            made.append(chance_sums(np.broadcast_to(np.tile(chance, 2), both.shape), occurred, both))
        return np.stack(made)

    def confusions(self, rows: Sequence[Row], name: str) -> dict[str, np.ndarray]:
        """Return the area of each class (row) that was called each class (column), by the name of the first seeds."""
        count, found = len(self.classes), dict[str, np.ndarray]()
        for row in rows:
            if name in row.forecast and row.name not in found:
                found[row.name] = row.forecast[name][: count * count].sum(1).reshape(count, count)
        return found


def called(chances: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the class whose chance times its factor is largest, int8 (sample, row, column).

    Args:
        chances: (sample, class, row, column).
        factors: Logarithms, (class,).
    """
    weighed = np.log(np.maximum(chances, FLOOR)) + np.asarray(factors)[:, None, None]
    return np.asarray(weighed.argmax(axis=1).astype(np.int8))


def best_factors(chances: np.ndarray, truth: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the factors of the classes, logarithms, of the largest mean IoU beside the background, and that IoU.

    Each class in turn; the background's is 0. It is meant for validation samples.

    Args:
        chances: (sample, class, row, column).
        truth: (sample, row, column).
        area: (row, column).
    """
    count = chances.shape[1]
    logs = np.log(np.maximum(chances, FLOOR)).transpose(1, 0, 2, 3).reshape(count, -1)
    label, weight = truth.ravel().astype(int), np.broadcast_to(area, truth.shape).ravel()
    factors, best = np.zeros(count), -1.0
    for _ in range(ROUNDS if count > 2 else 1):
        for k in range(1, count):
            others = np.delete(np.arange(count), k)
            rival = logs[others] + factors[others][:, None]
            at, least = others[rival.argmax(0)], rival.max(0)

            def score(factor: float, own: np.ndarray = logs[k], k: int = k, at: np.ndarray = at,
                      least: np.ndarray = least) -> float:  # fmt: skip
                calls = np.where(own + factor > least, k, at)
                sums = np.bincount(label * count + calls, weight, count * count).reshape(count, count)
                return float(np.nan_to_num(iou(sums)[1:]).mean())

            factor, found = _largest(score)
            if found > best:
                best, factors[k] = found, factor
    return factors, best


def _largest(score: Callable[[float], float]) -> tuple[float, float]:
    """Return the factor of the largest score, and that: of `FACTORS`, and beyond an end of them that is as good."""
    tried = {float(factor): score(float(factor)) for factor in FACTORS}
    most = max(tried.values())
    for sign, end in ((-1, FACTORS[0]), (1, FACTORS[-1])):
        if tried[float(end)] == most:
            tried |= {sign * float(factor): score(sign * float(factor)) for factor in BEYOND}
    best = max(tried, key=lambda factor: tried[factor])  # of equally good ones one of FACTORS, the least
    return best, tried[best]


def iou(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class, (…, class), of areas (…, true, called); NaN where neither."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _ratio(hit, confusion.sum(-1) + confusion.sum(-2) - hit)


def average_precision(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Return Σ (R_i - R_{i-1}) P_i, (row,), of the weight of events and of others in bins of chance, (bin, row).

    P_i is the precision of calling all above the bin and half of it: within a bin the order is not known.
    """
    event, every = hits[::-1], (hits + false_alarms)[::-1]
    above, called_ = np.cumsum(event, 0) - event / 2, np.cumsum(every, 0) - every / 2
    precision = np.divide(above, called_, out=np.zeros_like(above), where=called_ > 0)
    return _ratio((event * precision).sum(0), event.sum(0))


def objects_of(masks: np.ndarray, grid: LatLonGrid) -> tuple[np.ndarray, int]:
    """Return connected cells as numbered objects, 0 for none, (sample, row, column), and how many there are in all.

    Cells that share an edge or a corner are neighbours, across 0°E too where the grid goes round; so are all cells of a
    row that reaches to a pole.

    Args:
        masks: bool (sample, row, column).
        grid: Of them.
    """
    near = np.zeros((3, 3, 3), bool)
    near[1] = True  # no object lives from one sample to the next
    labels, count = ndimage.label(masks, near)
    pairs = []
    if grid.periodic:
        high = masks.shape[1]
        for shift in (-1, 0, 1):
            rows = np.arange(max(0, -shift), high - max(0, shift))
            pairs.append(np.stack([labels[:, rows, -1].ravel(), labels[:, rows + shift, 0].ravel()]))
    for row, edge in ((0, grid.lat_bounds[0]), (-1, grid.lat_bounds[-1])):
        if abs(abs(edge) - 90) < 1e-6 and grid.periodic:
            first = np.broadcast_to(labels[:, row].max(axis=1, keepdims=True), labels[:, row].shape)
            pairs.append(np.stack([labels[:, row].ravel(), first.ravel()]))
    if not pairs or not count:
        return labels, count
    one, other = np.concatenate(pairs, axis=1)
    both = (one > 0) & (other > 0)
    links = coo_array((np.ones(both.sum()), (one[both], other[both])), shape=(count + 1, count + 1))
    merged, number = connected_components(links, directed=False)
    return number[labels], merged - 1  # 0 is alone, so it stays 0


def _overlapped(
    masks: np.ndarray, others: np.ndarray, grid: LatLonGrid, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each sample how many objects there are, and of how many the others cover so much of the area."""
    labels, count = objects_of(masks, grid)
    weight = np.broadcast_to(grid.area, masks.shape)
    size = np.bincount(labels.ravel(), weight.ravel(), count + 1)[1:]
    shared = np.bincount(labels.ravel(), (weight * others).ravel(), count + 1)[1:]
    of = np.zeros(count + 1, int)
    of[labels.ravel()] = np.repeat(np.arange(len(masks)), masks[0].size)
    there = np.bincount(of[1:], minlength=len(masks))
    return there, np.bincount(of[1:], (shared >= overlap * size - 1e-15) & (shared > 0), len(masks))


def check_classes(present: np.ndarray, classes: Sequence[str], part: str) -> None:
    """Raise an EarthSSLError unless every class has cells among those of a block."""
    for k, name in enumerate(classes):
        if not (present == k).any():
            raise EarthSSLError(
                f"segmentation: expected cells of every class in the {part} block, got none of {k}, '{name}'; lengthen "
                "the block, widen labelled, or number the classes without gaps"
            )


def _f1(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return their harmonic mean: 0 where nothing matches, NaN only where nothing is there and nothing is called."""
    r, p = np.nan_to_num(recall), np.nan_to_num(precision)
    nothing = np.isnan(recall) & np.isnan(precision)
    return np.where(nothing, np.nan, 2 * r * p / np.maximum(r + p, np.finfo(float).tiny))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    a, b = np.asarray(above, float), np.asarray(below, float)
    return np.asarray(np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0))
