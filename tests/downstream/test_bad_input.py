"""Data that a task cannot use, or not all of: one line that says so, or a skip that shows in the counts; never NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.downstream.tasks.enso import baselines
from earthssl.downstream.tasks.enso.labels import EnsoLabels
from earthssl.downstream.tasks.enso.state_labels import StateLabels
from earthssl.downstream.tasks.enso.task import seasonal
from earthssl.downstream.tasks.forecast.baselines import Damped, anomaly_persistence
from earthssl.downstream.tasks.forecast.samples import ForecastSamples
from earthssl.downstream.tasks.forecast.scores import score as score_forecast
from earthssl.downstream.tasks.infilling.gappy import Anomalies
from earthssl.downstream.tasks.infilling.task import Infilling, InfillingConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

SPLITS = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
Maker = Callable[[str], Store]


@pytest.fixture(scope="module")
def made(small_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Maker of stores like the small one: "no sst", "constant" (season only), or a month in which sst is missing."""
    folder, done = tmp_path_factory.mktemp("bad"), {}

    def make(kind: str) -> Store:
        if kind not in done:
            data = small_data.copy(deep=True)
            if kind == "no sst":
                data = data[["u10"]]
            elif kind == "constant":
                month = data["time"].dt.month
                data["sst"] = data["sst"].groupby("time.month").mean().sel(month=month).drop_vars("month")
            else:
                data["sst"].loc[{"time": kind}] = np.nan
            file = folder / f"{kind}.nc"
            names = ["u10"] if kind == "no sst" else ["sst", "u10"]
            data[names].transpose("time", "lat", "lon").to_netcdf(file)
            options = {"path": str(file), "variables": names}
            done[kind] = prepare(PrepareConfig("files", str(folder / f"{kind} store"), SPLITS, options))
        return Store(done[kind])

    return make


def enso(store: Store) -> EnsoLabels:
    return EnsoLabels.from_dataset(store.dataset(list(store.variables)), store.splits, [1, 3], 3)


def states(store: Store) -> StateLabels:
    return StateLabels.from_store(store, [0, 2], 3)


def infilling(store: Store) -> Infilling:
    return Infilling(InfillingConfig(str(store.path), variable="sst", window=1), store)


def forecast(store: Store) -> ForecastSamples:
    return ForecastSamples.of(store, [1], 1, ["sst"])


@pytest.mark.parametrize("task", [enso, states, infilling, forecast])
def test_a_store_without_the_variable(task: Callable[[Store], Any], made: Maker) -> None:
    """What was wanted, and what the store holds."""
    with pytest.raises(EarthSSLError, match=r"sst.*u10|u10.*sst"):
        task(made("no sst"))


@pytest.mark.parametrize(
    "task", [lambda store: baselines.damped_persistence(enso(store)), states, infilling], ids=["enso", "states", "fill"]
)
def test_nothing_beside_the_seasons(task: Callable[[Store], Any], made: Maker) -> None:
    """A constant index, one class only, cells that never vary."""
    with pytest.raises(EarthSSLError, match=r"varies|vary|at least two classes"):
        task(made("constant"))


@pytest.mark.parametrize(("month", "lost"), [("2008-05", 5 + 6), ("1990-05", 0)])
def test_enso_skips_samples_that_see_a_month_without_data(
    month: str, lost: int, made: Maker, small_store: Path
) -> None:
    """Three inputs and three target months: at lead 1 they overlap in one sample, at lead 3 in none."""
    task, whole = enso(made(month)), enso(Store(small_store))
    assert whole.samples("test").sum() - task.samples("test").sum() == lost
    assert (whole.samples("train").sum() > task.samples("train").sum()) == (lost == 0)
    for row in (
        baselines.persistence(task), baselines.damped_persistence(task), baselines.stationary_lim(task, 3),
        baselines.pca(task, (2, 3)),
    ):  # fmt: skip
        samples = sum(len(own) for own in task.tested)
        assert samples == task.samples("test").sum()
        assert np.isfinite(seasonal([row], task)(np.ones(samples))).all()


@pytest.mark.parametrize(("month", "lost"), [("2008-05", 3), ("1990-05", 0)])
def test_states_skip_seasons_with_a_month_without_data(month: str, lost: int, made: Maker, small_store: Path) -> None:
    """The three seasons that hold it, and those whose persistence would be one of these."""
    labels, whole = states(made(month)), states(Store(small_store))
    held, all_of_them = (set(one.rows("test", 0)) for one in (labels, whole))
    dropped = {str(whole.enso.time[row]) for row in all_of_them - held}
    assert dropped == ({f"2008-{m:02d}" for m in range(5, 11)} if lost else set())
    for found in labels.baselines(0).values():
        assert len(found) == len(held)
        assert np.isfinite(found).all()


def test_infilling_refuses_a_month_without_truth(made: Maker) -> None:
    """In the test block nothing could be scored; in the fit period no cell would be whole."""
    with pytest.raises(EarthSSLError, match=r"some observed cell at every time, got none at 2008-05"):
        list(infilling(made("2008-05")).baselines(1))
    with pytest.raises(EarthSSLError, match=r"hold a value at all times .* got 0"):
        Anomalies.of(made("1990-05"), "sst")


def test_forecasts_of_a_field_without_data(made: Maker) -> None:
    """No score is NaN where a month of the test block, or of training, is missing."""
    for month in ("1990-05", "2008-05"):
        samples = forecast(made(month))
        for forecast_of in (anomaly_persistence(samples), Damped.fit(samples)):
            assert np.isfinite(score_forecast(forecast_of, samples).sums["sst", 1]).all()
