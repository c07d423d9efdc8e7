"""Sums over training times, from which the climatology and the spread of one variable follow in one pass.

Values are taken relative to a shift (a value of the same cell), so that the squares keep their digits. Every
product has a shape that the steps and cells alone decide, and sums are added in the order of time: the bits do
not depend on how many workers there are or which is first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..fields.normalisation import Calendar

BLOCK = 64  # steps multiplied at once
UNIT = 4096  # cells multiplied at once
# A cell seen in one season only (sea ice) does not determine all harmonics: unconstrained, they swing to 1e5 K
# in the months that training never saw there. Such cells (least eigenvalue of the mean products of the basis
# below ILL; 0.5 with the whole year) get a weak ridge on the harmonics, not on the mean.
ILL, RIDGE = 0.1, 1e-4


@dataclass(frozen=True)
class Fitted:
    """What training says of one variable.

    Attributes:
        coefficients: float32 (keys, basis, cells), units of the variable; NaN where there are too few values.
        squares: Sum of the squared anomalies, (cells,), units squared.
        count: Number of the anomalies, (cells,).
    """

    coefficients: np.ndarray
    squares: np.ndarray
    count: np.ndarray


class Sums:
    """Products of the calendar's basis, the values and each other, by key and cell, in float64."""

    def __init__(self, calendar: Calendar, cells: int) -> None:
        """Start from nothing.

        Args:
            calendar: Which row a time belongs to, and the basis.
            cells: Number of cells.
        """
        keys, size = len(calendar.keys), calendar.size
        self.calendar = calendar
        self.moment = np.zeros((keys, size, cells))
        self.squares = np.zeros((keys, cells))
        self.full = np.zeros((keys, size, size))  # products of the basis where no value is missing
        # The same by cell, upper triangle only, for units of cells that miss a value: most need none.
        self.own: list[np.ndarray | None] = [None] * len(range(0, cells, UNIT))

    def add(self, values: np.ndarray, shift: np.ndarray, times: np.ndarray) -> None:
        """Add steps.

        Args:
            values: (steps, cells), NaN where missing.
            shift: Taken from every value, (cells,), finite.
            times: datetime64 of the steps.
        """
        basis, member = self.calendar.of(times)
        for first in range(0, len(times), BLOCK):
            steps = slice(first, first + BLOCK)
            chosen = [(k, np.flatnonzero(member[steps] == k) + first) for k in np.unique(member[steps])]
            products = {k: basis[rows].T @ basis[rows] for k, rows in chosen}
            for number in range(len(self.own)):
                cells = slice(number * UNIT, min((number + 1) * UNIT, values.shape[1]))
                block = values[steps, cells]
                valid = np.isfinite(block)
                if not valid.all():
                    self.own[number] = self._expanded(number, block.shape[1])
                around = np.where(valid, block - shift[cells].astype(float), 0)
                for k, rows in chosen:
                    self._add_unit(number, cells, k, basis[rows], around[rows - first], valid[rows - first])
            for k, product in products.items():  # after the units, which start from it where one misses a value
                self.full[k] += product

    def _add_unit(
        self, number: int, cells: slice, k: int, basis: np.ndarray, values: np.ndarray, valid: np.ndarray
    ) -> None:
        own = self.own[number]
        if own is not None:
            upper = np.triu_indices(self.calendar.size)
            pairs = (basis[:, upper[0]] * basis[:, upper[1]]).T
            own[k] += pairs @ valid.astype(float)
        self.moment[k, :, cells] += basis.T @ values
        self.squares[k, cells] += np.einsum("tn,tn->n", values, values)

    def _expanded(self, number: int, cells: int) -> np.ndarray:
        """Return the products of the basis of a unit's cells, (keys, pairs, cells)."""
        own = self.own[number]
        if own is not None:
            return own
        upper = np.triu_indices(self.calendar.size)
        return np.repeat(self.full[:, upper[0], upper[1], None], cells, axis=2)

    def merge(self, other: Sums) -> None:
        """Add the sums of later times with the same shift."""
        cells = self.moment.shape[2]
        for number in range(len(self.own)):
            if self.own[number] is not None or other.own[number] is not None:
                width = min(UNIT, cells - number * UNIT)
                self.own[number] = self._expanded(number, width) + other._expanded(number, width)
        self.moment += other.moment
        self.squares += other.squares
        self.full += other.full

    def solve(self, shift: np.ndarray) -> Fitted:
        """Return the least-squares climatology and what is left around it, as it is once rounded to float32."""
        keys, size, cells = self.moment.shape
        fitted = Fitted(np.empty((keys, size, cells), np.float32), np.zeros(cells), np.zeros(cells))
        for number in range(len(self.own)):
            unit = slice(number * UNIT, min((number + 1) * UNIT, cells))
            gram = self._gram(number)
            moment = self.moment[:, :, unit]
            solved = _solve(gram, moment)
            solved[:, 0] += shift[unit]
            rounded = solved.astype(np.float32)
            fitted.coefficients[:, :, unit] = rounded
            around = rounded.astype(float)
            around[:, 0] -= shift[unit]
            left = self.squares[:, unit] - 2 * np.einsum("kan,kan->kn", around, moment)
            left += np.einsum(
                "kan,kabn,kbn->kn", around, np.broadcast_to(gram, (*gram.shape[:3], left.shape[1])), around
            )
            known = np.isfinite(around[:, 0])
            fitted.squares[unit] = np.where(known, np.maximum(left, 0), 0).sum(0)
            fitted.count[unit] = np.where(known, gram[:, 0, 0], 0).sum(0)
        return fitted

    def _gram(self, number: int) -> np.ndarray:
        """Return the products of the basis of a unit, (keys, basis, basis, cells); 1 cell where all have the same."""
        own = self.own[number]
        if own is None:
            return self.full[..., None]
        size = self.calendar.size
        place = np.zeros((size, size), int)
        upper = np.triu_indices(size)
        place[upper] = np.arange(len(upper[0]))
        place.T[upper] = place[upper]
        return own[:, place]


def _solve(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return gram⁻¹ moment, (keys, basis, cells); NaN where a cell has fewer values than terms."""
    size = gram.shape[1]
    count = gram[:, 0, 0]
    if size == 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, moment[:, 0] / count, np.nan)[:, None]
    g = np.moveaxis(gram, (1, 2), (-2, -1))
    enough = count > 2 * size
    g = np.where(enough[..., None, None], g, np.eye(size))
    scaled = g / np.maximum(count, 1)[..., None, None]
    ill = enough & (np.linalg.eigvalsh(scaled)[..., 0] < ILL)
    harmonic = np.eye(size) * (np.arange(size) > 0)
    g = g + (ill * count * RIDGE)[..., None, None] * harmonic
    m = np.where(enough[:, None], moment, np.nan)
    if gram.shape[-1] == 1:
        return np.linalg.solve(g[:, 0], m)
    return np.moveaxis(np.linalg.solve(g, np.moveaxis(m, 1, -1)[..., None])[..., 0], -1, 1)
