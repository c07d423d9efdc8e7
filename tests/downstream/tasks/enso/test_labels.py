"""Index, targets and blocks of the ENSO task on small made-up records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.features.anomalies import monthly_anomaly
from earthssl.downstream.tasks.enso.labels import MEAN, EnsoLabels, area_mean, later, nino34_weight
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.splits import Splits, SplitsConfig

LEADS = (1, 3, 6)


def made_up(start: str = "1950-01", end: str = "1999-12", seed: int = 0) -> xr.Dataset:
    """Noise with a seasonal cycle on a 4-degree patch around the Niño 3.4 box."""
    months = np.arange(start, np.datetime64(end, "M") + 1, dtype="datetime64[M]")
    lat, lon = np.arange(10.0, -11.0, -4.0), np.arange(182.0, 250.0, 4.0)
    rng = np.random.default_rng(seed)
    season = 300 + 3 * np.cos(2 * np.pi * (months.astype(int) % 12) / 12)
    values = season[:, None, None] + rng.normal(size=(len(months), len(lat), len(lon)))
    return xr.Dataset(
        {"sst": (("time", "lat", "lon"), values)},
        coords={"time": months.astype("datetime64[ns]"), "lat": lat, "lon": lon},
    )


def splits(train: tuple[str, str] = ("1950", "1974"), val: tuple[str, str] = ("1976", "1983")) -> Splits:
    return SplitsConfig(train, val, ("1985", "1999"), 300).build()


def task() -> EnsoLabels:
    return EnsoLabels.from_dataset(made_up(), splits(), LEADS, 3)


def inits(made: EnsoLabels, block: str, lead: int) -> tuple[str, str]:
    used = made.time[made.samples(block)[LEADS.index(lead)]]
    return str(used[0]), str(used[-1])


def test_monthly_anomaly_takes_the_cycle_out_of_the_fit_times_only() -> None:
    month = np.arange(36) % 12
    values = np.arange(12.0)[month]
    values[24:] += 5
    anomaly = monthly_anomaly(values, month, np.arange(36) < 24)
    np.testing.assert_allclose(anomaly, np.repeat([0, 5], [24, 12]))
    assert np.isnan(monthly_anomaly(np.full((36, 1), np.nan), month, month >= 0)).all()


def test_area_mean_by_hand() -> None:
    weight = np.array([[1.0, 3.0]])
    assert area_mean(np.array([[2.0, 6.0]]), weight) == pytest.approx(5)
    assert area_mean(np.array([[2.0, np.nan]]), weight) == pytest.approx(2)
    assert np.isnan(area_mean(np.array([[np.nan, np.nan]]), weight))


def test_the_index_of_a_uniform_anomaly_is_that_anomaly() -> None:
    dataset = made_up()
    dataset["sst"] = dataset["sst"] * 0 + 300
    dataset["sst"][{"time": -1}] = 301.5
    made = EnsoLabels.from_dataset(dataset, splits(), LEADS, 3)
    assert made.index[-1] == pytest.approx(1.5)
    assert made.index[:-1] == pytest.approx(0)


def test_the_index_is_the_mean_of_the_box() -> None:
    made = task()
    inside = made.anomaly[:, 2:4, 2:15]  # 2N and 2S; 190 … 238E
    np.testing.assert_allclose(made.index, inside.mean(axis=(1, 2)), atol=1e-12)


def test_target_is_the_mean_of_three_months_around_i_plus_lead() -> None:
    made = task()
    i = 100
    for j, lead in enumerate(LEADS):
        assert made.target[j, i] == pytest.approx(made.index[i + lead - 1 : i + lead + 2].mean())
    # Lead 1 averages the last input month itself and the two after it.
    assert made.target[0, 10] == pytest.approx(made.index[10:13].mean())
    assert np.isnan(made.target[2, -7:]).all()
    assert np.isfinite(made.target[2, -8])


def test_blocks_by_hand() -> None:
    made = task()
    # Inputs start 1950-01; the longest lead's target ends 6 + 1 months after the initial month.
    assert inits(made, "train", 1) == inits(made, "train", 6) == ("1950-03", "1974-05")
    assert inits(made, "fit", 1) == inits(made, "fit", 6) == ("1950-03", "1983-05")
    # First target month 1976-01, last one 1983-12.
    assert inits(made, "val", 1) == ("1976-01", "1983-10")
    assert inits(made, "val", 6) == ("1975-08", "1983-05")
    # Central target month 1985-01 … 1999-11: the record ends 1999-12.
    assert inits(made, "test", 1) == ("1984-12", "1999-10")
    assert inits(made, "test", 6) == ("1984-07", "1999-05")


def test_no_block_sees_another() -> None:
    made = task()
    months = {}
    for block in ("train", "val", "fit", "test"):
        seen: set[int] = set()
        for lead, used in zip(LEADS, made.samples(block), strict=True):
            for i in np.flatnonzero(used):
                seen |= set(range(i - 2, i + 1)) | {i + lead - 1, i + lead, i + lead + 1}
        months[block] = seen
    assert not months["train"] & months["val"]
    assert not months["fit"] & months["test"]
    assert months["train"] < months["fit"]


def test_the_refit_may_end_earlier_but_not_later() -> None:
    for asked, last in (("1981-12", "1981-12"), ("1983-06", "1983-05")):
        made = replace(task(), last_fit_init=np.datetime64(asked, "M"))
        assert inits(made, "fit", 1) == ("1950-03", last)


def test_values_after_the_fit_period_change_nothing_before_its_end() -> None:
    later = made_up()
    later["sst"][{"time": later.time.dt.year > 1983}] = 1e6
    a, b = task(), EnsoLabels.from_dataset(later, splits(), LEADS, 3)
    fit = a.within("fit")
    np.testing.assert_array_equal(a.anomaly[fit], b.anomaly[fit])
    used = a.samples("fit")
    np.testing.assert_array_equal(a.target[used], b.target[used])
    np.testing.assert_array_equal(used, b.samples("fit"))


def test_validation_score_is_best_for_the_truth() -> None:
    made = task()
    noise = np.random.default_rng(5).normal(size=made.target.shape)
    tried = np.stack([made.target, made.target + noise])
    assert made.validation_score(tried, "rmse")[0] == pytest.approx([0, 0, 0])
    assert made.validation_score(tried, "r")[0] == pytest.approx([1, 1, 1])
    for criterion in ("r", "rmse"):
        truth, noisy = made.validation_score(tried, criterion)
        assert (truth > noisy).all()
    used = made.samples("val")[1]
    brute = -np.sqrt(np.mean(noise[1, used] ** 2))
    assert made.validation_score(tried, "rmse")[1, 1] == pytest.approx(brute)


def test_r_needs_three_validation_years() -> None:
    short = SplitsConfig(("1950", "1974"), ("1976", "1977"), ("1985", "1999"), 300).build()
    made = EnsoLabels.from_dataset(made_up(), short, LEADS, 3)
    assert np.isfinite(made.validation_score(made.target, "rmse")).all()
    with pytest.raises(EarthSSLError, match="select by rmse"):
        made.validation_score(made.target, "r")


def test_rows_hold_the_test_samples_only() -> None:
    made = task()
    row = made.row("copy", made.target, {})
    observed = made.array(row.forecast)
    assert observed.dims == ("lead", "init_time")
    assert str(observed.init_time.values[0])[:7] == "1984-07"
    assert int(np.isfinite(observed).sum()) == len(row.forecast[MEAN]) == int(made.samples("test").sum())
    used = made.inits("test")
    np.testing.assert_array_equal(observed, np.where(made.samples("test"), made.target, np.nan)[:, used])


def test_a_row_that_misses_samples_is_refused() -> None:
    made = task()
    short = made.target.copy()
    short[0, made.tested[0][:4]] = np.nan
    with pytest.raises(EarthSSLError, match="4 are missing"):
        made.row("short", short, {})


def test_an_anomaly_in_another_base_period_gives_the_same_task() -> None:
    dataset = made_up()
    shifted = (dataset.rename(sst="ssta") - 290).assign(sst=dataset.sst * 0)
    a, b = task(), EnsoLabels.from_dataset(shifted, splits(), LEADS, 3)
    np.testing.assert_allclose(a.index, b.index, atol=1e-9)
    c = EnsoLabels.from_dataset(shifted[["sst"]], splits(), LEADS, 3)
    np.testing.assert_allclose(c.index, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.isel(lon=slice(0, 6)), r"whole Niño 3.4 box.*180…204°E"),
        (lambda d: d.isel(lat=slice(0, 2)), r"no cell of the grid"),
        (lambda d: d.isel(time=np.r_[0:40, 41:600]), r"1953-04-01 followed by 1953-06-01.*monthly means"),
        (lambda d: d.rename(sst="sts"), r"sst or ssta.*holds sts.*Did you mean"),
        (lambda d: d.isel(time=slice(0, 400)), r"labels in the test block.*lead 1"),
        (lambda d: d.isel(time=slice(320, None)), r"labels in the train block"),
        (lambda d: d.transpose("time", "lon", "lat"), r"transpose"),
        (lambda d: d.assign_coords(time=np.arange(600)), r"datetime64 months"),
    ],
)
def test_unfit_data_are_refused(change, message: str) -> None:
    with pytest.raises(EarthSSLError, match=message) as caught:
        EnsoLabels.from_dataset(change(made_up()), splits(), LEADS, 3)
    assert "\n" not in str(caught.value)


def test_a_short_embargo_is_refused_with_both_numbers() -> None:
    with pytest.raises(EarthSSLError, match=r"at least 13 months .*got 12"):
        EnsoLabels.from_dataset(made_up(), splits(), LEADS, 6)
    assert EnsoLabels.from_dataset(made_up(), splits(), LEADS, 5).window == 5


def test_labels_may_begin_later_than_the_training_block() -> None:
    """A variable that begins in 1960: nothing is fitted on what lies before; validation and test stay as they are."""
    late = EnsoLabels.from_dataset(made_up(), later(splits(), "1960-03"), LEADS, 3)
    assert inits(late, "train", 6)[0] == "1960-05"
    assert inits(late, "test", 6) == inits(task(), "test", 6)
    assert late.blocks["fit"][0] == np.datetime64("1960-03")
    for wrong, said in (
        ("1940-01", "1950-01…1974-12, got 1940-01"),
        ("1980", "got 1980"),
        ("soon", "enso.since: expected two dates"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            later(splits(), wrong)


def test_bad_leads_and_blocks_are_refused() -> None:
    for leads, window in (((), 3), ((0, 1), 3), ((1,), 0)):
        with pytest.raises(EarthSSLError, match="at least 1 month"):
            EnsoLabels.from_dataset(made_up(), splits(), leads, window)
    at_the_end = SplitsConfig(("1950", "1974"), ("1999-11", "1999-12"), ("1976", "1983"), 300)
    with pytest.raises(EarthSSLError, match=r"expected labels in the val block 1999-11…1999-12, got none at lead 1"):
        EnsoLabels.from_dataset(made_up(), at_the_end.build(), LEADS, 3)
    with pytest.raises(EarthSSLError, match="Did you mean 'train'"):
        task().samples("trian")


def test_box_weights_are_areas() -> None:
    grid = LatLonGrid(np.arange(88.0, -89.0, -4.0), np.arange(0.0, 360.0, 4.0))
    weight = nino34_weight(grid)
    np.testing.assert_array_equal(weight > 0, grid.box(-5, 5, 190, 240))
    np.testing.assert_array_equal(weight[weight > 0], grid.area[weight > 0])


def test_real_ersst_shows_the_2015_el_nino(shared_data: Path) -> None:
    with xr.open_dataset(shared_data / "ersstv5_global_2deg_monthly_2010-2020.nc") as opened:
        dataset = opened.load()
    blocks = SplitsConfig(("2010", "2013"), ("2014-09", "2016"), ("2017-09", "2020"), 240).build()
    made = EnsoLabels.from_dataset(dataset[["sst"]], blocks, (1, 3), 3)
    peak = made.time[np.nanargmax(made.index)]
    assert str(peak) in ("2015-11", "2015-12")
    assert made.index.max() > 2
