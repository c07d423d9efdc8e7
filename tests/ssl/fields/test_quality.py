"""What is said of values: each fault that is put in is found and dated, and clean series are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.fields.quality import findings, summary
from earthssl.ssl.fields.variables import lookup

MONTHS = np.arange("1960-01", "2000-01", dtype="datetime64[M]").astype("datetime64[ns]")
HOURS = np.arange("2000-01-01", "2000-07-01", 6, dtype="datetime64[h]").astype("datetime64[ns]")


def series(times: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return temperatures with a season, a trend, slow noise and land that is missing, float32."""
    rng = np.random.default_rng(seed)
    year = (times - times[0]) / np.timedelta64(1, "D") / 365.25
    slow = np.zeros(len(times))
    for k in range(1, len(times)):
        slow[k] = 0.95 * slow[k - 1] + rng.normal(0, 0.2)
    cells = rng.normal(0, 8, (6, 9))
    values = 285 + 5 * np.cos(2 * np.pi * year) + 0.02 * year + slow
    values = values[:, None, None] + cells + rng.normal(0, 1, (len(times), 6, 9))
    values[:, 2, 3:6] = np.nan
    return values.astype(np.float32)


def said(values: np.ndarray, times: np.ndarray) -> str:
    return " | ".join(findings(summary(values), times, lookup("t2m")))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("times", [MONTHS, HOURS])
def test_a_clean_series_is_left_in_peace(times, seed):
    assert said(series(times, seed), times) == ""


def test_a_series_longer_than_nanoseconds_can_tell_is_judged_too():
    times = np.arange("1700-01", "2100-01", dtype="datetime64[M]").astype("datetime64[ns]")  # 400 years
    season = 300 + 15 * np.cos(2 * np.pi * np.arange(len(times)) / 12)
    noise = np.random.default_rng(0).normal(0, 0.5, len(times))
    values = (season + noise)[:, None, None] + np.array([[0.0, 1.0], [2.0, 3.0]])
    assert said(values.astype(np.float32), times) == ""
    values[2000] += 20.0  # out of its season, though not of the year
    assert "1866-09" in said(values.astype(np.float32), times)


def test_a_summary_is_that_of_the_values():
    values = series(MONTHS[:10]).astype(np.float32)
    values[4] = np.nan
    got = summary(values)
    wide = values.reshape(10, -1).astype(float)
    there = [k for k in range(10) if k != 4]
    expected = np.stack(
        [np.isfinite(wide).mean(1)[there], np.nanmean(wide[there], 1), np.nanstd(wide[there], 1),
         np.nanmin(wide[there], 1), np.nanmax(wide[there], 1)], 1
    )  # fmt: skip
    np.testing.assert_allclose(got[there], expected, rtol=1e-5)
    assert got[4, 0] == 0
    assert np.isnan(got[4, 1:]).all()


@pytest.mark.parametrize("cells", [60, 20_000])
def test_a_summary_does_not_depend_on_the_steps_beside(cells):
    """With gaps and without, of small grids and large ones: each step's own numbers, to the bit."""
    values = (101_325 + 900 * np.random.default_rng(3).standard_normal((7, 5, cells // 5))).astype(np.float32)
    values[2, 1], values[4], values[5, :, ::3] = np.nan, np.nan, np.nan
    together = summary(values)
    np.testing.assert_array_equal(together, np.concatenate([summary(values[k : k + 1]) for k in range(7)]))
    for k in (0, 2, 5):
        own = values[k][np.isfinite(values[k])].astype(float)
        expected = [own.size / cells, own.mean(), own.std(), own.min(), own.max()]
        np.testing.assert_allclose(together[k], expected, rtol=1e-5)
    assert together[4, 0] == 0


def test_steps_that_repeat_are_counted():
    values = series(MONTHS)
    values[101:105] = values[100]
    assert "4 of 480 steps (the first at 1968-06-01) equal to the one before (longest stretch 4)" in said(
        values, MONTHS
    )


def test_a_constant_step_is_found():
    values = series(MONTHS)
    values[7] = 273.15
    assert "1 of 480 steps (at 1960-08-01) with one value everywhere (273.15 K)" in said(values, MONTHS)


def test_empty_and_gappy_steps_are_told_apart():
    values = series(MONTHS)
    values[20:23] = np.nan
    values[50, :4] = np.nan
    text = said(values, MONTHS)
    assert "3 of 480 steps (the first at 1961-09-01) without any value" in text
    assert "1 of 480 steps (at 1964-03-01) with values in less than 74 % of the cells (most: 94 %)" in text


@pytest.mark.parametrize(("times", "date"), [(MONTHS, "1980-01-01"), (HOURS, "2000-03-01 12:00:00")])
def test_a_jump_of_the_series_is_dated(times, date):
    values = series(times)
    values[240 + 2 * (len(times) != 480) :] += 25
    assert f"its mean changes suddenly at {date}" in said(values, times)


def test_a_change_of_spread_is_dated():
    values = series(MONTHS)
    middle = np.nanmean(values, (1, 2), keepdims=True)
    values[240:] = middle[240:] + 0.25 * (values - middle)[240:]
    assert "its spread changes suddenly at 1980-01-01, by a factor of 0.25" in said(values, MONTHS)


def test_a_step_that_stands_out_is_named():
    values = series(MONTHS)
    values[33] -= 90
    assert "1 of 480 steps (at 1962-10-01) whose mean stands out" in said(values, MONTHS)


def test_rain_that_is_zero_is_nothing_odd():
    rain = np.maximum(np.random.default_rng(1).normal(-1, 1, (480, 6, 9)), 0).astype(np.float32) * 1e-3
    rain[17] = rain[18] = 0
    assert findings(summary(rain), MONTHS, lookup("tp")) == []
