"""Sums in one pass: against the plain formulas in float64, with means far above the spread, and gaps."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.fields.normalisation import Calendar
from earthssl.ssl.prepare.fit_statistics import shift_of
from earthssl.ssl.prepare.moments import UNIT, Sums

TIMES = np.arange("2000-01-01", "2004-01-01", dtype="datetime64[h]")[::6].astype("datetime64[ns]")
CALENDAR = Calendar("hour", (0, 6, 12, 18), 2)


def pressures(cells: int, gaps: float) -> np.ndarray:
    """Pressure-like values: 1e5, spread 1, cycle 10; a share of the steps is missing in half the cells."""
    rng = np.random.default_rng(3)
    day = ((TIMES - TIMES[0]) / np.timedelta64(1, "D"))[:, None]
    values = 1e5 + 10 * np.cos(2 * np.pi * day / 365.2425) + rng.normal(size=(len(TIMES), cells))
    missing = rng.random(values.shape) < gaps
    missing[:, ::2] = False
    values[missing] = np.nan
    return values.astype(np.float32)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_climatology_and_squares_are_those_of_the_plain_formulas(gaps: float) -> None:
    values = pressures(6, gaps)
    shift = shift_of(values[0])
    sums = Sums(CALENDAR, 6)
    for first in range(0, len(TIMES), 1000):
        part = Sums(CALENDAR, 6)
        part.add(values[first : first + 1000], shift, TIMES[first : first + 1000])
        sums.merge(part)
    fitted = sums.solve(shift)
    basis, member = CALENDAR.of(TIMES)
    for cell in range(6):
        squares = count = 0.0
        for k in range(4):
            chosen = (member == k) & np.isfinite(values[:, cell])
            observed = values[chosen, cell].astype(float)
            plain = np.linalg.lstsq(basis[chosen], observed - 1e5, rcond=None)[0] + np.array([1e5, 0, 0, 0, 0])
            np.testing.assert_allclose(fitted.coefficients[k, :, cell], plain, rtol=1e-7, atol=1e-6)
            rounded = fitted.coefficients[k, :, cell].astype(float)
            squares += ((observed - basis[chosen] @ rounded) ** 2).sum()
            count += chosen.sum()
        assert fitted.count[cell] == count
        assert fitted.squares[cell] == pytest.approx(squares, rel=1e-10)


def test_a_constant_leaves_nothing_at_all() -> None:
    values = np.full((len(TIMES), 2), 271.35, np.float32)
    sums = Sums(CALENDAR, 2)
    sums.add(values, values[0], TIMES)
    np.testing.assert_array_equal(sums.solve(values[0]).squares, 0)


def test_cells_without_gaps_do_not_pay_for_those_with() -> None:
    values = np.ones((64, 2 * UNIT), np.float32)
    values[3, 5] = np.nan
    sums = Sums(CALENDAR, 2 * UNIT)
    sums.add(values, np.zeros(2 * UNIT), TIMES[:64])
    assert sums.own[0] is not None
    assert sums.own[1] is None
    assert sums.own[0][3, 0, 5] == 15
    assert sums.own[0][3, 0, 6] == 16
