"""Scores of gridded forecasts as WeatherBench 1 and WeatherBench 2 define them, named apart.

The two differ in weights (cosine of latitude; cell area), in where the square root is taken, and in what an
anomaly is, so their numbers do not compare. Fields are (time, row, column); a cell without truth (NaN) counts
nowhere, and weights are shared out over the others, which on whole fields is the benchmarks' own formula.

WeatherBench 1: Rasp et al. 2020, doi 10.1029/2020MS002203, and its code (score.py). WeatherBench 2: Rasp et
al. 2024, doi 10.1029/2023MS004019, and its code (metrics.py).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.grid import LatLonGrid
from ...ssl.fields.splits import Splits

EARTH_RADIUS_KM = 6371.0
MIDDLE_LATITUDES = (30.0, 60.0)


def wb1_weights(lat: np.ndarray) -> np.ndarray:
    """Return cos(latitude) over its mean, for latitudes in degrees, shape (rows,)."""
    cosine = np.cos(np.deg2rad(lat))
    return cosine / cosine.mean()


def wb2_weights(grid: LatLonGrid) -> np.ndarray:
    """Return sin(north bound) - sin(south bound) of each row over its mean, shape (rows,)."""
    area = grid.area[:, 0]
    return area / area.mean()


def wb1_rmse(forecast: np.ndarray, truth: np.ndarray, lat: np.ndarray) -> float:
    """Return WeatherBench 1's RMSE as its code has it: the root of the mean over time, latitude and longitude."""
    total, weight = _sums(forecast, truth, wb1_weights(lat))
    return float(np.sqrt(total.sum() / weight.sum()))


def wb1_rmse_paper(forecast: np.ndarray, truth: np.ndarray, lat: np.ndarray) -> float:
    """Return WeatherBench 1's RMSE as its paper has it: the mean over forecasts of each one's root.

    Never above `wb1_rmse` (Jensen's inequality); equal where all forecasts are equally wrong.
    """
    total, weight = _sums(forecast, truth, wb1_weights(lat))
    return float(np.sqrt(total / weight).mean())


def wb1_acc(forecast: np.ndarray, truth: np.ndarray, lat: np.ndarray) -> float:
    """Return WeatherBench 1's anomaly correlation as its code has it.

    Anomalies are departures from the time mean of *this truth*, less their unweighted mean over everything;
    one ratio over all times. Not comparable with `wb2_acc`. 0 for a forecast without anomalies.
    """
    forecast, truth = _checked(forecast, truth)
    valid = np.isfinite(truth)
    count = valid.sum(axis=0)
    mean = np.where(valid, truth, 0.0).sum(axis=0) / np.maximum(count, 1)
    w = np.where(valid, wb1_weights(lat)[:, None], 0.0)
    f = np.where(valid, forecast - mean, 0.0)
    o = np.where(valid, truth - mean, 0.0)
    f = np.where(valid, f - f.sum() / valid.sum(), 0.0)
    o = np.where(valid, o - o.sum() / valid.sum(), 0.0)
    return float(_correlation((w * f * o).sum(), (w * f * f).sum(), (w * o * o).sum()))


def wb2_squared_error(forecast: np.ndarray, truth: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return the area-weighted mean squared error of each forecast, shape (time,)."""
    total, weight = _sums(forecast, truth, wb2_weights(grid))
    return np.asarray(total / weight)


def wb2_rmse(forecast: np.ndarray, truth: np.ndarray, grid: LatLonGrid) -> float:
    """Return WeatherBench 2's RMSE: the root of the time mean of the area-weighted mean squared error."""
    return float(np.sqrt(wb2_squared_error(forecast, truth, grid).mean()))


def wb2_rmse_sqrt_before_time_avg(forecast: np.ndarray, truth: np.ndarray, grid: LatLonGrid) -> float:
    """Return WeatherBench 2's older RMSESqrtBeforeTimeAvg: the time mean of each forecast's root.

    Never above `wb2_rmse` (Jensen's inequality).
    """
    return float(np.sqrt(wb2_squared_error(forecast, truth, grid)).mean())


def wb2_acc_by_time(forecast: np.ndarray, truth: np.ndarray, climatology: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return the area-weighted anomaly correlation of each forecast, not re-centred, shape (time,).

    Args:
        forecast, truth: Shape (time, row, column).
        climatology: Of each time (WeatherBench 2: day of year × hour, from training years), same shape.
        grid: Of the fields.
    """
    forecast, truth = _checked(forecast, truth)
    valid = np.isfinite(truth)
    w = np.where(valid, wb2_weights(grid)[:, None], 0.0)
    f, o = (np.where(valid, field - climatology, 0.0) for field in (forecast, truth))
    return _correlation(*((w * a * b).sum(axis=(1, 2)) for a, b in ((f, o), (f, f), (o, o))))


def wb2_acc(forecast: np.ndarray, truth: np.ndarray, climatology: np.ndarray, grid: LatLonGrid) -> float:
    """Return WeatherBench 2's anomaly correlation: the time mean of each forecast's."""
    return float(wb2_acc_by_time(forecast, truth, climatology, grid).mean())


def wb2_zonal_spectrum(
    fields: np.ndarray, grid: LatLonGrid, band: tuple[float, float] = MIDDLE_LATITUDES
) -> np.ndarray:
    """Return the mean power by zonal wavenumber over a band of latitudes of both hemispheres.

    F_k = (1/L) Σ f exp(-2πikl/L); S_0 = C |F_0|², S_k = 2 C |F_k|² with C the circumference of the latitude;
    area-weighted mean over the band, then over time. In (unit of the field)² km, shape (columns // 2 + 1,).

    Args:
        fields: Shape (time, row, column), without gaps in the band.
        grid: Round the globe.
        band: Least and largest distance from the equator of the rows' centres, degrees.

    Raises:
        EarthSSLError: If the grid does not go round the globe, has no row in the band, or a value is missing.
    """
    inside = (np.abs(grid.lat) >= band[0]) & (np.abs(grid.lat) <= band[1])
    if not grid.periodic or not inside.any():
        raise EarthSSLError(f"spectrum: expected rows round the globe at {band[0]:g}–{band[1]:g}° N or S, got {grid}")
    chosen = np.asarray(fields, dtype=np.float64)[:, inside]
    if not np.isfinite(chosen).all():
        raise EarthSSLError("spectrum: expected whole rows, got missing values; choose a variable without gaps")
    power = np.abs(np.fft.rfft(chosen, axis=-1) / chosen.shape[-1]) ** 2
    power[..., 1:] *= 2
    circumference = 2 * np.pi * EARTH_RADIUS_KM * np.cos(np.deg2rad(grid.lat[inside]))
    weight = grid.area[inside, 0] / grid.area[inside, 0].sum()
    return np.asarray((power * (circumference * weight)[:, None]).sum(axis=1).mean(axis=0))


def half_power(forecast: np.ndarray, truth: np.ndarray) -> int | None:
    """Return the first wavenumber from 1 where a forecast's spectrum has less than half the truth's power.

    None where no wavenumber has: every scale is still there. Wavenumbers that hold under 1e-12 of the truth's
    power are noise of rounding and are left out.
    """
    held = truth[1:] > 1e-12 * truth.sum()
    lost = np.flatnonzero(held & (forecast[1:] < 0.5 * truth[1:]))
    return int(lost[0]) + 1 if len(lost) else None


def _checked(forecast: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    f, o = np.asarray(forecast, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if f.shape != o.shape or f.ndim != 3 or not len(f):
        raise EarthSSLError(f"expected forecasts and truth (time, row, column), got shapes {f.shape} and {o.shape}")
    valid = np.isfinite(o)
    if not valid.any(axis=(1, 2)).all():
        raise EarthSSLError("expected some true value at every time, got a time without; leave it out")
    if not np.isfinite(f[valid]).all():
        raise EarthSSLError("expected a forecast wherever there is truth, got missing values; fill them")
    return f, o


def _sums(forecast: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of weight × squared error and of weight over the valid cells of each time, (time,) each."""
    f, o = _checked(forecast, truth)
    if len(rows) != f.shape[1]:
        raise EarthSSLError(f"expected fields of {len(rows)} rows like the grid, got {f.shape[1]}; regrid them")
    valid = np.isfinite(o)
    w = np.where(valid, rows[:, None], 0.0)
    return (w * np.where(valid, f - o, 0.0) ** 2).sum(axis=(1, 2)), w.sum(axis=(1, 2))


def _correlation(product: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    power = np.sqrt(np.asarray(first * second))
    return np.asarray(np.where(power > 0, product / np.where(power > 0, power, 1.0), 0.0))


# ---- Published numbers, to be shown only beside scores on the very same data -------------------------------


_NOTEBOOKS = "WeatherBench repository, notebooks (Rasp et al. 2020)"
_README = "WeatherBench repository, README"
# WeatherBench 1's tables: row; RMSE by the code's formula of z500 (m2 s-2) and t850 (K) at 3 and 5 days, 5.625°,
# 2017–2018; where the numbers were read.
PUBLISHED = (
    ("persistence", (936, 1033), (4.29, 4.56), _NOTEBOOKS),
    ("climatology, train mean", (1075, 1075), (5.51, 5.51), _NOTEBOOKS),
    ("climatology, weekly", (816, 816), (3.50, 3.50), _NOTEBOOKS),
    ("linear regression, direct", (693, 783), (3.19, 3.44), _NOTEBOOKS),
    ("linear regression, iterative (6 h)", (718, 810), (3.17, 3.48), _NOTEBOOKS),
    ("CNN, direct", (626, 757), (2.87, 3.37), _NOTEBOOKS),
    ("CNN, iterative (6 h)", (1115, 1559), (4.48, 9.69), _NOTEBOOKS),
    ("IFS T42", (489, 743), (3.09, 3.83), _NOTEBOOKS),
    ("IFS T63", (268, 463), (1.85, 2.52), _NOTEBOOKS),
    ("operational IFS", (153, 334), (1.36, 2.03), _NOTEBOOKS),
    ("U-Net on a cubed sphere, iterative (Weyn et al. 2020)", (373, 611), (1.98, 2.87), _README),
    ("ResNet, CMIP-pretrained (Rasp & Thuerey 2021)", (268, 499), (1.65, 2.41), _README),
    ("stacked ResNets (Clare et al. 2021)", (375, 627), (2.11, 2.91), _README),
)  # fmt: skip
PUBLISHED_HOURS = (72, 120)
PUBLISHED_YEARS = ("2017", "2018")


def published(
    source: str, synthetic: bool, grid: LatLonGrid, splits: Splits, variables: tuple[str, ...]
) -> pd.DataFrame:
    """Return the published scores that stand beside a run, columns row, variable, hours, wb1_rmse, provenance.

    Empty unless the data are ERA5 on the 32×64 grid of 5.625° and the test block is 2017–2018; then with the
    lines of z500 and t850, as far as they are among the variables.
    """
    years = tuple(str(instant.astype("datetime64[Y]")) for instant in splits.test)
    whole = splits.test[1] - splits.test[0] > np.timedelta64(729, "D")
    same = "era5" in source.lower().replace("-", "") or "weatherbench" in source.lower()
    regular = grid.shape == (32, 64) and grid.periodic and bool(np.allclose(np.diff(grid.lat), -5.625, atol=1e-3))
    lines = []
    if same and not synthetic and regular and years == PUBLISHED_YEARS and whole:
        for row, z500, t850, provenance in PUBLISHED:
            for name, values in (("z500", z500), ("t850", t850)):
                if name in variables:
                    lines += [(row, name, *pair, provenance) for pair in zip(PUBLISHED_HOURS, values, strict=True)]
    return pd.DataFrame(lines, columns=["row", "variable", "hours", "wb1_rmse", "provenance"])
