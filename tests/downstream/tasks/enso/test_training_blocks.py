"""ENSO labels with training on either side of the test block, and what reads them, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.evaluation.pretraining_leaks import seen_by_pretraining
from earthssl.downstream.evaluation.window_labels import block_rows, labelled_times
from earthssl.downstream.features import predictable
from earthssl.downstream.tasks.enso.baselines import Lim, baseline_rows, stationary_lim
from earthssl.downstream.tasks.enso.labels import EnsoLabels, check_embargo, later
from earthssl.downstream.tasks.enso.monthly_ridge import HEAD
from earthssl.downstream.tasks.registry import TASKS, task_class
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.data_sets import _leaks
from earthssl.ssl.fields.splits import Splits, SplitsConfig

LEADS = (1, 6)
WINDOW = 3


def made_up(seed: int = 0) -> xr.Dataset:
    """Red noise with a seasonal cycle on a patch around the Niño 3.4 box, 1950–1999."""
    months = np.arange("1950-01", "2000-01", dtype="datetime64[M]")
    lat, lon = np.arange(10.0, -11.0, -4.0), np.arange(182.0, 250.0, 8.0)
    values = np.random.default_rng(seed).normal(size=(len(months), len(lat), len(lon)))
    for k in range(1, len(values)):
        values[k] += 0.9 * values[k - 1]
    values += 300 + 3 * np.cos(2 * np.pi * (months.astype(int) % 12) / 12)[:, None, None]
    return xr.Dataset(
        {"sst": (("time", "lat", "lon"), values)},
        coords={"time": months.astype("datetime64[ns]"), "lat": lat, "lon": lon},
    )


def splits(train: Any = (("1950", "1964"), ("1977", "1987")), val: Any = ("1989", "1999"), test: Any = ("1966", "1975"),
           days: float = 300) -> Splits:  # fmt: skip
    return SplitsConfig(list(train), val, test, days).build()


@pytest.fixture(scope="module")
def labels() -> EnsoLabels:
    return EnsoLabels.from_dataset(made_up(), splits(), LEADS, WINDOW)


def months(labels: EnsoLabels, block: str, lead: int) -> list[str]:
    """First and last initial month of each unbroken run of a block's samples."""
    used = labels.time[labels.samples(block)[LEADS.index(lead)]]
    cuts = np.flatnonzero(np.diff(used).astype(int) != 1) + 1
    return [f"{run[0]}…{run[-1]}" for run in np.split(used, cuts)]


def test_a_sample_lies_in_one_block_with_its_inputs_and_targets(labels: EnsoLabels) -> None:
    """The third month is the first with three inputs; the last target of lead 6 reaches seven months on."""
    assert months(labels, "train", 1) == months(labels, "train", 6) == ["1950-03…1964-05", "1977-03…1987-05"]
    assert months(labels, "fit", 6) == [
        "1950-03…1964-05",
        "1977-03…1999-05",
    ]  # 1988, the gap before val, is refitted on
    years, count = np.unique(labels.year[labels.samples("train")[0]], return_counts=True)  # the units of label curves
    assert list(years[count == 12]) == [*range(1951, 1964), *range(1978, 1987)]
    assert months(labels, "val", 6) == ["1988-08…1999-05"]
    assert months(labels, "test", 6) == ["1965-07…1975-06"]
    assert months(labels, "test", 1) == ["1965-12…1975-11"]
    with pytest.raises(EarthSSLError, match=r"one block of train, got 1950-01…1964-12 and 1977-01…1987-12"):
        _ = labels.blocks


def test_any_order_of_blocks_has_its_fit_period_around_the_test_block() -> None:
    def fit(train: Any, val: Any, test: Any) -> str:
        return EnsoLabels.from_dataset(made_up(), splits(train, val, test), LEADS, WINDOW).words("fit")

    first = fit([("1977", "1987")], ("1989", "1999"), ("1950", "1975"))
    assert first == "1977-01…1999-12"
    assert fit([("1962", "1987")], ("1950", "1960"), ("1989", "1999")) == "1950-01…1987-12"
    assert fit([("1950", "1964")], ("1977", "1987"), ("1966", "1975")) == "1950-01…1964-12 and 1977-01…1987-12"
    kept = fit([("1950", "1955"), ("1957", "1964")], ("1977", "1987"), ("1966", "1975"))
    assert kept == "1950-01…1955-12 and 1957-01…1964-12 and 1977-01…1987-12"  # what training leaves out stays out


def test_the_climatology_is_that_of_all_fitted_blocks_and_the_target_knows_it(labels: EnsoLabels) -> None:
    fit = labels.within("fit")
    for month in range(12):
        assert abs(labels.index[fit & (labels.month == month)].mean()) < 1e-9
    sst = made_up()["sst"].sel(lat=[2.0, -2.0], lon=slice(190, 240))
    grid_area = labels.grid.area[2:4, 1:8]
    index = (sst.values * grid_area).sum((1, 2)) / grid_area.sum()
    np.testing.assert_allclose(labels.index + np.asarray(labels.usual), index)
    whole = labels.target + labels.usual_target
    np.testing.assert_allclose(whole[0, :-2], np.convolve(index, np.ones(3) / 3, "valid")[: len(index) - 2], rtol=1e-9)


def test_labels_begin_later_and_gaps_hold_in_several_blocks() -> None:
    late = later(splits(), "1960-03")
    assert [str(first)[:7] for first, _ in late.train_blocks] == ["1960-03", "1977-01"]
    assert [str(first)[:7] for first, _ in later(splits(), "1978").train_blocks] == ["1978-01"]
    with pytest.raises(EarthSSLError, match=r"training block 1950-01…1964-12 and 1977-01…1987-12, got 1970"):
        later(splits(), "1970")
    before = splits([("1960", "1975")], val=("1950", "1957"), test=("1978", "1987"))
    with pytest.raises(EarthSSLError, match="validation too from 1961 on, got one from 1950-01; leave it out"):
        later(before, "1961")
    assert later(splits([("1977", "1987"), ("1950", "1964")]), "1977") == splits([("1977", "1987")])
    check_embargo(splits(), 5, 6)
    check_embargo(splits([("1950", "1957-03"), ("1957-05", "1964"), ("1977", "1987")]), 5, 6)  # both of training
    with pytest.raises(EarthSSLError, match=r"at least 13 months .*train 1 block's end 1964-12 and the test .*got 12"):
        check_embargo(splits(), 6, 6)
    with pytest.raises(EarthSSLError, match=r"the test block's end 1975-12 and the train 2 block's start 1977-01"):
        check_embargo(splits([("1950", "1963"), ("1977", "1986")]), 6, 6)


def test_no_pair_of_months_of_an_inverse_model_reaches_over_the_test_block(labels: EnsoLabels) -> None:
    """An autoregression of one number by hand: the pairs within each block only; test values change nothing."""
    states = np.random.default_rng(1).normal(size=(24, 1))
    states[10:14] = np.nan
    x, y = np.r_[states[:9], states[14:23]], np.r_[states[1:10], states[15:24]]
    assert Lim.stationary(states).propagators[0, 0, 0] == pytest.approx(float((x.T @ y / (x.T @ x))[0, 0]))
    changed = made_up()
    changed["sst"][np.flatnonzero(labels.within("test") & ~labels.within("fit"))[60:]] += (
        5  # seen as inputs, not fitted
    )
    other = EnsoLabels.from_dataset(changed, splits(), LEADS, WINDOW)
    early = np.arange(40)
    for row, again in zip(baseline_rows(labels, WINDOW, HEAD, {}), baseline_rows(other, WINDOW, HEAD, {}), strict=True):
        for lead in LEADS:
            np.testing.assert_array_equal(row.forecast[f"lead {lead}"][early], again.forecast[f"lead {lead}"][early])
    assert np.isfinite(stationary_lim(labels).forecast["lead 6"]).all()


def test_the_leak_check_knows_every_training_block_of_every_ancestor() -> None:
    def training(blocks: Splits) -> dict[str, Any]:
        return {"source": "files: ERA5", "splits": blocks.to_json()}

    store: Any = SimpleNamespace(splits=splits(), manifest={"source": "files: ERA5", "attributes": {}})
    assert seen_by_pretraining([training(splits())], store) == []
    over = splits([("1950", "1960"), ("1963", "1987")], test=("1961-09", "1962-02"), days=200)
    (said,) = seen_by_pretraining([training(splits()), training(over)], store)
    assert "the encoder's train 2 block (1963-01-01…1987-12-31) reaches into the store's test block" in said
    near = splits([("1950", "1955"), ("1976-03", "1987")], test=("1957", "1975"), days=50)
    (said,) = seen_by_pretraining([training(near)], store)
    assert "train 2 block" in said
    assert "nearer than the embargo (60 days)" in said
    sets = [SimpleNamespace(splits=one) for one in (splits(), near)]
    wrong = "; ".join(_leaks("home", sets[0], "far", sets[1]))  # type: ignore[arg-type]
    assert "splits.train of far (1976-03-01 … 1987-12-31) is near splits.test of home" in wrong
    assert "splits.train of home (1950-01-01 … 1964-12-31) meets splits.test of far" in wrong


def test_windows_with_a_target_stay_in_their_block() -> None:
    every = np.arange("1950-01", "2000-01", dtype="datetime64[M]")
    store: Any = SimpleNamespace(splits=splits(), times=every.astype("datetime64[s]"), path="store")
    rows = block_rows(store, 12, 5, np.ones(len(every), bool))
    train = every[rows["train"]]
    assert [str(train[k]) for k in (0, 163, 164, -1)] == ["1950-12", "1964-07", "1977-12", "1987-07"]
    assert [str(every[rows["test"][k]]) for k in (0, -1)] == ["1965-12", "1975-07"]  # never with a month of training
    assert [str(every[rows["val"][k]]) for k in (0, -1)] == ["1988-12", "1999-07"]
    with pytest.raises(EarthSSLError, match=r"1950-01-01 … 1964-12-31, 1977-01-01 … 1987-12-31\), got"):
        labelled_times(store, "since", ("1970", "1971"))


def test_predictable_directions_pair_no_months_of_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave that two blocks, a month apart, hold in opposite phase: across them nothing would be predictable."""
    every = np.arange("1950-01", "2000-01", dtype="datetime64[M]").astype("datetime64[s]")
    blocks = splits([("1950", "1957-03"), ("1957-05", "1964"), ("1977", "1987")])
    paired: list[np.ndarray] = []
    fields = np.random.default_rng(0).normal(size=(len(every), 3))
    monkeypatch.setattr(predictable, "raw_window", lambda store, window: fields)
    kept = predictable._whitening
    monkeypatch.setattr(predictable, "_whitening", lambda centred: (paired.append(centred), kept(centred))[1])
    store: Any = SimpleNamespace(splits=blocks, times=every)
    predictable.predictable_directions(store, 1, [6])
    assert {len(own) for own in paired} == {(87 - 6) + (92 - 6) + (132 - 6)}


@pytest.mark.parametrize("name", [name for name in TASKS if name != "enso"])
def test_tasks_that_know_one_block_refuse_several(name: str) -> None:
    kind = task_class(name)
    store: Any = SimpleNamespace(splits=splits(), path="the store")
    with pytest.raises(EarthSSLError, match=r"expected one training block, got 2 in the store.*splits\.train"):
        kind(SimpleNamespace(), store)  # type: ignore[arg-type]
