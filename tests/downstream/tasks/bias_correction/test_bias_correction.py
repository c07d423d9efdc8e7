"""Bias correction at stations: biases and slopes that are known, blocks of years, the whole task, bad input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from earthssl.cli.main import main
from earthssl.downstream.evaluation.run import run as run_task
from earthssl.downstream.tasks.bias_correction.task import (
    LINE,
    MEAN_BIAS,
    MLP,
    MOS,
    MOS_OF_PLACE,
    OF_PLACE,
    RAW,
    TREES,
    BiasCorrection,
    BiasCorrectionConfig,
)
from earthssl.downstream.training.from_scratch import ScratchConfig

SLOPE, BIAS = np.array([0.5, -0.5, 0.0]), np.array([-1.0, 0.0, 4.0])


def table() -> pd.DataFrame:
    """Three stations, 60 days of five summers: observed = forecast + a bias and a slope on humidity of each station."""
    days = [day for year in range(2001, 2006) for day in pd.date_range(f"{year}-06-01", periods=60)]
    rng = np.random.default_rng(0)
    parts = []
    for k, station in enumerate("abc"):
        wet, forecast = rng.normal(size=len(days)), 25 + 3 * rng.normal(size=len(days))
        parts.append(pd.DataFrame({
            "date": [str(day.date()) for day in days], "station": station, "forecast": forecast, "humidity": wet,
            "observed": forecast + BIAS[k] + SLOPE[k] * wet,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def config(file: Path, **more: object) -> BiasCorrectionConfig:
    given = {
        "table": str(file), "time": "date", "place": "station", "targets": {"observed": "forecast"},
        "train": [2001, 2003], "val": [2004, 2004], "test": [2005, 2005],
        "scratch": ScratchConfig(1, 60, 64, 1e-2, 0.01, 20), "hidden": 8,
    }  # fmt: skip
    return BiasCorrectionConfig(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stations") / "table.csv.gz"
    table().to_csv(made, index=False)
    return made


@pytest.fixture(scope="module")
def task(file: Path) -> BiasCorrection:
    return BiasCorrection(config(file), None)


def test_every_correction_tells_what_it_can(task: BiasCorrection) -> None:
    """The mean bias is 1; of each place -1, 0, 4; the rest of each place is linear in humidity, without noise."""
    rows = [row for row in task.baselines(0) if row.name != TREES]
    (target,) = task.targets()
    ones = np.ones(len(target.units))
    scores = {one.name: one.statistic([row for row in rows if one.takes(row)])(ones) for one in target.metrics}
    rmse = dict(zip([row.name for row in rows], scores["rmse"], strict=True))
    assert rmse[RAW] == pytest.approx(np.sqrt((BIAS**2).mean() + (SLOPE**2).mean()), rel=0.05)
    assert rmse[MEAN_BIAS] == pytest.approx(np.sqrt((BIAS**2).mean() - 1 + (SLOPE**2).mean()), rel=0.05)
    assert rmse[OF_PLACE] == pytest.approx(np.sqrt((SLOPE**2).mean()), rel=0.1)
    assert rmse[MOS_OF_PLACE] < 1e-3
    assert min(rmse[LINE], rmse[MOS]) > 0.9 * rmse[MEAN_BIAS]  # slopes of opposite sign, all places together
    assert dict(zip(rmse, scores["skill"], strict=True))[MEAN_BIAS] == pytest.approx(0, abs=1e-9)
    single = np.abs(task.error[task.rows_of["test"], 0]).mean()
    assert scores["crps"][0] == pytest.approx(single)  # raw: the absolute error
    assert task.bias[0] == pytest.approx(1, abs=0.05)


def test_blocks_are_years_and_nothing_is_learnt_from_the_test_year(file: Path, tmp_path: Path) -> None:
    data = table()
    late = data.date.str.startswith("2005")
    data.loc[late, "observed"] += 100
    data.to_csv(tmp_path / "warm.csv", index=False)
    first, again = (BiasCorrection(config(one), None) for one in (file, tmp_path / "warm.csv"))
    np.testing.assert_array_equal(first.bias, again.bias)
    assert first.samples() == {"train": 540, "val": 180, "test": 180}
    assert (first.pairs.time[first.rows_of["test"]].astype("datetime64[Y]") == np.datetime64("2005")).all()
    assert len(np.unique(first.targets()[0].units)) == 10


def test_dates_with_one_offset_are_local_dates(file: Path, tmp_path: Path) -> None:
    data = table()
    data["date"] += "T00:00+09:00"
    data.to_csv(tmp_path / "local.csv", index=False)
    found, plain = (BiasCorrection(config(one), None).pairs for one in (tmp_path / "local.csv", file))
    np.testing.assert_array_equal(found.time, plain.time)


def test_two_targets_may_share_a_forecast(file: Path, tmp_path: Path) -> None:
    """The forecasts alone are one column, humidity not among them, and every column that is taken is told."""
    data = table()
    data["other"] = data.observed + 1
    data.to_csv(tmp_path / "shared.csv", index=False)
    shared = BiasCorrection(
        config(tmp_path / "shared.csv", targets={"observed": "forecast", "other": "forecast"}), None
    )
    single = BiasCorrection(config(file), None)
    (both,), (one,) = ([row for row in task.baselines(0) if row.name == LINE] for task in (shared, single))
    np.testing.assert_allclose(both.forecast["observed"], one.forecast["observed"], rtol=1e-6)
    notes = " ".join(shared.extras([], pd.DataFrame(), pd.DataFrame()).notes)
    assert "all other columns with numbers: forecast, humidity." in notes


@pytest.mark.slow
def test_the_whole_task(file: Path, tmp_path: Path) -> None:
    out = run_task(BiasCorrection(config(file, out=str(tmp_path / "out")), None))
    scores = pd.read_csv(out / "scores.csv")
    skill = scores[(scores.metric == "skill") & scores.seed.isna()].set_index("row")["value"]
    assert set(skill.index) == {RAW, MEAN_BIAS, OF_PLACE, LINE, MOS, MOS_OF_PLACE, TREES, MLP}
    assert min(skill[MLP], skill[TREES]) > 0.6 > skill[MEAN_BIAS] + 0.5
    assert "an encoder has nothing to read" in (out / "table.txt").read_text()
    apart = pd.read_csv(out / "raw_by_block.csv").set_index("block")
    assert apart.loc["train", "bias"] == pytest.approx(-1, abs=0.05)


def spoilt(kind: str) -> pd.DataFrame:
    """Return the table with one fault."""
    data = table().astype(object)
    if kind == "hole":
        data.loc[7, "humidity"] = np.nan
    elif kind == "mark":
        data.loc[7, "observed"] = -999.0
    elif kind == "word":
        data.loc[7, "observed"] = "warm"
    elif kind == "date":
        data.loc[7, "date"] = "30.06.2001"
    elif kind == "twice":
        data.loc[7, "date"] = data.loc[6, "date"]
    elif kind == "offsets":
        data["date"] = data.date.str.slice(0, 10) + np.where(data.index % 2, "T00:00+09:00", "T00:00+10:00")
    elif kind == "some offsets":
        data.loc[7, "date"] += "T00:00Z"
    elif kind == "digits":
        data.loc[7, "observed"] = "1_000"
    elif kind == "new place":
        data.loc[data.date == "2005-06-05", "station"] = "d" + data.station
    elif kind == "empty":
        data = data[:0]
    return data


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        ("", ["--table", "absent.csv"], "expected a CSV file, found none at absent.csv"),
        ("", ["--targets", "{}"], "targets: expected {OBSERVATION: FORECAST}"),
        ("", ["--targets", "{observed: forecasts}"], "expected a column 'forecasts', got date, .* mean 'forecast'"),
        ("", ["--predictors", "[observed]"], "got the observation 'observed', which is to be told"),
        ("", ["--predictors", "[date]"], "time, place: expected two columns that are no target"),
        ("", ["--val", "[2003, 2004]"], "one block after the other"),
        ("", ["--test", "[2015, 2016]"], r"years of the table \(2001 … 2005\), got 2015 … 2016"),
        ("", ["--checkpoints", "[x]"], "no store and no checkpoints, as there are no fields"),
        ("", ["--fractions", "[0.5]"], "no curve over labels"),
        ("", ["--missing", "fill"], "missing: expected one of refuse, drop, got 'fill'"),
        ("hole", [], "line 9: expected a value in every column that is read, got none .*missing to drop"),
        ("mark", [], "line 9: expected a value of 'observed', got -999, far from the others"),
        ("word", [], "line 9: expected numbers in 'observed', got 'warm'"),
        ("date", [], r"line 9: expected an ISO date in 'date', .* got '30\.06\.2001'"),
        ("offsets", [], "dates of one offset from UTC in 'date', got several, .* all in UTC"),
        ("some offsets", [], "dates of one offset from UTC in 'date'"),
        ("digits", [], "line 9: expected numbers in 'observed', got '1_000'"),
        ("", ["--time", "forecast"], "time, place: expected two columns that are no target, .* got 'forecast'"),
        ("", ["--place", "date"], "time, place: expected two columns"),
        ("twice", [], "line 9: expected each date once at a place, got 2001-06-07 at 'a' again"),
        ("new place", [], "every place in the training years, got 'da' later only"),
        ("empty", [], "expected lines below the header, got none"),
    ],
)
def test_bad_input_ends_in_one_line(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], spoil: str, words: list[str], said: str
) -> None:
    if spoil:
        file = tmp_path / "spoilt.csv"
        spoilt(spoil).to_csv(file, index=False)
    given = ["--table", str(file), "--time", "date", "--place", "station", "--targets", "{observed: forecast}",
             "--train", "[2001, 2003]", "--val", "[2004, 2004]", "--test", "[2005, 2005]",
             "--out", str(tmp_path / "out")]  # fmt: skip
    status = main(["probe", "--task", "bias_correction", *given, *words])
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert len(error.splitlines()) == 1
    assert re.search(said, error), error
