"""Statistics: against pandas and by hand, on training times only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import FLOOR, Statistics, StatisticsConfig, restored, transformed
from earthssl.ssl.fields.variables import lookup
from earthssl.ssl.prepare import moments
from earthssl.ssl.prepare.fit_statistics import fit_statistics
from earthssl.ssl.store.encoding import decode, encode

MONTHS = np.arange("1980-01", "1995-01", dtype="datetime64[M]").astype("datetime64[ns]")
TRAIN = np.arange(len(MONTHS)) < 120  # to the end of 1989
AREA = np.array([[1.0, 1, 1], [3, 3, 3]]) / 12


def fields(seed: int = 0) -> np.ndarray:
    """Two variables on 2×3 cells in 15 years: cycles, noise of unequal strength, gaps; one cell is land."""
    rng = np.random.default_rng(seed)
    month = np.arange(len(MONTHS))[:, None, None, None]
    strength = rng.uniform(0.5, 3, (2, 2, 3))
    values = 280 + 8 * np.cos(2 * np.pi * month / 12) * strength + strength * rng.normal(size=(len(MONTHS), 2, 2, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 0, 1, 2] = np.nan
    return values


def fit(
    values: np.ndarray,
    times: np.ndarray = MONTHS,
    training: np.ndarray = TRAIN,
    chunk: int = 17,
    bands: int = 1,
    **config: Any,
) -> Statistics:
    """Fit on an array in memory."""
    area = np.ones(values.shape[2:]) if values.shape[2:] != AREA.shape else AREA
    settings = StatisticsConfig(**config)
    return fit_statistics(
        lambda a, b, k: values[a:b, k], times, training, area, values.shape[1:], settings, chunk, bands
    )


def test_the_climatology_is_the_mean_of_each_calendar_month_of_training() -> None:
    values = fields()
    fitted = fit(values)
    assert (fitted.groups, fitted.keys, fitted.harmonics) == ("month", tuple(range(1, 13)), 0)
    table = pd.DataFrame(values[TRAIN].reshape(TRAIN.sum(), -1), index=pd.DatetimeIndex(MONTHS[TRAIN]))
    expected = table.groupby(table.index.month).mean().to_numpy().reshape(12, 2, 2, 3)
    np.testing.assert_allclose(fitted.coefficients[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(fitted.climatology(MONTHS[14:15])[0], fitted.coefficients[2, 0])  # March


@pytest.mark.parametrize("config", [{}, {"scale": "variable"}, {"climatology": "hour", "harmonics": 2}])
def test_nothing_after_training_is_seen(config: dict[str, Any]) -> None:
    values = fields()
    before = fit(values, **config)
    rng = np.random.default_rng(1)
    values[~TRAIN] = rng.normal(1e6, 1e6, values[~TRAIN].shape)
    values[-1] = np.nan
    after = fit(values, **config)
    np.testing.assert_array_equal(before.coefficients, after.coefficients)
    np.testing.assert_array_equal(before.scale, after.scale)
    values[5] += 1  # while a training value changes it
    assert not np.array_equal(before.coefficients, fit(values, **config).coefficients, equal_nan=True)


def anomalies(values: np.ndarray, fitted: Statistics) -> np.ndarray:
    """Training anomalies, by hand."""
    months = MONTHS[TRAIN].astype("datetime64[M]").astype(int) % 12
    return values[TRAIN] - fitted.coefficients[months, 0]


def test_the_scale_of_a_cell_is_the_root_mean_square_of_its_training_anomalies() -> None:
    values = fields()
    fitted = fit(values)
    rows = anomalies(values, fitted)
    for variable in range(2):
        for row in range(2):
            for column in range(3):
                series = rows[:, variable, row, column]
                series = series[np.isfinite(series)]
                if len(series):
                    expected = np.sqrt(np.mean(series**2))
                    assert fitted.scale[variable, row, column] == pytest.approx(expected, rel=1e-5)
    normal = fitted.normalise(values, MONTHS)[TRAIN]
    rms = np.sqrt(np.nanmean(normal[:, 1] ** 2, axis=0))
    np.testing.assert_allclose(rms, 1, rtol=1e-5)


def test_the_scale_of_a_variable_weighs_cells_by_area() -> None:
    values = fields()
    fitted = fit(values, scale="variable")
    rows = anomalies(values, fitted)
    for variable in range(2):
        total = weight = 0.0
        for time in range(len(rows)):
            for cell in np.ndindex(2, 3):
                if np.isfinite(rows[(time, variable, *cell)]):
                    total += AREA[cell] * rows[(time, variable, *cell)] ** 2
                    weight += AREA[cell]
        np.testing.assert_allclose(fitted.scale[variable], np.sqrt(total / weight), rtol=1e-5)


def test_a_cell_that_never_varies_is_not_blown_up() -> None:
    values = np.random.default_rng(0).normal(size=(len(MONTHS), 1, 2, 3))
    values[:, 0, 0, 0] = 271.35  # always ice
    fitted = fit(values)
    whole = fit(values, scale="variable").scale[0, 0, 0]
    assert fitted.scale[0, 0, 0] == pytest.approx(FLOOR * whole, rel=1e-5)
    assert np.abs(fitted.normalise(values, MONTHS)[:, 0, 0, 0]).max() < 1e-3
    constant = fit(np.full((len(MONTHS), 1, 2, 3), 5.0))
    np.testing.assert_array_equal(constant.scale, np.float32(FLOOR))  # no spread anywhere: unit scale, floored
    assert (constant.normalise(np.full((len(MONTHS), 1, 2, 3), 5.0), MONTHS) == 0).all()


def cycle(times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean and harmonics of the year, by hand: weights (1 + 2 × harmonics,) -> (times,)."""
    days = np.array([(t - t.astype("datetime64[Y]").astype(t.dtype)) / np.timedelta64(1, "D") for t in times])
    total = np.full(len(times), weights[0])
    for k in range(1, len(weights) // 2 + 1):
        angle = 2 * np.pi * k * days / 365.2425
        total += weights[2 * k - 1] * np.cos(angle) + weights[2 * k] * np.sin(angle)
    return total


def test_a_known_annual_cycle_is_recovered_through_gaps() -> None:
    times = np.arange("1990-01-01", "1996-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    rng = np.random.default_rng(5)
    weights = np.array([285.0, 9, -3, 1, 2, -0.5, 0.3, 0.2, -0.1])
    truth = cycle(times, weights)
    values = np.where(rng.random(len(times)) < 0.4, np.nan, truth)[:, None, None, None] * np.ones((1, 1, 2, 2))
    fitted = fit(values, times, times < np.datetime64("1994"))
    assert (fitted.groups, fitted.keys, fitted.harmonics) == ("hour", (0,), 4)
    np.testing.assert_allclose(fitted.coefficients[0, :, 0, 1, 1], weights, atol=2e-5)
    np.testing.assert_allclose(fitted.climatology(times)[:, 0, 0, 0], truth, atol=2e-4)  # in the years to come too


def test_every_hour_of_the_day_has_its_own_cycle() -> None:
    times = np.arange("1990-01-01", "1992-01-01", dtype="datetime64[h]")[::6].astype("datetime64[ns]")
    hour = times.astype("datetime64[h]").astype(int) % 24
    truth = np.zeros(len(times))
    for h in (0, 6, 12, 18):
        truth[hour == h] = cycle(times[hour == h], np.array([280 + h, 5 - h / 6, h / 3]))
    values = truth[:, None, None, None] * np.ones((1, 1, 2, 2))
    fitted = fit(values, times, np.ones(len(times), bool), harmonics=1, climatology="hour")
    assert fitted.keys == (0, 6, 12, 18)
    np.testing.assert_allclose(fitted.climatology(times)[:, 0, 1, 0], truth, atol=2e-4)
    short = times < np.datetime64("1991")
    assert fit(values, times, short).harmonics == 0  # one year of training does not tell a cycle from weather


@pytest.mark.parametrize("season_days", [1, 20, 60, 120, 240])
def test_a_cell_seen_in_one_season_does_not_swing_in_the_others(season_days: int) -> None:
    times = np.arange("1980-01-01", "2000-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    day = (times - times.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    season = (day >= 100) & (day < 100 + season_days)
    truth = cycle(times, np.array([280.0, 5, 2]))
    rng = np.random.default_rng(0)
    seen = np.where(season, truth + 0.5 * rng.normal(size=len(times)), np.nan)
    fitted = fit(seen[:, None, None, None] * np.ones((1, 1, 2, 2)), times, np.ones(len(times), bool))
    error = fitted.climatology(times)[:, 0, 0, 0] - truth
    assert np.abs(error[season]).max() < 0.5
    assert np.abs(error).max() < 15  # unconstrained harmonics swing by 1e2 to 1e5 K here


def test_normalise_and_its_inverse_are_the_identity() -> None:
    values = fields()
    for config in ({}, {"scale": "variable"}, {"climatology": "hour", "harmonics": 3}):
        fitted = fit(values, **config)
        normal = fitted.normalise(values, MONTHS)
        assert normal.dtype == np.float32
        back = fitted.denormalise(normal, MONTHS)
        observed = np.isfinite(values)
        observed[:, 0, 1, 2] = False
        np.testing.assert_array_equal(np.isfinite(normal), observed)
        np.testing.assert_allclose(back[observed], values[observed], rtol=1e-6)


def test_land_is_known_as_land() -> None:
    fitted = fit(fields())
    assert fitted.known.sum() == 11
    assert not fitted.known[0, 1, 2]
    assert np.isnan(fitted.normalise(np.zeros((1, 2, 2, 3)), MONTHS[:1])[0, 0, 1, 2])


def test_selected_statistics_are_those_of_the_variables() -> None:
    values, fitted = fields(), fit(fields())
    chosen = fitted.select([1])
    np.testing.assert_array_equal(chosen.normalise(values[:, 1:], MONTHS), fitted.normalise(values, MONTHS)[:, 1:])
    np.testing.assert_array_equal(fitted.select([1, 0]).scale, fitted.scale[::-1])


def test_a_month_that_training_never_held_is_refused() -> None:
    summer = MONTHS.astype("datetime64[M]").astype(int) % 12 // 3 == 1
    fitted = fit(fields(), training=TRAIN & summer, climatology="month")
    assert fitted.keys == (4, 5, 6)
    with pytest.raises(EarthSSLError, match=r"knows the months \[4, 5, 6\] of training, got \[1\]"):
        fitted.climatology(MONTHS[:1])


def test_how_the_work_is_cut_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = fields()
    for config in ({}, {"climatology": "hour", "harmonics": 2}):
        whole = fit(values, chunk=1000, **config)
        monkeypatch.setattr(moments, "UNIT", 2)  # two cells at a time, in three bands
        cut = fit(values, chunk=7, bands=3, **config)
        monkeypatch.undo()
        np.testing.assert_allclose(cut.coefficients, whole.coefficients, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(cut.scale, whole.scale, rtol=1e-6)


def test_a_climatology_has_the_same_bits_for_one_time_and_for_many() -> None:
    fitted = fit(fields(), climatology="hour", harmonics=3)
    whole = fitted.climatology(MONTHS)
    one_by_one = np.concatenate([fitted.climatology(MONTHS[k : k + 1]) for k in range(len(MONTHS))])
    np.testing.assert_array_equal(whole, one_by_one)
    np.testing.assert_array_equal(fitted.select([1]).climatology(MONTHS), whole[:, 1:])


@pytest.mark.parametrize(
    ("setting", "message"), [({"climatology": "week"}, "auto, month or hour"), ({"scale": "grid"}, "cell or variable")]
)
def test_unknown_settings_are_refused(setting: dict[str, str], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message):
        StatisticsConfig(**setting)


def test_precipitation_keeps_drizzle_and_extremes_in_sixteen_bits() -> None:
    """An error e of the transformed value is one of e (s + |x|): stated in `transformed`, measured here."""
    s = lookup("tp6h").transform_scale
    assert s == 1e-4  # 0.1 mm
    x = np.concatenate([[0.0, -1e-9], np.geomspace(1e-7, 0.5, 4000)]).reshape(-1, 1, 1, 1)
    y = transformed(x, (s,))
    np.testing.assert_allclose(restored(y, (s,)), x, rtol=1e-12, atol=1e-20)  # exact but for rounding
    np.testing.assert_allclose(restored(transformed(x.astype(np.float32), (s,)), (s,)), x, rtol=3e-6, atol=1e-11)
    one = Statistics("month", (1,), 0, np.full((1, 1, 1, 1, 1), 0.4), np.full((1, 1, 1), 0.7), (s,))
    times = np.full(len(x), np.datetime64("2001-01-05", "ns"))
    normal = one.normalise(x, times)
    assert np.abs(normal).max() < 16
    back = one.denormalise(decode(encode(normal, "int16", ("tp6h",))), times)
    bound = (2.0**-12 * 0.7 + 3e-6) * (s + np.abs(x))
    assert (np.abs(back - x) <= bound * 1.001).all()
    plain = 2.0**-12 * x.std()  # without the transform 16 bits would lose the drizzle
    assert bound[x < 1e-5].max() < plain / 500
    other = np.stack([x[:, 0], x[:, 0]], 1)
    np.testing.assert_array_equal(transformed(other, (0.0, s))[:, 0], x[:, 0])
    assert one.select([0]).transforms == (s,)


def test_statistics_of_a_transformed_variable_are_those_of_its_transform() -> None:
    rng = np.random.default_rng(1)
    rain = np.where(rng.random((len(MONTHS), 1, 2, 3)) < 0.5, 0, rng.gamma(0.4, 4e-3, (len(MONTHS), 1, 2, 3)))
    s, config = 1e-4, StatisticsConfig("month")
    fitted = fit_statistics(lambda a, b, k: rain[a:b, k], MONTHS, TRAIN, AREA, (1, 2, 3), config, 50, transforms=(s,))
    plain = fit(transformed(rain, (s,)), chunk=50, climatology="month")
    np.testing.assert_array_equal(fitted.coefficients, plain.coefficients)
    np.testing.assert_array_equal(fitted.scale, plain.scale)
    normal = fitted.normalise(rain, MONTHS)
    np.testing.assert_array_equal(normal, plain.normalise(transformed(rain, (s,)), MONTHS))
    np.testing.assert_allclose(fitted.denormalise(normal, MONTHS), rain, rtol=2e-5, atol=1e-9)
    again = Statistics.from_json(fitted.to_json(), fitted.coefficients, fitted.scale)
    assert again.transforms == (s,)
    assert "transforms" not in plain.to_json()  # stores without such variables keep their fingerprint


def test_extremes_hold_all_that_lies_so_far_from_the_climatology() -> None:
    """Against normalising and back, for months and for hours with harmonics; unknown cells are left out."""
    rng = np.random.default_rng(0)
    for groups, keys, harmonics in (("month", (1, 2, 12), 0), ("hour", (0, 12), 1)):
        coefficients = rng.normal(280, 3, (len(keys), 1 + 2 * harmonics, 2, 3, 4)).astype(np.float32)
        coefficients[:, 1:] /= 100
        coefficients[:, :, 1, 0, 0] = np.nan
        own = Statistics(groups, keys, harmonics, coefficients, np.full((2, 3, 4), 2, np.float32))
        times = np.array(["2001-01-15T00", "2001-01-15T12", "2001-02-14T00"], "datetime64[ns]")
        for k, (low, high) in enumerate(own.extremes(8)):
            away = own.climatology(times)[:, k]
            assert low <= np.nanmin(away) - 16 + 1e-3
            assert high >= np.nanmax(away) + 16 - 1e-3
            assert low > np.nanmin(coefficients[:, 0, k]) - 26
            assert high < np.nanmax(coefficients[:, 0, k]) + 26


def test_extremes_are_found_once_one_time_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all times at once, bit by bit, of which one held a gigabyte for a fine grid."""
    rng = np.random.default_rng(0)
    coefficients = rng.normal(0, 3, (12, 1, 3, 4, 6)).astype(np.float32)
    coefficients[:, :, 1, :2] = np.nan
    coefficients[:, :, 2] = np.nan
    scale = rng.uniform(1, 2, (3, 4, 6)).astype(np.float32)
    own = Statistics("month", tuple(range(1, 13)), 0, coefficients, scale, (0.0, 0.5, 0.0))
    fields = (
        restored(coefficients[:, 0] - 8 * scale, own.transforms),
        restored(coefficients[:, 0] + 8 * scale, own.transforms),
    )
    sizes, denormalise = [], Statistics.denormalise

    def counted(self: Statistics, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        sizes.append(len(times))
        return denormalise(self, values, times)

    monkeypatch.setattr(Statistics, "denormalise", counted)
    found = own.extremes(8)
    assert sizes == [1] * 24
    assert own.extremes(8) is found
    assert len(sizes) == 24
    assert found[:2] == tuple((float(np.nanmin(fields[0][:, k])), float(np.nanmax(fields[1][:, k]))) for k in range(2))
    assert found[2] == (np.inf, -np.inf)
    assert own.extremes(4)[0][1] < found[0][1]
