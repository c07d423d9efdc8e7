"""The change of vortices: targets by hand, blocks that share no vortex, scores, and the whole task on moving lows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.finetune import FinetuneConfig
from earthssl.downstream.tasks import probe_config
from earthssl.downstream.vortex_change import (
    CLIMATOLOGY,
    GOES_ON,
    LABEL,
    PRESSURE,
    SCALARS,
    SCRATCH,
    SPIN,
    STILL,
    Row,
    VorticesConfig,
    _inside,
    parts_of,
    run,
    scalars_of,
    score_rows,
    vortex_samples,
)
from earthssl.ssl.encoder import EncoderConfig
from earthssl.ssl.errors import EarthSSLError
from earthssl.ssl.prepare import PrepareConfig, prepare
from earthssl.ssl.splits import Splits, SplitsConfig
from earthssl.ssl.statistics import StatisticsConfig
from earthssl.ssl.store import Store

LIFE = 14  # steps of a low


@pytest.fixture(scope="module")
def lows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty 6-hourly days on 5°: two lows at a time, one a hemisphere, moving 2.5° east a step over the date line.

    Each lives 14 steps; its pressure falls by a rate of its own, its vorticity stays.
    """
    times = np.datetime64("2026-01-01", "ns") + np.timedelta64(6, "h") * np.arange(240)
    lat, lon = 87.5 - 5.0 * np.arange(36), 5.0 * np.arange(72)
    y, x = np.meshgrid(lat, lon, indexing="ij")
    rng = np.random.default_rng(0)
    msl, vo = np.full((240, 36, 72), 101000.0), np.zeros((240, 36, 72))
    for birth in range(0, 240, LIFE):
        for sign in (1, -1):
            rate = rng.uniform(20, 100)
            # every other one far away: none is born where another dies
            start = 5.0 * rng.integers(28, 36) + 120 * (birth // LIFE % 2)
            row = sign * (12.5 + 5.0 * rng.integers(0, 2))
            for age in range(min(LIFE, 240 - birth)):
                column = (start + 5.0 * (age // 2)) % 360
                shape = np.exp(-((y - row) ** 2 + ((x - column + 180) % 360 - 180) ** 2) / 60)
                msl[birth + age] -= (500 + rate * age) * shape
                vo[birth + age] += sign * 2e-4 * shape
    folder = tmp_path_factory.mktemp("lows")
    arrays = {
        "msl": (("time", "lat", "lon"), msl, {"units": "Pa"}),
        "vo850": (("time", "lat", "lon"), vo, {"units": "s-1"}),
    }
    xr.Dataset(arrays, {"time": times, "lat": lat, "lon": lon}).to_netcdf(folder / "lows.nc")
    splits = SplitsConfig(("2026-01-01", "2026-01-29"), ("2026-01-31", "2026-02-12"), ("2026-02-14", "2026-03-01"), 1)
    statistics = StatisticsConfig(climatology="hour", harmonics=0, scale="variable")
    options = {"path": str(folder / "lows.nc"), "variables": ["msl", "vo850"]}
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, statistics))


def config(store: Path, out: Path) -> VorticesConfig:
    return VorticesConfig(
        str(store), str(out), threshold=1e-4, radius_deg=20.0, pca_components=[2], draws=100, reach_deg=6.0,
        encoder=EncoderConfig("nano", 2, (1, 4, 4)),
        finetune=FinetuneConfig(steps=20, check_every=10, warmup_steps=2),
    )  # fmt: skip


def test_targets_are_the_changes_that_were_put_in(lows: Path, tmp_path: Path) -> None:
    found = vortex_samples(Store(lows), config(lows, tmp_path))
    # 17 births of two lows; each has a target until 4 steps before its end, the last (2 steps) none
    assert found["storm"].nunique() == 34
    assert (found.groupby("storm").size() == LIFE - 4).all()
    np.testing.assert_allclose(found[SPIN], 0, atol=1e-3)
    np.testing.assert_allclose(found["vorticity"], 20, rtol=1e-4)
    own = found.groupby("storm")[PRESSURE]
    assert (own.max() - own.min()).max() < 0.01
    assert -4.0 <= found[PRESSURE].min() < found[PRESSURE].max() <= -0.8
    known = found["pressure12"].notna()
    assert known.groupby(found["storm"]).sum().unique().tolist() == [LIFE - 6]
    np.testing.assert_allclose(2 * found["pressure12"][known], found[PRESSURE][known], atol=0.01)
    # east, but for the two steps before it first moves
    assert (found["heading"] == 0).groupby(found["storm"]).sum().eq(2).all()
    np.testing.assert_allclose(found["heading"][found["heading"] > 0], 90, atol=1.5)
    assert ((found["lon"] > 170) & (found["lon"] < 190)).any()
    assert scalars_of(found).shape == (len(found), 8)


def test_no_vortex_is_in_two_blocks_and_36_hours_lie_in_the_block() -> None:
    blocks = [np.array(days, "datetime64[ns]") for days in (["2026-01-01", "2026-01-10"], ["2026-01-12", "2026-01-20"],
                                                            ["2026-01-22", "2026-01-30"])]  # fmt: skip
    splits = Splits(*((one[0], one[1]) for one in blocks), embargo_days=1)
    days = ["2026-01-01", "2026-01-01T12", "2026-01-09", "2026-01-09T06", "2026-01-13", "2026-01-14", "2026-01-23"]
    samples = pd.DataFrame({"time": np.array(days, "datetime64[ns]"), "storm": [0, 0, 0, 0, 0, 1, 1]})
    assert parts_of(samples, splits).tolist() == ["", "train", "train", "", "", "val", ""]


def test_scores_by_hand() -> None:
    truth, storms = np.array([1.0, 3.0, 5.0, 7.0]), np.arange(4)
    rows = [
        Row(CLIMATOLOGY, None, np.full(4, 4.0)), Row("seer", None, truth), Row("half", 0, (truth + 4) / 2),
        Row("half", 1, np.full(4, 4.0) - (truth - 4)),
    ]  # fmt: skip
    scores, differences = score_rows(rows, truth, storms, "x", 100)
    value = scores.set_index(["row", "metric"])["value"]
    assert value[CLIMATOLOGY, "RMSE"] == pytest.approx(5**0.5)
    assert (value[CLIMATOLOGY, "skill"], value["seer", "skill"], value["seer", "r"]) == pytest.approx((0, 1, 1))
    assert np.isnan(value[CLIMATOLOGY, "r"])
    # the mean of the scores of two seeds: errors of a half and of twice the departure, r of 1 and -1
    assert value["half", "skill"] == pytest.approx((0.75 - 3) / 2)
    assert value["half", "r"] == pytest.approx(0)
    better = differences.set_index(["row", "reference", "metric"])
    assert better.loc[("seer", CLIMATOLOGY, "RMSE"), "verdict"] == "better"


def test_the_whole_check_finds_what_the_lows_do(lows: Path, tmp_path: Path) -> None:
    folder = run(config(lows, tmp_path / "out"), "typed")
    scores = pd.read_csv(folder / "scores.csv")
    value = scores.set_index(["target", "row", "metric"])["value"]
    assert set(scores["row"]) >= {CLIMATOLOGY, STILL, GOES_ON, SCALARS, SCRATCH, "PCA of the crop + scalars",
                                  "untrained encoder, rotated + scalars"}  # fmt: skip
    assert value[PRESSURE, SCALARS, "skill"] > 0.7
    assert value[PRESSURE, STILL, "skill"] < -1
    assert np.isfinite(scores.loc[scores["metric"] != "r", "value"]).all()
    paired = pd.read_csv(folder / "differences.csv").set_index(["target", "row", "reference", "metric"])["verdict"]
    assert paired[PRESSURE, SCALARS, CLIMATOLOGY, "RMSE"] == "better"
    record = json.loads((folder / "result.json").read_text())
    assert LABEL in record["title"]
    assert record["convention"].startswith(LABEL)
    assert any(LABEL in note for note in record["notes"])
    vortices = pd.read_csv(folder / "vortices.csv")
    assert (vortices["label"] == LABEL).all()
    assert (vortices.groupby("storm")["block"].nunique() == 1).all()
    assert {"crops.png", "skill.png", "report.html"} <= {file.name for file in folder.iterdir()}


def test_stores_and_settings_that_cannot_work_are_refused(
    lows: Path, wave_store: Path, daily_store: Path, tmp_path: Path
) -> None:
    assert probe_config("vortices") is VorticesConfig
    wanted = config(lows, tmp_path / "out")
    for change, said in (
        ({"store": str(wave_store)}, "a store with msl and vo850, got u10, vo850; prepare one with msl"),
        ({"store": str(daily_store)}, "prepare one with msl, vo850"),
        ({"threshold": 1.0}, r"centres of vorticity ≥ 1 s-1 between 5° and 25°, got none of \d+"),
        ({"reach_deg": 1.0}, r"expected vortices followed for 24 h, got none of \d+ centres"),
    ):
        with pytest.raises(EarthSSLError, match=said):
            run(replace(wanted, **change))
    found = vortex_samples(Store(lows), wanted)
    part = parts_of(found, Store(lows).splits)
    with pytest.raises(EarthSSLError, match="20 samples of 4 vortices or more in the test block, got 0 of 0"):
        _inside(Store(lows), wanted, found[part != "test"].reset_index(drop=True), 2)
    for change, said in (
        ({"task": "enso"}, "expected vortices"), ({"latitudes": (5.0, 90.0)}, "a pole row is one place"),
        ({"faint": 1.0}, "0 < faint ≤ threshold"), ({"reach_deg": 0.0}, "reach_deg and core_deg > 0"),
        ({"pca_components": []}, "pca_components ≥ 1"),
    ):  # fmt: skip
        with pytest.raises(EarthSSLError, match=said):
            replace(wanted, **change)
