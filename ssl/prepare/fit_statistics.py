"""Fit climatology and scale in one pass over the training times, one variable after the other.

A task sums one stretch of time of one variable; stretches are added in the order of time. Where even one
variable's sums do not fit in memory, cells are cut into bands, each a pass over that variable of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..fields.normalisation import FLOOR, Calendar, Statistics, StatisticsConfig, transformed
from .moments import UNIT, Fitted, Sums

SEGMENT = 1024  # steps of a task at least: its sums are then small beside what it reads

# Reads steps [first, last) of a variable, given by its number: (steps, rows, columns), NaN where missing.
Reader = Callable[[int, int, int], np.ndarray]


@dataclass(frozen=True)
class Stretches:
    """How the training times are cut: a function of the data alone, so that the bits are too.

    Attributes:
        times: All times, datetime64.
        training: Mask of the training times.
        piece: Steps read at once.
    """

    times: np.ndarray
    training: np.ndarray
    piece: int

    def segments(self) -> list[tuple[int, int]]:
        """Return the [first, last) steps of the tasks, whole pieces, those that hold a training time."""
        size = self.piece * max(1, -(-SEGMENT // self.piece))
        cuts = [(i, min(i + size, len(self.times))) for i in range(0, len(self.times), size)]
        return [(first, last) for first, last in cuts if self.training[first:last].any()]

    def pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the [first, last) steps read at once, those that hold a training time."""
        cuts = [(i, min(i + self.piece, last)) for i in range(first, last, self.piece)]
        return [(a, b) for a, b in cuts if self.training[a:b].any()]


def shaped(read: Reader, transforms: tuple[float, ...]) -> Reader:
    """Return a reader of the variables as statistics see them: transformed, where they have a transform."""
    return lambda first, last, k: transformed(read(first, last, k)[:, None], transforms[k : k + 1])[:, 0]


def sums_bytes(calendar: Calendar, cells: int) -> int:
    """Return the most memory the sums of one variable take: where every unit of cells misses a value."""
    pairs = calendar.size * (calendar.size + 1) // 2
    return 8 * len(calendar.keys) * (calendar.size + 1 + pairs) * cells


def bands(cells: int, count: int) -> list[tuple[int, int]]:
    """Return [first, last) cells of `count` bands of whole units; fewer where there are not as many units."""
    units = -(-cells // UNIT)
    size = -(-units // count) * UNIT
    return [(i, min(i + size, cells)) for i in range(0, cells, size)]


def sum_segment(
    read: Reader,
    stretches: Stretches,
    calendar: Calendar,
    shift: np.ndarray,
    variable: int,
    segment: tuple[int, int],
    band: tuple[int, int],
) -> Sums:
    """Return the sums of the training times of one segment, variable and band of cells."""
    sums = Sums(calendar, band[1] - band[0])
    for first, last in stretches.pieces(*segment):
        values = read(first, last, variable).reshape(last - first, -1)[:, slice(*band)]
        chosen = stretches.training[first:last]
        sums.add(values if chosen.all() else values[chosen], shift, stretches.times[first:last][chosen])
    return sums


def first_values(read: Reader, stretches: Stretches, variable: int) -> np.ndarray:
    """Return the variable at the first training time, its mean where missing, (cells,): what sums are shifted by."""
    first = int(np.flatnonzero(stretches.training)[0])
    return shift_of(read(first, first + 1, variable).reshape(-1))


def shift_of(values: np.ndarray) -> np.ndarray:
    """Return the values, float32, their mean where missing, 0 where all are."""
    valid = np.isfinite(values)
    mean = values[valid].mean(dtype=float) if valid.any() else 0.0
    return np.where(valid, values, mean).astype(np.float32)


def fit_variable(
    sums_of: Callable[[np.ndarray, tuple[int, int], list[tuple[int, int]]], Iterator[Sums]],
    segments: list[tuple[int, int]],
    shift: np.ndarray,
    parts: Sequence[tuple[int, int]],
) -> Fitted:
    """Return the fit of a variable.

    Args:
        sums_of: Yields the sums of a band of cells, with their shift, for each segment in order.
        segments: The [first, last) steps of each, in order.
        shift: What the values are shifted by, (cells,).
        parts: The [first, last) cells of each band.
    """
    found = []
    for band in parts:
        own = shift[slice(*band)]
        sums = sums_of(own, band, segments)
        total = next(sums)
        for later in sums:
            total.merge(later)
        found.append(total.solve(own))
    return Fitted(
        np.concatenate([part.coefficients for part in found], axis=2) if len(found) > 1 else found[0].coefficients,
        np.concatenate([part.squares for part in found]),
        np.concatenate([part.count for part in found]),
    )


def scale_of(fitted: Fitted, area: np.ndarray, kind: str) -> np.ndarray:
    """Return the root-mean-square training anomaly, float32 (rows, columns): by cell, or one for the variable."""
    squares, count = (values.reshape(area.shape) for values in (fitted.squares, fitted.count))
    mean = float((squares * area).sum() / max((count * area).sum(), 1e-30))
    whole = np.sqrt(mean) if mean > 0 else 1.0
    if kind == "variable":
        return np.full(area.shape, whole, np.float32)
    return np.maximum(np.sqrt(squares / np.maximum(count, 1)), FLOOR * whole).astype(np.float32)


def fit_statistics(
    read: Reader,
    times: np.ndarray,
    training: np.ndarray,
    area: np.ndarray,
    shape: tuple[int, int, int],
    config: StatisticsConfig,
    piece: int = SEGMENT,
    parts: int = 1,
    transforms: tuple[float, ...] = (),
) -> Statistics:
    """Return climatology and scale from the training times alone, fitted in this process.

    Args:
        read: Reads steps [first, last) of one variable.
        times: All times, datetime64.
        training: Mask of the training times, same length.
        area: Weights of the cells, (rows, columns).
        shape: Variables, rows, columns.
        config: Which climatology and which scale.
        piece: Steps to read at once.
        parts: Bands to cut the cells into, to bound the memory.
        transforms: Scale of each variable's transform, see `transformed`; 0 for none.
    """
    read = shaped(read, transforms) if any(transforms) else read
    calendar = Calendar.chosen(times[training], config)
    stretches = Stretches(times, training, piece)

    cut = bands(int(np.prod(shape[1:])), parts)
    coefficients = np.empty((len(calendar.keys), calendar.size, *shape), np.float32)
    scale = np.empty(shape, np.float32)
    for k in range(shape[0]):

        def sums_of(
            shift: np.ndarray, band: tuple[int, int], segments: list[tuple[int, int]], k: int = k
        ) -> Iterator[Sums]:
            return (sum_segment(read, stretches, calendar, shift, k, segment, band) for segment in segments)

        fitted = fit_variable(sums_of, stretches.segments(), first_values(read, stretches, k), cut)
        coefficients[:, :, k] = fitted.coefficients.reshape(*fitted.coefficients.shape[:2], *shape[1:])
        scale[k] = scale_of(fitted, area, config.scale)
    return Statistics(calendar.groups, calendar.keys, calendar.harmonics, coefficients, scale, transforms)
