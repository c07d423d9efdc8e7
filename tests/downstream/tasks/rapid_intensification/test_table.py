"""Rapid intensification from a table with predictors, and with fields of earlier months around the storms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.results.scores import tables
from earthssl.downstream.storms.crops import CropConfig
from earthssl.downstream.storms.storm_table import TableConfig
from earthssl.downstream.tasks.rapid_intensification.config import FieldsConfig, RapidIntensificationConfig
from earthssl.downstream.tasks.rapid_intensification.material import Material, sst_years, times_before
from earthssl.downstream.tasks.rapid_intensification.models import BOOSTED, TRACK
from earthssl.downstream.tasks.rapid_intensification.task import RapidIntensification
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import Splits, SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

from .conftest import SEASONS

Make = Callable[..., RapidIntensificationConfig]


@pytest.fixture(scope="module")
def told(tracks: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> TableConfig:
    """The storms of two basins as a table under other names, the hidden gain as a predictor, unknown for some."""
    file = tmp_path_factory.mktemp("table") / "t.csv"
    rng = np.random.default_rng(2)
    own = tracks.rename(columns={"storm": "id", "wind_kt": "v"}).drop(columns=["category", "over_water"])
    own.loc[rng.uniform(size=len(own)) < 0.05, "hidden"] = np.nan
    own.assign(noise=rng.standard_normal(len(own))).to_csv(file, index=False)
    return TableConfig(
        str(file), storm="id", wind="v", basin="basin", season="season",
        predictors={"gain": ["hidden"], "nothing": ["noise"]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Monthly SST of 1990–2011 around the storms; encoders may have seen all before 1998."""
    folder = tmp_path_factory.mktemp("store")
    times = pd.date_range("1990-01-01", "2011-12-01", freq="MS")
    lat, lon = np.arange(37.5, -38, -5.0), np.arange(42.5, 80, 5.0)
    values = 300 + np.random.default_rng(3).standard_normal((len(times), len(lat), len(lon)))
    data = xr.DataArray(values, {"time": times, "lat": lat, "lon": lon}, name="sst", attrs={"units": "K"})
    data.to_dataset().to_netcdf(folder / "sst.nc")
    splits = SplitsConfig(("1990-01", "1995-12"), ("1996-06", "1997-12"), ("1999-01", "2011-12"), 90)
    options = {"path": str(folder / "sst.nc"), "variables": ["sst"]}
    statistics = StatisticsConfig(climatology="month", scale="variable")
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, statistics))


def task(config: RapidIntensificationConfig) -> RapidIntensification:
    return RapidIntensification(config, Store(config.store) if config.store else None)


@pytest.mark.usefixtures("_few_trees")
def test_a_predictor_that_knows_the_hidden_gain_wins_and_noise_does_not(
    config: Make, told: TableConfig, tmp_path: Path
) -> None:
    one = task(replace(config(tmp_path / "out"), tracks="ibtracs", table=told))
    rows = list(one.baselines(0))
    scores, differences = tables(one.targets(), rows, draws=100, references=[TRACK])
    value = scores.query("seed == '' and metric == 'BSS'").set_index("row")["value"]
    assert value[f"{TRACK} + gain"] > value[TRACK] + 0.02
    assert abs(value[f"{TRACK} + nothing"] - value[TRACK]) < 0.01
    assert f"{BOOSTED} + gain + place" in value.index
    assert "the table tells no category and no land" in one.convention_text()
    assert one.title() == "Rapid intensification within 24 h: table t.csv, no fields"
    d = differences.query("metric == 'BSS'").set_index(["row", "reference"])["verdict"]
    assert d[f"{TRACK} + gain", TRACK] == "better"


def test_the_month_before_is_over_at_the_time_of_the_sample(store: Path) -> None:
    """By hand: on 1 August and on 31 August the last whole month is July; two before, June."""
    own = Store(store)
    asked = pd.Series(
        np.array(["2005-08-01", "2005-08-31T18", "2012-02-01", "1990-01-20", "1980-01-01"], "datetime64[ns]")
    )
    never = np.datetime64("1989-12-31")
    want = np.array(["2005-07-01", "2005-07-01", never, never, never], "datetime64[ns]")
    np.testing.assert_array_equal(times_before(own, asked, 1), want)
    assert times_before(own, asked, 2)[0] == np.datetime64("2005-06-01")


def test_rows_with_fields_of_the_months_before_stand_beside_the_predictors(
    config: Make, told: TableConfig, store: Path, tmp_path: Path
) -> None:
    fields = FieldsConfig(CropConfig(10.0), ["last"], [2], steps_before=1)
    wanted = replace(
        config(tmp_path / "out"), tracks="ibtracs", table=told, store=str(store), fields=fields, layers=[1],
        encoder=EncoderConfig("nano", 2, (1, 2, 2)), untrained_seeds=1, random_seeds=1,
        scratch=ScratchConfig(0), finetune=FinetuneConfig(warmup_steps=2),
    )  # fmt: skip
    one = task(wanted)
    assert one.fields is not None
    assert one.fields.shown.all()
    crop, own = one.fields.of(np.ones(len(one.kept), bool)).fields(), Store(store)
    sample = one.material.samples.iloc[0]
    last = own.read([int(np.flatnonzero(own.times <= sample["time"].to_datetime64())[-1]) - 1])[0, 0]
    assert np.isin(crop[0, -1, 0], last[::-1] if sample["lat"] < 0 else last).all()  # all of one map of that month
    names = {row.name for row in one.rows(one.encoders()[0], [1])}
    assert {"untrained [logistic]", "untrained [logistic + track]", "untrained [logistic + track + gain]"} <= names
    assert "end one step of the store before" in one.convention_text()
    assert one.data_record()["split"] == {name: SEASONS[name] for name in ("train", "val", "test")}


def test_storms_that_an_encoder_may_have_seen_are_not_tested_on(
    config: Make, told: TableConfig, store: Path, tmp_path: Path
) -> None:
    own = Store(store)
    block = (np.datetime64("2010-01-01", "ns"), own.splits.test[1])
    moved = Splits(own.splits.train, own.splits.val, block, own.splits.embargo_days)
    own.__dict__["splits"] = moved
    wanted = replace(config(tmp_path / "out"), tracks="ibtracs", table=told, store=str(store))
    with pytest.raises(EarthSSLError, match=r"the test samples of .* in the store's test block \(2010-01-01 "):
        RapidIntensification(wanted, own)


@pytest.mark.parametrize("name", ["after", "soon", "rise"])
def test_predictors_that_are_the_answer_are_refused(config: Make, told: TableConfig, tmp_path: Path, name: str) -> None:
    """The wind of 24 h later, whether it rises so far, and its rise; the wind now, as like as it is, is none."""
    own = pd.read_csv(told.path, keep_default_na=False)
    later = own.groupby("id")["v"].shift(-4)
    own["now"], own["after"], own["rise"], own["soon"] = own["v"], later, later - own["v"], (later - own["v"] >= 15) * 1
    own.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(EarthSSLError, match=f"what is known at the time, got '{name}', which follows"):
        task(replace(config(tmp_path / "out"), tracks="ibtracs",
                     table=replace(told, path=str(tmp_path / "t.csv"), predictors={"it": ["now", name]})))  # fmt: skip


@pytest.mark.parametrize("mark", [-999.0, 9999.0])
def test_marks_of_what_is_missing_are_no_predictors(
    config: Make, told: TableConfig, tmp_path: Path, mark: float
) -> None:
    own = pd.read_csv(told.path, keep_default_na=False)
    own.loc[::10, "noise"] = mark
    own.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(EarthSSLError, match=f"values in the column 'noise' of .*, got {mark:g}, far from the others"):
        task(replace(config(tmp_path / "out"), tracks="ibtracs", table=replace(told, path=str(tmp_path / "t.csv"))))


def test_years_of_sst_end_before_the_seasons_that_a_table_tests_on(
    config: Make, told: TableConfig, store: Path
) -> None:
    """The store's test block begins in 1999, before the training seasons; the table's in 2009."""
    wanted = replace(config(Path("out")), tracks="ibtracs", table=told)
    material = Material.of(wanted, Store(store))
    assert sst_years((1900, 2020), wanted, material) == (2000, 2005)
    assert sst_years((1900, 2003), wanted, material) == (2000, 2003)
    assert sst_years((2005, 2020), wanted, material) == (2005, 2008)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tracks": "mine.csv", "table": TableConfig("t.csv")}, "expected tracks or table.path, got both"),
        ({"table": TableConfig(wind="v")}, "table.path: expected the file that the columns are of"),
    ],
)
def test_bad_configs_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        RapidIntensificationConfig(out="x", **change)


def test_steps_before_the_sample_cannot_lie_after_it() -> None:
    with pytest.raises(EarthSSLError, match="steps_before ≥ 0"):
        FieldsConfig(steps_before=-1)
