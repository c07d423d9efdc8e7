"""Heat waves as labels: runs, percentiles and leads by hand, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.tasks.indices.heat_waves import (
    HeatWavesConfig,
    day_of_year,
    heat_wave_labels,
    heat_waves,
    lim_means,
    seasonal,
)
from earthssl.downstream.tasks.indices.task import LIM, PERSISTENCE, Indices, IndicesConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import Splits, SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

SEA = HeatWavesConfig("sst", [5, 10])


def days(text: str) -> np.ndarray:
    return np.array([[one == "x"] for one in text])


@pytest.mark.parametrize(
    ("hot", "inside"),
    [
        ("..xxxxx...", "..xxxxx..."),  # five days are one
        ("..xxxx....", ".........."),  # four are none
        ("xxxxx..xxxxx", "xxxxxxxxxxxx"),  # two days between: joined
        ("xxxxx...xxxxx", "xxxxx...xxxxx"),  # three: not
        ("xxxxx.xx....", "xxxxx......."),  # what follows is too short to be joined
        (".xxxxx..", ".xxxxx.."),  # an end is no gap
    ],
)
def test_runs_of_hot_days_by_hand(hot: str, inside: str) -> None:
    np.testing.assert_array_equal(heat_waves(days(hot), 5, 2), days(inside))


def test_the_29th_of_february_counts_as_the_28th() -> None:
    found = day_of_year(pd.DatetimeIndex(["2003-01-01", "2004-02-28", "2004-02-29", "2004-03-01", "2003-03-01",
                                          "2004-12-31", "2003-12-31"]))  # fmt: skip
    assert found.tolist() == [0, 58, 58, 59, 59, 364, 364]


def test_mean_and_percentile_follow_the_year_and_training_alone() -> None:
    """A cosine of the year with noise: running means over 11 and 31 days damp it by known factors."""
    times = pd.date_range("1990-01-01", "2009-12-31", freq="D")
    day, rng = day_of_year(times), np.random.default_rng(0)
    train = np.asarray(times.year < 2005)
    phase = 2 * np.pi * np.arange(365) / 365
    values = (10 * np.cos(phase)[day] + rng.standard_normal(len(times)))[:, None]
    values[~train] += 100
    mean, high = seasonal(values, day, train, 90.0)
    damped = np.prod([np.sin(np.pi * n / 365) / (n * np.sin(np.pi / 365)) for n in (11, 31)])
    np.testing.assert_allclose(mean[:, 0], 10 * damped * np.cos(phase), atol=0.15)
    calm = np.abs(np.cos(phase)) > 0.98  # within a window of 11 days the season hardly moves
    np.testing.assert_allclose((high - mean)[calm, 0], 1.2816, atol=0.2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine years of a daily sea with a cell of land: slow noise that damps by e in 20 days, alike in all cells."""
    folder = tmp_path_factory.mktemp("sea")
    times = pd.date_range("1990-01-01", "1998-12-31", freq="D")
    rng = np.random.default_rng(4)
    slow = np.zeros(len(times))
    for k in range(1, len(times)):
        slow[k] = np.exp(-1 / 20) * slow[k - 1] + rng.standard_normal()
    values = 290 + slow[:, None, None] + 0.3 * rng.standard_normal((len(times), 4, 4))
    values[:, 0, 0] = np.nan
    lat, lon = np.array([-38.5, -39.5, -40.5, -41.5]), np.array([150.5, 151.5, 152.5, 153.5])
    data = xr.DataArray(values, {"time": times, "lat": lat, "lon": lon}, name="sst", attrs={"units": "K"})
    data.to_dataset().to_netcdf(folder / "sst.nc")
    splits = SplitsConfig(("1990-01", "1995-12"), ("1996-02", "1996-12"), ("1997-02", "1998-12"), 30)
    options = {"path": str(folder / "sst.nc"), "variables": ["sst"]}
    statistics = StatisticsConfig(climatology="month", scale="variable")
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, statistics))


def test_labels_are_those_of_days_ahead_and_what_is_known_today_does_not_look_ahead(store: Path) -> None:
    own = Store(store)
    found = heat_wave_labels(own, SEA)
    assert list(found) == ["anomaly_0d", "wave_0d", "anomaly_5d", "anomaly_10d", "wave_5d", "wave_10d"]
    values = found["anomaly_0d"].to_numpy()
    np.testing.assert_array_equal(found["anomaly_5d"].to_numpy()[:-5], values[5:])
    assert found["anomaly_10d"].isna().to_numpy()[-10:].all()
    assert found["wave_0d"].notna().all()
    assert found["wave_5d"].between(0, 1).to_numpy()[1:-11].all()
    assert found["wave_5d"].isna().to_numpy()[[0, *range(-11, 0)]].all()  # a wave may begin or end beyond the record
    train = own.splits.inside(own.times, "train")
    assert abs(values[train].mean()) < 0.05
    assert found["wave_0d"][train].mean() == pytest.approx(0.1, abs=0.03)  # hot: a tenth of the days of training
    late = own.times >= np.datetime64("1998-06-01")
    fields = own.dataset(["sst"])["sst"].to_numpy() + 50 * late[:, None, None]
    warm = _changed(own, fields)
    again = heat_wave_labels(warm, SEA)
    for name in ("anomaly_0d", "wave_0d"):
        np.testing.assert_array_equal(again[name][~late], found[name][~late])
    assert again["wave_5d"][late].to_numpy()[6:-11].min() == 1.0  # 50 degrees more: all of the sea, all of the time


def _changed(store: Store, fields: np.ndarray) -> Store:
    made = Store(store.path)
    original = made.dataset(["sst"])
    made.dataset = lambda variables=None: original.assign(sst=(original["sst"].dims, fields))  # type: ignore[method-assign]
    return made


def test_what_is_not_known_is_no_calm_day_and_a_cell_under_ice_leaves_the_others_as_they_were(store: Path) -> None:
    own = Store(store)
    fields = own.dataset(["sst"])["sst"].to_numpy().copy()
    fields[:, 3, 3] = np.nan
    without = heat_wave_labels(_changed(own, fields), SEA)
    icy = own.dataset(["sst"])["sst"].to_numpy().copy()
    icy[pd.DatetimeIndex(own.times).month == 8, 3, 3] = np.nan  # a twelfth of its days, so all of one time of the year
    pd.testing.assert_frame_equal(heat_wave_labels(_changed(own, icy), SEA), without)
    fields[1000] = np.nan
    gone = heat_wave_labels(_changed(own, fields), SEA)
    np.testing.assert_array_equal(np.flatnonzero(gone["wave_0d"].isna()), [1000])
    lost = np.flatnonzero(gone["wave_5d"].isna() & without["wave_5d"].notna())
    np.testing.assert_array_equal(lost, np.arange(1000 - 6, 1000 + 7) - 5)
    fields[::12, 1, 1] = np.nan
    with pytest.raises(EarthSSLError, match="most days with values of sst in every cell 6 days before to 6 days after"):
        heat_wave_labels(_changed(own, fields), SEA)
    fields[:400] = np.nan
    with pytest.raises(EarthSSLError, match=r"values on nine of ten training days .*, got none \(the best on 8"):
        heat_wave_labels(_changed(own, fields), SEA)


def test_windows_leads_and_waves_fit_the_gap_together(store: Path) -> None:
    config = IndicesConfig(str(store), heat_waves=replace(SEA, leads=[20]), kernel=False,
                           encoder=EncoderConfig("nano", 5, (1, 2, 2)))  # fmt: skip
    with pytest.raises(EarthSSLError, match=r"gaps between the blocks of 31 days or more .*, got 30"):
        Indices(config, Store(store)).encoders()


def test_a_linear_inverse_model_pairs_days_by_date(store: Path) -> None:
    """Without every fifth day, five rows are not five days."""
    own = Store(store)
    whole = lim_means(own, heat_wave_labels(own, SEA)["anomaly_0d"].to_numpy(), [5])[5][2]
    kept = np.arange(len(own.times)) % 5 != 4
    few, fields = Store(store), own.dataset(["sst"])["sst"].to_numpy()
    few.times = own.times[kept]
    present = heat_wave_labels(own, SEA)["anomaly_0d"].to_numpy()[kept]
    few.read = lambda steps, *rest, **more: own.read(np.flatnonzero(kept)[steps], *rest, **more)  # type: ignore[method-assign]
    said = lim_means(few, present, [5])[5][2]
    assert fields.shape[0] == len(kept)
    np.testing.assert_allclose(said @ present / (present @ present),
                               whole[kept] @ present / (present @ present), atol=0.03)  # fmt: skip


def test_a_linear_inverse_model_finds_the_damping(store: Path) -> None:
    own = Store(store)
    present = heat_wave_labels(own, SEA)["anomaly_0d"].to_numpy()
    found = lim_means(own, present, [5, 20])
    test = own.splits.inside(own.times, "test")
    for lead in (5, 20):
        said = found[lead][2][test]
        slope = said @ present[test] / (present[test] @ present[test])
        assert slope == pytest.approx(np.exp(-lead / 20), abs=0.12)


def test_the_task_has_persistence_and_lim_on_both_labels(store: Path, tmp_path: Path) -> None:
    config = IndicesConfig(str(store), heat_waves=SEA, ahead=[5, 10], kernel=False, out=str(tmp_path / "out"),
                           encoder=EncoderConfig("nano", 2, (1, 2, 2)), untrained_seeds=1)  # fmt: skip
    task = Indices(config, Store(store))
    assert task.columns == ["anomaly_5d", "anomaly_10d", "wave_5d", "wave_10d"]
    rows = {row.name: row for row in task.baselines(2)}
    for label in task.labels:
        truth = label.values[label.rows["test"], 0]
        for name in (PERSISTENCE, LIM):
            said = rows[name].forecast[label.name]
            assert np.mean((said - truth) ** 2) < np.mean(truth**2)
    assert set(rows[LIM].chosen) == set(task.columns)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leads": [0]}, "heat_waves.leads: expected leads ≥ 1"),
        ({"leads": []}, "heat_waves.leads: expected leads ≥ 1, at least one"),
        ({"leads": [5, 5]}, "heat_waves.leads: expected leads each once"),
        ({"days": 0}, "heat_waves.days: expected days ≥ 1"),
        ({"gap": -1}, "heat_waves.gap: expected gap ≥ 0"),
        ({"percentile": 0}, r"heat_waves.percentile: expected percentile in \(0, 100\]"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        HeatWavesConfig("sst", **change)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"labels": "t.csv", "heat_waves": SEA}, "expected labels or heat_waves.variable, got both"),
        ({"heat_waves": HeatWavesConfig(leads=[3])}, "heat_waves.variable: expected whose heat waves they are"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        IndicesConfig("x", **config)


def _short(store: Store) -> Store:
    own = store.splits
    block = (own.train[0], np.datetime64("1992-12-31", "ns"))
    store.__dict__["splits"] = Splits(block, own.val, own.test, own.embargo_days)
    return store


def _monthly(store: Store) -> Store:
    store.times = store.times[::30]
    return store


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (replace(SEA, variable="t2m"), None, "heat_waves.variable: expected one of sst, got 't2m'"),
        (replace(SEA, leads=[30]), None, "gaps between the blocks of 37 days or more .*, got 30"),
        (SEA, _short, "5 training years or more for a percentile, got 3"),
        (SEA, _monthly, "expected a daily store, got steps of 30 days"),
    ],
)
def test_stores_that_cannot_say_are_refused(
    store: Path, config: HeatWavesConfig, change: Callable[[Store], Store] | None, said: str
) -> None:
    own = Store(store)
    with pytest.raises(EarthSSLError, match=said):
        heat_wave_labels(own if change is None else change(own), config)


def test_a_column_that_is_not_there_is_refused(store: Path) -> None:
    with pytest.raises(EarthSSLError, match=r"indices.columns: expected one of anomaly_0d, .* got 'wave_3d'"):
        Indices(IndicesConfig(str(store), heat_waves=SEA, columns=["wave_3d"]), Store(store))
