"""Training in several blocks: what is one block still, windows and gaps by hand, a store, and what refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.look.fields import Fields
from earthssl.ssl.checkpoint.schema import schema
from earthssl.ssl.common.config import build, override
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.splits import Splits, SplitsConfig, window_starts
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.describe import describe
from earthssl.ssl.store.store import Store
from jsonschema import Draft202012Validator

MONTHS = np.arange("1980-01", "2000-01", dtype="datetime64[M]").astype("datetime64[ns]")
TWO = [("1980", "1983"), ("1990", "1993")]


def splits(train: Any = TWO, val: Any = ("1996", "1997"), test: Any = ("1986", "1987"), days: float = 365) -> Splits:
    """Training on either side of the test block."""
    return SplitsConfig(train, val, test, days).build()


def test_one_block_is_what_it_was() -> None:
    alone = splits(("1980", "1983"))
    record = {
        "train": ["1980-01-01T00:00:00.000000000", "1983-12-31T23:59:59.999999999"],
        "val": ["1996-01-01T00:00:00.000000000", "1997-12-31T23:59:59.999999999"],
        "test": ["1986-01-01T00:00:00.000000000", "1987-12-31T23:59:59.999999999"],
        "embargo_days": 365.0,
    }
    assert alone.to_json() == record
    assert list(alone.to_json()) == ["train", "val", "test", "embargo_days"]
    assert splits([("1980", "1983")]) == alone
    assert alone.train == alone.blocks("train")[0] == alone.train_blocks[0]
    assert list(alone.proof(MONTHS)["blocks"]) == ["train", "val", "test"]


def test_windows_never_cross_from_one_block_to_the_next() -> None:
    for length, number in ((1, 96), (12, 2 * 37), (48, 2)):
        starts = window_starts(MONTHS, splits(), "train", length)
        assert len(starts) == number
        ends = starts + length - 1
        assert all((last < 48) or (first >= 120 and last < 168) for first, last in zip(starts, ends, strict=True))
    with pytest.raises(EarthSSLError, match=r"no window of 49 steps fits in splits\.train, which holds 96 steps"):
        window_starts(MONTHS, splits(), "train", 49)
    touching = splits([("1990", "1991"), ("1992", "1993")])
    assert len(window_starts(MONTHS, touching, "train", 12)) == 2 * 13  # nor where they meet


def test_gaps_are_held_between_all_blocks_but_those_of_training() -> None:
    proof = splits().proof(MONTHS)
    assert {name: block["steps"] for name, block in proof["blocks"].items()} == {
        "train 1": 48, "train 2": 48, "val": 24, "test": 24,
    }  # fmt: skip
    assert list(proof["gaps_days"]) == ["train 1–test", "test–train 2", "train 2–val"]
    assert proof["disjoint"]
    near = splits([("1980-01", "1980-06"), ("1980-08", "1983-12")])
    assert near.proof(MONTHS)["disjoint"]  # a month apart, both of training
    with pytest.raises(EarthSSLError, match=r"train 1 ends 1985-06-30 and test starts 1986-01-01, 184 days apart"):
        splits([("1980", "1985-06"), ("1990", "1993")])
    with pytest.raises(EarthSSLError, match=r"test ends 1987-12-31 and train 2 starts 1988-02-01, 31 days apart"):
        splits([("1980", "1983"), ("1988-02", "1993")])
    for twice in ([("1980", "1983"), ("1983", "1984")], [("1980", "1983"), ("1980", "1983")]):
        with pytest.raises(EarthSSLError, match=r"splits\.train: train 1 ends 1983-12-31.*share no time"):
            splits(twice, days=0)
    with pytest.raises(EarthSSLError, match="train 2"):
        splits([("1980", "1983"), ("1985", "1990")])  # over the test block


def test_written_and_read_they_are_the_same() -> None:
    there = json.loads(json.dumps(splits().to_json()))
    assert [block[0][:10] for block in there["train"]] == ["1980-01-01", "1990-01-01"]
    assert Splits.from_json(there) == splits() == splits(TWO[::-1])
    of_record = {**schema("record")["properties"]["splits"], "$defs": {}}
    for one in (splits(), splits(("1980", "1983"))):
        assert Draft202012Validator(of_record).is_valid(one.to_json())
    for wrong in ([["1980-01-01T00:00:00"]], [["x", "y"], ["z", "w"]], ["1980-01-01T00:00:00"], [3, 4], [[], []],
                  3 * ["1980-01-01T00:00:00"], ["1980-01-01T00:00:00", 2 * ["1981-01-01T00:00:00"]]):  # fmt: skip
        assert not Draft202012Validator(of_record).is_valid({**there, "train": wrong})
    with pytest.raises(EarthSSLError, match=r"splits\.train: expected a block"):
        Splits.from_json({**there, "train": []})
    for wrong in (
        ["1980", "1981", "1983"],
        ["1980", ["1981", "1983"]],
        ["1983", "1980"],
        [["1983", "1980"]],
        ["NaT", "1983"],
    ):
        with pytest.raises(ValueError, match=r"expected a block|unpack|convert"):
            Splits.from_json({**there, "train": wrong})


def test_differences_of_more_than_292_years_do_not_wrap() -> None:
    """Nanoseconds hold no more; months before and after, by hand."""
    long = splits(("1680", "1990"), ("1993", "2000"), ("2003", "2020")).earlier(30)
    assert [str(instant)[:10] for instant in (*long.train, *long.val, *long.test)] == [
        "1680-01-01", "1980-10-31", "1983-01-01", "1990-12-31", "1993-01-01", "2000-12-31",
    ]  # fmt: skip
    times = np.arange("1678", "2022", dtype="datetime64[M]").astype("datetime64[ns]")
    proof = splits(("1680", "1690"), ("2000", "2010"), ("2013", "2020")).proof(times)
    apart = np.datetime64("2000-01-01") - np.datetime64("1690-12-01")
    assert proof["gaps_days"]["train–val"] == apart / np.timedelta64(1, "D")
    assert proof["disjoint"]


def test_a_config_and_the_command_line_take_a_list() -> None:
    plain = {"source": "planet", "out": "x", "splits": {"train": [list(own) for own in TWO], "val": ["1996", "1997"],
             "test": ["1986", "1987"], "embargo_days": 365}}  # fmt: skip
    assert build(PrepareConfig, plain, "prepare").splits.build() == splits()
    words = ["--splits.train", '[["1980", "1983"], ["1990", "1993"]]']
    one = {**plain, "splits": {**plain["splits"], "train": ["1980", "1983"]}}  # type: ignore[dict-item]
    assert build(PrepareConfig, one, "prepare").splits.build() == splits(("1980", "1983"))
    assert build(PrepareConfig, override(one, words, PrepareConfig), "prepare").splits.build() == splits()
    for wrong in ([["1980", "1983", "1984"]], [["1980"], ["1990"]], []):
        with pytest.raises(EarthSSLError, match=r"splits\.train|two dates"):
            build(PrepareConfig, {**plain, "splits": {**plain["splits"], "train": wrong}}, "p").splits.build()  # type: ignore[dict-item]


def test_whoever_needs_one_block_refuses_in_words() -> None:
    with pytest.raises(EarthSSLError, match=r"one training block, got 2 \(1980-01-01 … 1983-12-31, 1990-01-01 … 1993"):
        _ = splits().train
    with pytest.raises(EarthSSLError, match="one training block"):
        splits().inside(MONTHS, "fit")
    with pytest.raises(EarthSSLError, match="rehearsal one block earlier, got 2; set uncertainty: false"):
        splits().earlier(30)


def test_a_store_has_the_statistics_of_all_its_training_blocks(tmp_path: Path) -> None:
    """The month's number plus 10 in one block, plus 20 in the other, 900 elsewhere: the climatology adds 15."""
    inside = splits().block_of(MONTHS, "train")
    values = np.array([10.0, 20.0, 900.0])[inside] + np.arange(len(MONTHS)) % 12
    field = np.broadcast_to(values[:, None, None], (len(MONTHS), 4, 8)).astype(np.float32)
    coords = {"time": MONTHS, "lat": [67.5, 22.5, -22.5, -67.5], "lon": np.arange(0.0, 360, 45)}
    xr.Dataset({"u10": (("time", "lat", "lon"), field, {"units": "m s-1"})}, coords).to_netcdf(tmp_path / "two.nc")
    blocks = SplitsConfig(TWO, ("1996", "1997"), ("1986", "1987"), 365)  # type: ignore[arg-type]
    options = {"path": str(tmp_path / "two.nc"), "check_range": False}
    store = Store(prepare(PrepareConfig("files", str(tmp_path / "store"), blocks, options, workers=1)))
    assert store.splits == splits()
    anomaly = store.read_all()[:, 0] * store.statistics.scale[0]
    np.testing.assert_allclose(anomaly[inside == 0], -5, rtol=1e-5)
    np.testing.assert_allclose(anomaly[inside == 1], 5, rtol=1e-5)
    windows = Windows(store, "train", 12, 0)
    assert len(windows) == 74
    assert bool((windows.batch(np.arange(74)).values.abs() < 2).all())  # none of the 900
    assert "  train 2      1990-01-01 … 1993-12-01, 48 steps" in describe(tmp_path / "store")
    assert list(Fields(store).describe()["splits"]) == ["train 1", "train 2", "val", "test"]
