"""Infilling: metrics by hand, limits, and the table of published masks on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from earthssl.downstream.tasks.infilling.fillers import (
    Climatology,
    InverseDistance,
    MeanOfObserved,
    Nearest,
    OptimalInterpolation,
    OrdinaryKriging,
    PcaRegression,
)
from earthssl.downstream.tasks.infilling.gaps import GapConfig, Gaps, Places, in_box
from earthssl.downstream.tasks.infilling.scores import metrics, score
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources import open_source

# ---- Metrics ------------------------------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    """Two months, three cells of area 1, 1, 2; the first cell is observed."""
    truth = np.array([[9.0, 1.0, 3.0], [9.0, 0.0, 2.0]])
    estimate = np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    hidden = np.array([[False, True, True], [False, True, True]])
    found = metrics(score(estimate, truth, hidden, np.array([1.0, 1.0, 2.0])))
    # No anomaly: 1·1 + 2·9 and 1·0 + 2·4.
    assert found["skill"] == pytest.approx(1 - 3 / 27)
    # Squared errors 1·1 + 2·0 and 1·0 + 2·1 over 2 months × 3.
    assert found["rmse"] == pytest.approx(np.sqrt(3 / 6))
    # Two cells always correlate wholly: in the right order, and in the right order.
    assert found["r"] == pytest.approx(1)
    # Errors of the global mean 1/4 and -2/4.
    assert found["global rmse"] == pytest.approx(np.sqrt((1 / 16 + 4 / 16) / 2))
    # Variances of two cells with weights 1 and 2: 2/9 times the squared difference.
    assert found["std ratio"] == pytest.approx(np.sqrt((1 + 1) / (4 + 4)))


def test_limits_of_the_metrics() -> None:
    """Truth: 0, 1, 0, 1. Constant: r 0, ratio 0. The opposite: r -1, ratio 1. Twice as large: r 1, ratio 2."""
    rng = np.random.default_rng(0)
    truth, area = rng.normal(size=(5, 30)), rng.uniform(1, 2, 30)
    hidden = rng.random((5, 30)) < 0.7
    rms = np.sqrt((np.where(hidden, area, 0) * truth**2).sum() / np.where(hidden, area, 0).sum())
    perfect, constant, opposite, twice = (
        metrics(score(f, truth, hidden, area)) for f in (truth, 0 * truth + 3.7, -truth, 2 * truth)
    )
    assert perfect == pytest.approx({"skill": 1, "rmse": 0, "r": 1, "global rmse": 0, "std ratio": 1})
    assert (constant["r"], constant["std ratio"]) == (0, 0)
    assert (opposite["r"], opposite["std ratio"], opposite["rmse"]) == pytest.approx((-1, 1, 2 * rms))
    assert (twice["r"], twice["std ratio"], twice["rmse"]) == pytest.approx((1, 2, rms))
    none = metrics(score(0 * truth, truth, hidden, area))
    assert (none["rmse"], none["skill"], opposite["skill"]) == pytest.approx((rms, 0, -3))


def test_only_hidden_cells_count() -> None:
    """Whatever stands where something is observed, or where the truth is unknown, changes nothing."""
    rng = np.random.default_rng(1)
    truth, estimate, area = rng.normal(size=(4, 20)), rng.normal(size=(4, 20)), np.ones(20)
    hidden = rng.random((4, 20)) < 0.5
    other = np.where(hidden, estimate, np.nan)
    unknown = truth.copy()
    first = metrics(score(estimate, truth, hidden, area))
    assert metrics(score(other, truth, hidden, area)) == first
    unknown[~hidden] = 99.0
    assert metrics(score(estimate, unknown, hidden, area)) == first
    with pytest.raises(EarthSSLError, match="an estimate of every hidden cell"):
        score(np.where(hidden, np.nan, 0.0), truth, hidden, area)
    with pytest.raises(EarthSSLError, match="hidden cells in every month"):
        score(estimate, truth, hidden & (np.arange(4) > 0)[:, None], area)


def test_months_with_weights_are_months_repeated() -> None:
    """A bootstrap draw by weights equals scoring the drawn months."""
    rng = np.random.default_rng(2)
    truth, estimate, area = rng.normal(size=(4, 20)), rng.normal(size=(4, 20)), rng.uniform(1, 2, 20)
    hidden = rng.random((4, 20)) < 0.5
    drawn = [0, 2, 2, 3, 3, 3]
    weights = np.bincount(drawn, minlength=4).astype(float)
    whole = metrics(score(estimate[drawn], truth[drawn], hidden[drawn], area))
    assert metrics(score(estimate, truth, hidden, area), weights) == pytest.approx(whole)


# ---- Known answers on real data -------------------------------------------------------------------------------

REFERENCE = {  # hidden-cell RMSE (°C), pattern r, RMSE of the monthly global mean (°C)
    "sept 1877": {
        "climatology": (0.520, 0, 0.100), "mean of observed": (0.504, 0, 0.055), "nearest": (0.424, 0.65, 0.030),
        "inverse distance, p = 3": (0.372, 0.67, 0.028), "ordinary kriging": (0.341, 0.73, 0.021),
        "PCA regression, k = 15": (0.454, 0.45, None), "PCA regression, k = 40": (0.477, 0.47, None),
        "optimal interpolation": (0.268, 0.84, 0.012),
    },
    "random 10 %": {
        "climatology": (0.528, 0, 0.122), "mean of observed": (0.512, 0, None), "nearest": (0.432, 0.64, None),
        "inverse distance, p = 3": (0.370, 0.69, None), "ordinary kriging": (0.363, 0.71, None),
        "PCA regression, k = 15": (0.461, 0.46, None), "PCA regression, k = 40": (0.447, 0.55, None),
        "optimal interpolation": (0.298, 0.81, 0.026),
    },
    "four holes": {
        "climatology": (0.500, 0, None), "mean of observed": (0.480, 0, None), "nearest": (0.417, 0.62, None),
        "inverse distance, p = 3": (0.389, 0.61, None), "ordinary kriging": (0.347, 0.71, None),
        "PCA regression, k = 15": (0.469, 0.38, None), "optimal interpolation": (0.254, 0.85, 0.010),
    },
}  # fmt: skip


def test_the_reference_table_on_ersst(shared_data: Path) -> None:
    """5° anomalies of ERSST v5; climatology and covariances 2010–2017, test 2018-01…2020-08, 1670 cells.

    The month of 1877 is the reference's mask, so its numbers must come out within a few hundredths. Its random
    cells and its holes are not known: those tell less. (Neither is its localisation.)
    """
    file = shared_data / "ersstv5_global_2deg_monthly_2010-2020.nc"
    ds = open_source(
        "files", path=str(file), variables=["sst"], resolution=5.0, least_valid=0.01, region=[-70, 70, 0, 360]
    )
    values, months = ds["sst"].values.astype(float), ds["time"].values.astype("datetime64[M]")
    grid, fit = LatLonGrid(ds["lat"].values, ds["lon"].values), months < np.datetime64("2018-01")
    known = np.isfinite(values).all(0) & (values[fit].std(0) > 1e-3)
    assert known.sum() == 1670
    month = months.astype(int) % 12
    anomaly = values[:, known]
    anomaly = anomaly - np.stack([anomaly[fit & (month == m)].mean(0) for m in range(12)])[month]
    training, truth = anomaly[fit], anomaly[~fit]
    assert (len(training), len(truth)) == (96, 32)
    rows, columns = np.nonzero(known)
    places = Places(grid.lat[rows], grid.lon[columns], grid.area[known])
    weight = places.area / places.area.sum()
    assert np.sqrt((weight * truth**2).sum(1).mean()) == pytest.approx(0.527, abs=2e-3)
    holes = np.zeros(grid.shape, bool)
    for lat, lon in ((0, 180), (30, 330), (-30, 60), (-30, 270)):
        holes |= in_box(grid, lat, lon, 30, 60)
    seen = {
        "sept 1877": Gaps(
            GapConfig("file", path=str(shared_data / "hadcrut4_two_months_gappy.nc"), month="1877-09"), grid, known
        ).observed(0)[known],
        "random 10 %": Gaps(GapConfig("random", 0.1, fixed=True), grid, known).observed(0)[known],
        "four holes": ~holes[known],
    }
    assert seen["sept 1877"].mean() == pytest.approx(0.32, abs=0.01)
    methods = [
        Climatology(), MeanOfObserved(places), Nearest(places), InverseDistance(places), OrdinaryKriging(places),
        PcaRegression(places, training, 15), PcaRegression(places, training, 40),
        OptimalInterpolation(places, training),
    ]  # fmt: skip
    near = {"sept 1877": (0.010, 0.02, 0.006), "random 10 %": (0.03, 0.03, 0.02), "four holes": (0.035, 0.07, 0.005)}
    for target, mask in seen.items():
        hidden = np.broadcast_to(~mask, truth.shape)
        scores = {m.name: score(m.fill(np.where(mask, truth, np.nan)), truth, hidden, weight) for m in methods}
        for name, (rmse, r, shift) in REFERENCE[target].items():
            found = metrics(scores[name])
            rmse_near, r_near, shift_near = near[target]
            assert found["rmse"] == pytest.approx(rmse, abs=rmse_near), (target, name)
            assert found["r"] == pytest.approx(r, abs=r_near), (target, name)
            if shift is not None:
                assert found["global rmse"] == pytest.approx(shift, abs=shift_near), (target, name)
        ranked = sorted(scores, key=lambda name: metrics(scores[name])["rmse"])
        assert ranked[:2] == ["optimal interpolation", "ordinary kriging"]
