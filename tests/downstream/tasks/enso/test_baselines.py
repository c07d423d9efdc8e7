"""Baseline rows: known answers, no leak, and the reference table of the Kaplan record."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.features import eof
from earthssl.downstream.metrics.seasonal import valid_mean
from earthssl.downstream.results.row import Row
from earthssl.downstream.tasks.enso import baselines
from earthssl.downstream.tasks.enso.labels import MEAN, EnsoLabels
from earthssl.downstream.tasks.enso.monthly_ridge import HeadOptions
from earthssl.downstream.tasks.enso.task import seasonal
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig

LEADS = (1, 3, 6)
QUICK = HeadOptions(penalties=(0.01, 0.1, 1.0), months=(1, 12))
ROWS: dict[str, Callable[[EnsoLabels], Row]] = {
    "climatology": baselines.climatology,
    "persistence": baselines.persistence,
    "damped": baselines.damped_persistence,
    "lim": lambda task: baselines.stationary_lim(task, 4),
    "cyclostationary": lambda task: baselines.cyclostationary_lim(task, (2, 4)),
    "fixed": lambda task: baselines.pca_fixed(task, 4),
    "pca": lambda task: baselines.pca(task, (2, 4), options=QUICK),
    "all variables": lambda task: baselines.cyclostationary_lim(task, (2, 4), extra={"ssh": ahead_of(task)}),
    "warm water": lambda task: baselines.warm_water(task, ahead_of(task), QUICK),
}


def ahead_of(task: EnsoLabels) -> np.ndarray:
    """A sea level that is the see-saw of the same month, which becomes warmth in the box a quarter of a cycle later."""
    lat = task.grid.lat
    seesaw = np.nanmean(task.anomaly * np.sin(np.pi * lat / 10)[:, None], axis=(1, 2), keepdims=True)
    return np.broadcast_to(0.1 * seesaw, task.anomaly.shape)


def made_up(noise: float = 0.3, measurement: float = 0.05, growth: float = 0.97) -> xr.Dataset:
    """An oscillating pair of patterns, standing warmth in the box and a see-saw around it, with noise."""
    months = np.arange("1950-01", "2000-01", dtype="datetime64[M]")
    lat, lon = np.arange(10.0, -11.0, -4.0), np.arange(182.0, 250.0, 4.0)
    rng = np.random.default_rng(0)
    # Ten whole cycles in the 34 years of the fit period, so that no calendar-month mean takes from them.
    angle = 2 * np.pi * 10 / (34 * 12)
    turn = growth * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    state = np.zeros((len(months), 2))
    state[0] = 1.0
    for t in range(1, len(months)):
        state[t] = turn @ state[t - 1] + noise * rng.normal(size=2)
    warm = np.exp(-((lat / 6) ** 2))[:, None] * np.ones(len(lon))
    seesaw = np.sin(np.pi * lat / 10)[:, None] * np.ones(len(lon))
    values = np.einsum("tk,kij->tij", state, np.stack([warm, seesaw]))
    values += measurement * rng.normal(size=values.shape)
    values[:, 0, :3] = np.nan  # land
    return xr.Dataset(
        {"ssta": (("time", "lat", "lon"), values)},
        coords={"time": months.astype("datetime64[ns]"), "lat": lat, "lon": lon},
    )


def build(dataset: xr.Dataset, window: int = 3) -> EnsoLabels:
    splits = SplitsConfig(("1950", "1974"), ("1976", "1983"), ("1985", "1999"), 300).build()
    return EnsoLabels.from_dataset(dataset, splits, LEADS, window)


def skill(task: EnsoLabels, row: Row) -> xr.DataArray:
    """All-season skill by lead."""
    return xr.DataArray(valid_mean(seasonal([row], task).season_skill()[0], axis=-1), [("lead", list(task.leads))])


@pytest.fixture(scope="module")
def task() -> EnsoLabels:
    return build(made_up())


def test_climatology_and_persistence_by_hand(task: EnsoLabels) -> None:
    assert (task.array(baselines.climatology(task).forecast).fillna(0) == 0).all()
    forecast = task.array(baselines.persistence(task).forecast)
    for lead in LEADS:
        known = forecast.sel(lead=lead).dropna("init_time")
        index = task.index[np.isin(task.time, known.init_time.values.astype("datetime64[M]"))]
        np.testing.assert_array_equal(known, index)


def test_damped_persistence_equals_polyfit(task: EnsoLabels) -> None:
    forecast = task.array(baselines.damped_persistence(task).forecast)
    july = task.month == 6
    rows = task.samples("fit")[0] & july
    line = np.polyfit(task.index[rows], task.target[1, rows], 1)
    chosen = forecast.sel(lead=3, init_time=forecast.init_time.dt.month == 7).dropna("init_time")
    index = task.index[np.isin(task.time, chosen.init_time.values.astype("datetime64[M]"))]
    np.testing.assert_allclose(chosen, np.polyval(line, index))


def test_lim_forecasts_the_oscillation_that_persistence_misses(task: EnsoLabels) -> None:
    lim, still = (skill(task, row).values for row in (ROWS["lim"](task), baselines.persistence(task)))
    assert lim[2] > still[2] + 0.1
    assert lim[0] > 0.95


def test_lim_of_a_noiseless_oscillation_is_exact() -> None:
    # x(t + 1) = G x(t) in two patterns: two EOFs span it, and the forecast is the truth itself.
    task = build(made_up(noise=0.0, measurement=0.0, growth=1.0))
    row = baselines.stationary_lim(task, 2)
    for name, truth in task.of_test(task.target).items():
        np.testing.assert_allclose(row.forecast[name], truth, atol=1e-6)
    assert row.chosen == {"eofs": 2}


def test_lagged_by_hand() -> None:
    features = eof.lagged(np.array([[1.0, 10], [2, 20], [3, 30]]), 2)
    np.testing.assert_array_equal(features[1:], [[2, 20, 1, 10], [3, 30, 2, 20]])
    assert np.isnan(features[0, 2:]).all()


def test_all_rows_come_with_their_settings_and_every_sample(task: EnsoLabels) -> None:
    rows = [make(task) for make in ROWS.values()]
    for row in rows:
        assert np.isfinite(row.forecast[MEAN]).sum() == task.samples("test").sum()
    assert rows[4].chosen["eofs"] in (2, 4)
    assert rows[6].chosen["candidate"] in ("2 PCs × 3 months", "4 PCs × 3 months")


@pytest.mark.parametrize("name", ROWS)
def test_no_row_sees_the_future(name: str, task: EnsoLabels) -> None:
    # Everything after a month of the test block is replaced: forecasts made up to that month must not move.
    last = np.datetime64("1990-06", "M")
    changed = made_up()
    changed["ssta"][{"time": changed.time.values.astype("datetime64[M]") > last}] = 99.0
    before, after = ROWS[name](task), ROWS[name](build(changed))
    first, second = (task.array(row.forecast) for row in (before, after))
    past = first.init_time.values.astype("datetime64[M]") <= last
    assert past.sum() > 60
    np.testing.assert_array_equal(first.isel(init_time=past), second.sel(init_time=first.init_time[past]))
    assert before.chosen == after.chosen


def test_warm_water_and_a_model_of_all_variables_see_the_turn_coming(task: EnsoLabels) -> None:
    """Without sea level nothing in one month's Niño 3.4 tells its rise from its fall."""
    alone = skill(task, baselines.damped_persistence(task)).values
    assert skill(task, ROWS["warm water"](task)).values[2] > alone[2] + 0.1
    assert ROWS["all variables"](task).name == "cyclostationary LIM, all variables"
    rows = baselines.baseline_rows(task, 3, QUICK, {"ssh": ahead_of(task)})
    assert [row.name for row in rows if row.name.startswith(("cyclo", "Niño"))] == [
        "cyclostationary LIM", "cyclostationary LIM, all variables", "Niño 3.4 + warm water",
    ]  # fmt: skip
    still = ROWS["cyclostationary"](task).forecast[MEAN]
    quiet = baselines.cyclostationary_lim(task, (2, 4), extra={"ssh": np.zeros(task.anomaly.shape)})
    assert np.isfinite(quiet.forecast[MEAN]).all()
    assert np.corrcoef(quiet.forecast[MEAN], still)[0, 1] > 0.9


def test_a_month_without_one_variable_costs_the_month_alone(task: EnsoLabels) -> None:
    """It does not make SST alone of the model of all variables."""
    gap = ahead_of(task).copy()
    gap[task.time == np.datetime64("1960-06")] = np.nan
    cells, weight = baselines.input_cells(task, "fit", {"ssh": gap})
    found = eof.Eof.fit(cells[task.within("fit")], weight, 3)
    assert (found.weight[len(weight) // 2 :] > 0).all()
    assert np.isnan(found.project(cells)).any(axis=1).sum() == 1
    assert np.isfinite(baselines.cyclostationary_lim(task, (4,), extra={"ssh": gap}).forecast[MEAN]).all()
    assert baselines.whole_variables(task, {"ssh": gap, "msl": ahead_of(task)}).keys() == {"msl"}


def test_a_variable_that_begins_later_asks_for_since(task: EnsoLabels) -> None:
    late = ahead_of(task).copy()
    late[task.time < np.datetime64("1958-03")] = np.nan
    with pytest.raises(
        EarthSSLError, match=r"'ssh' in every month .* from 1950-01, got no value before 1958-03; set since"
    ):
        baselines.whole_variables(task, {"ssh": late})
    only_test = np.where(task.within("test")[:, None, None], late, np.nan)
    assert baselines.whole_variables(task, {"ssh": only_test}) == {}
    for train, val, test in (
        (("1969", "1984"), ("1950", "1966"), ("1987", "1999")),  # `since` refuses
        (("1969", "1984"), ("1987", "1999"), ("1950", "1966")),
    ):  # the test's inputs lack it still
        blocks = SplitsConfig(train, val, test, 300).build()
        other = EnsoLabels.from_dataset(made_up(), blocks, LEADS, 3)
        late = np.where((other.time < np.datetime64("1970-03"))[:, None, None], np.nan, ahead_of(task))
        assert baselines.whole_variables(other, {"ssh": late}) == {}


def test_further_variables_join_the_pca_with_equal_variance(task: EnsoLabels) -> None:
    rng = np.random.default_rng(3)
    pressure = 1e5 + 500 * rng.normal(size=task.anomaly.shape)
    cells, weight = baselines.input_cells(task, "fit", {"msl": pressure})
    inside, n = task.within("fit"), task.anomaly[0].size
    assert cells.shape == (len(task.time), 2 * n)
    power = np.nan_to_num((cells[inside] ** 2).mean(axis=0)) * weight
    assert power[:n].sum() == pytest.approx(power[n:].sum(), rel=0.1)
    features = baselines.pca_features(task, [3], "fit", 3, {"msl": pressure})
    assert features["3 PCs × 3 months"].shape == (len(task.time), 9)
    with pytest.raises(EarthSSLError, match="'msl' of shape"):
        baselines.input_cells(task, "fit", {"msl": pressure[:5]})


def test_pca_may_not_look_back_beyond_the_window(task: EnsoLabels) -> None:
    with pytest.raises(EarthSSLError, match="window of 3 months, got 5"):
        baselines.pca(task, window=5)


def test_component_counts_beyond_the_data_are_left_out(task: EnsoLabels) -> None:
    assert list(baselines.pca_features(task, [2, 1000], "train")) == ["2 PCs × 3 months"]


REFERENCE = {
    "persistence": [0.97, 0.79, 0.48, 0.18, -0.04, -0.18, -0.24],
    "LIM": [0.97, 0.82, 0.56, 0.28, 0.01, -0.18, -0.26],
    "10 PCs": [0.91, 0.77, 0.56, 0.40, 0.31, 0.33, 0.34],
    "20 PCs": [0.92, 0.79, 0.60, 0.46, 0.32, 0.25, 0.28],
}


def test_the_kaplan_reference_table_is_reproduced(shared_data: Path) -> None:
    """Skill at leads 1, 3, …, 18 measured independently on this record, to ±.01.

    The heads of the reference were fitted on initial months up to 1981-12 for all leads.
    """
    path = shared_data / "kaplan_sst_anom_tropacific_5deg_monthly_1856-2014.nc"
    with xr.open_dataset(path) as opened:
        dataset = opened[["ssta"]].sortby("lat", ascending=False).load()
    splits = SplitsConfig(("1856", "1963"), ("1966", "1983"), ("1986", "2014"), 700).build()
    task = replace(EnsoLabels.from_dataset(dataset, splits), last_fit_init=np.datetime64("1981-12"))
    rows = {
        "persistence": baselines.persistence(task),
        "LIM": baselines.stationary_lim(task, 15),
        "10 PCs": baselines.pca_fixed(task, 10),
        "20 PCs": baselines.pca_fixed(task, 20),
    }
    for name, expected in REFERENCE.items():
        found = skill(task, rows[name]).sel(lead=[1, 3, 6, 9, 12, 15, 18])
        np.testing.assert_allclose(found, expected, atol=0.01, err_msg=name)
