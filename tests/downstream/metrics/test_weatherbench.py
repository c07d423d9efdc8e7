"""WeatherBench 1 and 2 formulas against hand answers, xarray transcriptions and Jensen's inequality."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.metrics import weatherbench as wb
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.splits import SplitsConfig

GRID = LatLonGrid(np.array([67.5, 22.5, -22.5, -67.5]), np.arange(0.0, 360, 60))


def fields(seed: int = 0, times: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(times, 4, 6)) + 3
    return truth + rng.normal(size=truth.shape) * rng.uniform(0.2, 2, size=(times, 1, 1)), truth, truth * 0 + 2.5


def as_xarray(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(values, dims=("time", "lat", "lon"), coords={"lat": GRID.lat})


def test_weights_are_the_cosine_and_the_cell_area() -> None:
    cosine = np.cos(np.deg2rad([67.5, 22.5]))
    assert wb.wb1_weights(GRID.lat)[:2] == pytest.approx(cosine / cosine.mean())
    assert wb.wb2_weights(GRID) == pytest.approx(2 * np.array([1 - 0.5**0.5, 0.5**0.5, 0.5**0.5, 1 - 0.5**0.5]))
    poles = LatLonGrid(np.array([90.0, 0.0, -90.0]), np.arange(0.0, 360, 60))
    assert wb.wb1_weights(poles.lat)[0] == pytest.approx(0, abs=1e-15)  # a pole row counts for nothing in WB1
    assert wb.wb2_weights(poles)[0] == pytest.approx(3 * (1 - 0.5**0.5) / 2)  # but has its cap in WB2


def test_wb1_equals_the_benchmarks_code_written_in_xarray() -> None:
    f, o, _ = fields()
    forecast, truth = as_xarray(f), as_xarray(o)
    weight = np.cos(np.deg2rad(truth.lat))
    weight = weight / weight.mean()
    assert wb.wb1_rmse(f, o, GRID.lat) == pytest.approx(float(np.sqrt(((forecast - truth) ** 2 * weight).mean())))
    fa, a = forecast - truth.mean("time"), truth - truth.mean("time")
    fa, a = fa - fa.mean(), a - a.mean()
    acc = (weight * fa * a).sum() / np.sqrt((weight * fa**2).sum() * (weight * a**2).sum())
    assert wb.wb1_acc(f, o, GRID.lat) == pytest.approx(float(acc))


def test_where_the_root_is_taken_is_jensens_inequality() -> None:
    """Errors of 1 and 3 everywhere: √5 with the root last, 2 with the root first; equal for equal errors."""
    truth = np.zeros((2, 4, 6))
    forecast = truth + np.array([1.0, 3.0])[:, None, None]
    assert wb.wb1_rmse(forecast, truth, GRID.lat) == pytest.approx(5**0.5)
    assert wb.wb1_rmse_paper(forecast, truth, GRID.lat) == pytest.approx(2)
    assert wb.wb2_squared_error(forecast, truth, GRID) == pytest.approx([1, 9])
    assert wb.wb2_rmse(forecast, truth, GRID) == pytest.approx(5**0.5)
    assert wb.wb2_rmse_sqrt_before_time_avg(forecast, truth, GRID) == pytest.approx(2)
    for seed in range(5):
        f, o, _ = fields(seed)
        assert wb.wb1_rmse_paper(f, o, GRID.lat) < wb.wb1_rmse(f, o, GRID.lat)
        assert wb.wb2_rmse_sqrt_before_time_avg(f, o, GRID) < wb.wb2_rmse(f, o, GRID)
    assert wb.wb2_rmse_sqrt_before_time_avg(truth + 2, truth, GRID) == pytest.approx(
        wb.wb2_rmse(truth + 2, truth, GRID)
    )


def test_an_error_in_one_row_counts_by_its_weight() -> None:
    """Error 1 in the northern row only: the root of half its share of the weights' sum over both hemispheres."""
    truth = np.zeros((3, 4, 6))
    forecast = truth.copy()
    forecast[:, 0] = 1
    cosine = np.cos(np.deg2rad([67.5, 22.5]))
    assert wb.wb1_rmse(forecast, truth, GRID.lat) ** 2 == pytest.approx(cosine[0] / (2 * cosine.sum()))
    assert wb.wb2_rmse(forecast, truth, GRID) ** 2 == pytest.approx((1 - 0.5**0.5) / 2)


def test_wb1_acc_ignores_a_constant_and_wb2_acc_does_not() -> None:
    f, o, climatology = fields()
    assert wb.wb1_acc(o, o, GRID.lat) == pytest.approx(1)
    assert wb.wb1_acc(2 * o.mean(0) - o, o, GRID.lat) == pytest.approx(-1)
    assert wb.wb1_acc(f + 7, o, GRID.lat) == pytest.approx(wb.wb1_acc(f, o, GRID.lat))
    assert wb.wb2_acc(f + 7, o, climatology, GRID) != pytest.approx(wb.wb2_acc(f, o, climatology, GRID))
    assert wb.wb1_acc(np.broadcast_to(o.mean(0), o.shape), o, GRID.lat) == 0


def test_wb2_acc_is_the_mean_of_each_forecasts_correlation() -> None:
    """One forecast with twice the anomaly (1), one with its opposite (-1), one without any (0)."""
    _, o, climatology = fields(times=3)
    anomaly = o - climatology
    f = climatology + np.array([2.0, -1.0, 0.0])[:, None, None] * anomaly
    assert wb.wb2_acc_by_time(f, o, climatology, GRID) == pytest.approx([1, -1, 0])
    assert wb.wb2_acc(f, o, climatology, GRID) == pytest.approx(0)
    weight = np.broadcast_to(GRID.area, o[0].shape)
    g, _, _ = fields(3, 3)
    by_hand = [
        np.average(a * b, weights=weight)
        / np.sqrt(np.average(a * a, weights=weight) * np.average(b * b, weights=weight))
        for a, b in zip(g - climatology, anomaly, strict=True)
    ]
    assert wb.wb2_acc_by_time(g, o, climatology, GRID) == pytest.approx(by_hand)


def test_missing_truth_counts_nowhere() -> None:
    """Land: the scores are those of the cells that are left, whatever the forecast says there."""
    f, o, climatology = fields()
    o[:, 1:3, :3] = np.nan
    other = f.copy()
    other[:, 1:3, :3] = 1e6
    for metric in (wb.wb1_rmse, wb.wb1_rmse_paper, wb.wb1_acc):
        assert metric(other, o, GRID.lat) == pytest.approx(metric(f, o, GRID.lat))
    assert wb.wb2_rmse(other, o, GRID) == pytest.approx(wb.wb2_rmse(f, o, GRID))
    assert wb.wb2_acc(other, o, climatology, GRID) == pytest.approx(wb.wb2_acc(f, o, climatology, GRID))
    assert wb.wb2_rmse(np.nan_to_num(o) + 2, o, GRID) == pytest.approx(2)


def test_bad_fields_are_refused() -> None:
    f, o, _ = fields()
    with pytest.raises(EarthSSLError, match="shapes"):
        wb.wb2_rmse(f[:2], o, GRID)
    with pytest.raises(EarthSSLError, match="4 rows like the grid, got 3"):
        wb.wb2_rmse(f[:, :3], o[:, :3], GRID)
    f[0, 0, 0] = np.nan
    with pytest.raises(EarthSSLError, match="wherever there is truth"):
        wb.wb1_rmse(f, o, GRID.lat)
    o[1] = np.nan
    with pytest.raises(EarthSSLError, match="a time without"):
        wb.wb2_rmse(o, o, GRID)


def test_spectrum_of_a_wave_and_parseval() -> None:
    grid = LatLonGrid(np.array([45.0, 15.0, -15.0, -45.0]), np.arange(0.0, 360, 360 / 16))
    x = np.deg2rad(grid.lon)
    wave = 2 + 3 * np.cos(3 * x + 0.4)
    power = wb.wb2_zonal_spectrum(np.broadcast_to(wave, (2, 4, 16)), grid)
    circumference = 2 * np.pi * wb.EARTH_RADIUS_KM * np.cos(np.pi / 4)
    expected = np.zeros(9)
    expected[0], expected[3] = 4 * circumference, 9 / 2 * circumference
    assert power == pytest.approx(expected, abs=1e-6)
    rough = np.random.default_rng(0).normal(size=(3, 4, 15))
    odd = LatLonGrid(grid.lat, np.arange(0.0, 360, 24))  # an odd row has no last wavenumber counted twice
    total = wb.wb2_zonal_spectrum(rough, odd).sum()
    assert total == pytest.approx((rough[:, [0, 3]] ** 2).mean() * circumference)


def test_half_power_is_where_small_scales_are_lost() -> None:
    truth = np.array([5.0, 1, 1, 1, 1, 1e-20])
    assert wb.half_power(truth * np.array([1, 1, 0.9, 0.49, 0.1, 0]), truth) == 3
    assert wb.half_power(truth * 0.6, truth) is None
    assert wb.half_power(truth * np.array([0, 1, 1, 1, 1, 0]), truth) is None  # neither the mean nor rounding counts


def test_spectra_need_whole_rows_round_the_globe() -> None:
    region = LatLonGrid(np.array([45.0, 35.0]), np.arange(0.0, 100, 10))
    with pytest.raises(EarthSSLError, match="round the globe"):
        wb.wb2_zonal_spectrum(np.zeros((1, 2, 10)), region)
    gappy = np.zeros((1, 4, 6))
    gappy[0, 0, 0] = np.nan
    with pytest.raises(EarthSSLError, match="missing values"):
        wb.wb2_zonal_spectrum(gappy, GRID, (60, 70))


def test_published_numbers_stand_beside_their_own_data_only() -> None:
    wb1 = LatLonGrid(87.1875 - 5.625 * np.arange(32), 5.625 * np.arange(64))
    splits = SplitsConfig(("1979", "2015"), ("2016-01-20", "2016-11"), ("2017", "2018"), 14).build()
    both = ("z500", "t850")
    found = wb.published("weatherbench2: ERA5", False, wb1, splits, both)
    line = found[(found.row == "linear regression, direct") & (found.variable == "z500") & (found.hours == 120)]
    assert line.wb1_rmse.item() == 783
    assert line.provenance.item()
    assert set(wb.published("ERA-5", False, wb1, splits, ("t850", "msl")).variable) == {"t850"}
    later = SplitsConfig(("1979", "2015"), ("2016-01-20", "2016-11"), ("2017", "2019"), 14).build()
    short = SplitsConfig(("1979", "2015"), ("2016-01-20", "2016-11"), ("2017-06", "2018"), 14).build()
    assert wb.published("ERA5", False, wb1, later, both).empty
    assert wb.published("ERA5", False, wb1, short, both).empty
    assert wb.published("ERA5", True, wb1, splits, both).empty
    assert wb.published("planet (synthetic)", False, wb1, splits, both).empty
    assert wb.published("ERA5", False, GRID, splits, both).empty
    assert wb.published("ERA5", False, wb1, splits, ("msl",)).empty
