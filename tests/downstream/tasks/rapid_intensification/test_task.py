"""Rapid intensification: rows and scores on storms whose law is known, and the whole task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import earthssl.downstream.tasks.rapid_intensification.task as module
import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.metrics.events import Ranking, brier, calibration_error
from earthssl.downstream.storms.best_tracks import tidy
from earthssl.downstream.storms.crops import CropConfig
from earthssl.downstream.tasks.rapid_intensification.field_features import FieldsConfig
from earthssl.downstream.tasks.rapid_intensification.models import (
    BALANCED,
    BOOSTED,
    CLIMATOLOGY,
    DAY_CALL,
    HALF_DAY_CALL,
    ISOTONIC,
    PLATT,
    SEASONAL,
    SMOOTHING,
    TABLE,
    TRACK,
    TREES,
    Forecast,
    Problem,
    SampleFeatures,
    balanced,
    boosting,
    climatology,
    feature_rows,
    logistic,
    persistence,
    recalibrated,
    table,
)
from earthssl.downstream.tasks.rapid_intensification.network import SCRATCH
from earthssl.downstream.tasks.rapid_intensification.samples import Predictors, parts_by_season, samples_of
from earthssl.downstream.tasks.rapid_intensification.scores import AUC, BSS, BSS_TRAIN, HSS, PSS, Judge
from earthssl.downstream.tasks.rapid_intensification.task import (
    CONVENTION,
    KNOWN,
    Material,
    RapidIntensificationConfig,
    run,
    summarise,
)
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

SEASONS: dict[str, tuple[int, int]] = {"train": (2000, 2005), "val": (2006, 2008), "test": (2009, 2011)}
THRESHOLD = 15.0


def storms(count: int = 240, seed: int = 0) -> pd.DataFrame:
    """Storms of 2000–2011 in two basins; each gains 1.5 + 3 h kt in 6 h with a hidden h of its own, and noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(count):
        year, basin = 2000 + number % 12, ("NA", "SI")[number // 12 % 2]
        hidden, records = rng.standard_normal(), 20
        gain = 1.5 + 3 * hidden + 3 * rng.standard_normal(records)
        south = basin == "SI"
        start = np.datetime64(f"{year}-{'02' if south else '08'}-01", "ns") + np.timedelta64(number // 24, "D")
        parts.append(pd.DataFrame({
            "storm": f"{year}-{number}", "basin": basin, "time": start + np.arange(records) * np.timedelta64(6, "h"),
            "lat": (-1 if south else 1) * (10 + 0.3 * np.arange(records)), "lon": 60.0 + rng.uniform(),
            "wind_kt": np.maximum(rng.uniform(30, 80) + np.cumsum(gain), 15), "category": 0, "over_water": True,
            "hidden": hidden,
        }))  # fmt: skip
    return tidy(pd.concat(parts, ignore_index=True))


@pytest.fixture
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the whole task, which are not about the trees."""
    monkeypatch.setitem(TREES, "max_iter", 15)


@pytest.fixture(scope="module")
def samples() -> pd.DataFrame:
    return samples_of(storms())


@pytest.fixture(scope="module")
def problem(samples: pd.DataFrame) -> Problem:
    basins = ["NA", "SI"]
    return Problem(samples, parts_by_season(samples, SEASONS), Predictors.of(samples, basins, {}), basins, THRESHOLD)


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tracks") / "storms.csv"
    storms().drop(columns="hidden").to_csv(file, index=False)
    return str(file)


def config(csv: str, out: Path, **more: Any) -> RapidIntensificationConfig:
    small = {"thresholds_kt": [THRESHOLD], "tree_seeds": 1, "draws": 100, "fractions": []}
    return RapidIntensificationConfig(out=str(out), tracks=csv, **SEASONS, **{**small, **more})


# ---- rows ------------------------------------------------------------------------------------------------------


def test_climatology_and_persistence_by_hand(problem: Problem) -> None:
    train, test = problem.inside("train"), problem.inside("test")
    north = problem.basin == 0
    expected = problem.event[train & north].mean()
    np.testing.assert_allclose(climatology(problem).test[north[test]], expected)
    day, half = persistence(problem)
    assert (day.row, half.row) == (DAY_CALL, HALF_DAY_CALL)
    np.testing.assert_array_equal(day.test == 1, problem.samples["change24"][test] >= THRESHOLD)
    np.testing.assert_array_equal(half.test == 1, problem.samples["change12"][test] >= THRESHOLD / 2)
    assert set(day.test) == {0, 1}


def test_the_table_is_the_smoothed_frequency_of_its_box(problem: Problem) -> None:
    s, train, test = problem.samples, problem.inside("train"), problem.inside("test")
    change = s["change12"].fillna(0)
    box = (s["wind_kt"] >= 34) & (s["wind_kt"] < 50) & (change >= -2.5) & (change < 2.5)
    hits, n = problem.event[train & box].sum(), (train & box).sum()
    rate = problem.event[train].mean()
    np.testing.assert_allclose(table(problem).test[box[test]], (hits + SMOOTHING * rate) / (n + SMOOTHING))


def test_logistic_regression_finds_the_law_it_is_made_for(problem: Problem) -> None:
    """Events drawn from a logistic law of a feature: the fit reaches the score of the true chances."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(len(problem.event))
    chance = 1 / (1 + np.exp(-(2 * x - 1)))
    change = np.where(rng.uniform(size=len(x)) < chance, 2 * THRESHOLD, 0.0)
    made = replace(problem, samples=problem.samples.assign(change_kt=change))
    found = logistic(made, "x", x[:, None])
    test = made.inside("test")
    np.testing.assert_allclose(found.test, chance[test], atol=0.06)
    assert brier(found.test, made.event[test]) == pytest.approx(brier(chance[test], made.event[test]), rel=0.02)
    assert len(found.val) == made.inside("val").sum()


def test_trees_find_what_a_line_cannot_and_are_a_function_of_their_seed(problem: Problem) -> None:
    x = np.random.default_rng(4).standard_normal((len(problem.event), 2))
    change = np.where(x[:, 0] * x[:, 1] > 0, 2 * THRESHOLD, 0.0)
    made = replace(problem, samples=problem.samples.assign(change_kt=change))
    event = made.event[made.inside("test")]
    one, again, other = (boosting(made, "x", x, seed) for seed in (0, 0, 1))
    assert Ranking(one.test, event).auc()[0] > 0.95
    assert Ranking(logistic(made, "x", x).test, event).auc()[0] < 0.6
    np.testing.assert_array_equal(one.test, again.test)
    assert (one.test != other.test).any()
    assert 1 <= one.chosen["trees"] <= 300


@pytest.mark.parametrize("how", [ISOTONIC, PLATT])
def test_recalibration_mends_distorted_chances(problem: Problem, how: str) -> None:
    """Doubled log-odds are halved again; the order of the samples stays."""
    rng = np.random.default_rng(5)
    odds = rng.normal(-1, 1.2, len(problem.event))
    change = np.where(rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-odds)), 2 * THRESHOLD, 0.0)
    made = replace(problem, samples=problem.samples.assign(change_kt=change))
    event = made.event[made.inside("test")]
    sure = made.forecast("sure", 1 / (1 + np.exp(-2 * odds)))
    mended = recalibrated(made, sure, how)
    assert mended.row == f"sure, {how}"
    assert calibration_error(mended.test, event) < 0.6 * calibration_error(sure.test, event)
    assert brier(mended.test, event) < brier(sure.test, event)
    order = np.argsort(sure.test)
    assert (np.diff(mended.test[order]) >= 0).all()
    if how == PLATT:
        np.testing.assert_allclose(mended.test, (1 / (1 + np.exp(-odds)))[made.inside("test")], atol=0.06)


def test_balanced_classes_keep_the_order_and_spoil_the_chances(problem: Problem) -> None:
    event = problem.event[problem.inside("test")]
    plain, warning = logistic(problem, TRACK, problem.predictors.track), balanced(problem)
    assert "not recalibrated" in warning.row
    assert Ranking(warning.test, event).auc()[0] == pytest.approx(Ranking(plain.test, event).auc()[0], abs=0.02)
    assert warning.test.mean() > event.mean() + 0.05
    assert brier(warning.test, event) > brier(plain.test, event)


def features(samples: pd.DataFrame, tracks: pd.DataFrame) -> list[SampleFeatures]:
    """Two seeds of features that hold the hidden gain, one variant of which is noise, and features of noise only."""
    hidden = samples[["storm"]].merge(tracks.drop_duplicates("storm")[["storm", "hidden"]], "left")["hidden"].to_numpy()
    rng = np.random.default_rng(6)
    noise = rng.standard_normal((3, len(samples), 4))
    good = np.column_stack([hidden, noise[0]])
    return [
        SampleFeatures("encoder", 0, noise[1], "pretrained", "layer 1"),
        SampleFeatures("encoder", 0, good, "pretrained", "layer 2"),
        SampleFeatures("encoder", 1, good + 0.1, "pretrained", "layer 2"),
        SampleFeatures("encoder", 0, noise[2], "untrained", "layer 1"),
    ]


def test_feature_rows_choose_their_variant_on_validation(problem: Problem, samples: pd.DataFrame) -> None:
    rows = feature_rows(problem, features(samples, storms()))
    assert [(one.row, one.seed) for one in rows] == [
        ("pretrained encoder", 0), ("pretrained encoder + track", 0), ("pretrained encoder", 1),
        ("pretrained encoder + track", 1), ("untrained encoder", 0), ("untrained encoder + track", 0),
    ]  # fmt: skip
    assert [one.chosen["variant"] for one in rows[:2]] == ["layer 2", "layer 2"]


# ---- scores ----------------------------------------------------------------------------------------------------


def test_the_judge_knows_the_limits(problem: Problem) -> None:
    """A seer has every skill 1; the test frequencies have none; seeds count by the mean of their scores."""
    event = problem.event
    rates = np.array([event[problem.inside("test") & (problem.basin == k)].mean() for k in (0, 1)])
    seer = problem.forecast("seer", event.astype(float))
    constant = problem.forecast("constant", rates[problem.basin])
    twice = [Forecast("mixed", k, one.val, one.test) for k, one in enumerate((seer, constant))]
    trained = climatology(problem)
    judge = Judge(problem, [seer, constant, *twice, trained], trained.test)
    found = judge.scored(["constant"], 100)
    value = found.scores[found.scores["seed"] == ""].set_index(["row", "metric"])["value"]
    for metric in (BSS, BSS_TRAIN, AUC, PSS, HSS):
        assert value["seer", metric] == pytest.approx(1)
    assert value["constant", BSS] == pytest.approx(0, abs=1e-12)
    assert value["mixed", BSS] == pytest.approx(0.5)
    assert value[CLIMATOLOGY, BSS_TRAIN] == 0
    assert value[CLIMATOLOGY, BSS] < 0
    seeds = found.scores[(found.scores["row"] == "mixed") & (found.scores["metric"] == BSS)]
    assert dict(zip(seeds["seed"], seeds["value"].round(9), strict=True)) == {"": 0.5, "0": 1.0, "1": 0.0}
    by_basin = judge.by_basin(100).set_index(["basin", "row", "metric"])
    for basin in ("NA", "SI"):
        assert by_basin.loc[(basin, "seer", BSS), "value"] == pytest.approx(1)
        assert by_basin.loc[(basin, "constant", BSS), "value"] == pytest.approx(0, abs=1e-12)
    calls = found.tables["contingency"]
    seen = calls[(calls["row"] == "seer") & (calls["basin"] == "all")]
    assert (seen["misses"] == 0).all()
    assert seen["hits"].unique() == event[problem.inside("test")].sum()
    assert len(found.tables["reliability"].query("row == 'seer'")) == 2


# ---- the whole task --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_few_trees")
def test_the_task_without_fields_writes_its_folder(csv: str, tmp_path: Path) -> None:
    folder = run(config(csv, tmp_path / "out", tree_seeds=2, fractions=[0.2, 1.0], label_draws=2), "typed")
    names = {file.name for file in folder.iterdir()}
    assert {"scores.csv", "differences.csv", "by_basin.csv", "base_rates.csv", "contingency.csv", "murphy.csv",
            "reliability.csv", "brier_skill.png", "reliability.png", "brier_skill_by_basin.png", "report.html",
            "label_draws.csv", "label_fractions.csv", "label_differences.csv", "skill_by_label_fraction.png",
            "table.txt", "result.json"} <= names  # fmt: skip
    curve = pd.read_csv(folder / "label_fractions.csv")
    assert curve[["row", "asked"]].to_numpy().tolist() == [[TRACK, 0.2], [TRACK, 1.0]]
    scores = pd.read_csv(folder / "scores.csv", dtype={"seed": str}, keep_default_na=False)
    rows = list(dict.fromkeys(scores["row"]))
    assert set(rows) == {CLIMATOLOGY, DAY_CALL, HALF_DAY_CALL, "logistic, ΔV12", TABLE, SEASONAL, TRACK, BOOSTED,
                         f"{TRACK}, isotonic", f"{TRACK}, Platt", f"{BOOSTED}, isotonic", f"{BOOSTED}, Platt",
                         BALANCED}  # fmt: skip
    value = scores[scores["seed"] == ""].set_index(["row", "metric"])["value"].astype(float)
    # the past tells of the hidden gain
    assert value[TRACK, BSS] > 0.25
    assert value["logistic, ΔV12", AUC] > 0.75
    assert value[DAY_CALL, PSS] > 0.2
    assert (DAY_CALL, BSS) not in value.index
    record = json.loads((folder / "result.json").read_text())
    assert record["synthetic"] is False
    assert record["split_proof"]["storms_in_two_blocks"] == 0
    assert any("No SST was given" in note for note in record["notes"])
    assert "whole training seasons drawn at random" in record["convention"]
    assert (folder / "table.txt").read_text().startswith("Rapid intensification within 24 h: ")


@pytest.mark.usefixtures("_few_trees")
def test_features_that_know_more_win_and_noise_does_not(csv: str, samples: pd.DataFrame, tmp_path: Path) -> None:
    wanted = config(csv, tmp_path / "out")
    assert len(Material.of(wanted).samples) == len(samples)
    found = features(samples, storms())
    gap = samples.index[(samples["season"] == 2010) & (samples["basin"] == "SI")]
    found[0].values[gap[:7]] = np.nan
    summary = summarise(wanted, found)
    d = summary.differences.set_index(["row", "reference", "metric"])
    assert d.loc[("pretrained encoder + track", TRACK, BSS), "verdict"] == "better"
    assert d.loc[("pretrained encoder", "untrained encoder", BSS), "verdict"] == "better"
    assert d.loc[("untrained encoder + track", TRACK, BSS), "verdict"] != "better"
    assert d.loc[("untrained encoder", TRACK, AUC), "verdict"] == "worse"
    assert any(note.startswith("7 samples lie outside the fields") for note in summary.notes)
    assert summary.record["n"]["modelled"] == len(samples) - 7
    n = summary.tables["contingency"].query("basin == 'all'")
    counts = n[["hits", "misses", "false_alarms", "correct_negatives"]].sum(axis=1)
    assert counts.unique().tolist() == [(samples["season"] >= 2009).sum() - 7]


@pytest.mark.usefixtures("_few_trees")
def test_with_fields_no_row_beats_what_the_planet_itself_knows(tmp_path: Path) -> None:
    splits = SplitsConfig(("2000-01", "2000-12"), ("2001-01-15", "2001-06-20"), ("2001-07-05", "2001-12"), 14)
    options = {"years": 2, "start": "2000-01-01", "step": "6-hourly", "storms": 60, "shape": [12, 24],
               "variables": ["sst", "u850", "v850"]}  # fmt: skip
    statistics = StatisticsConfig(climatology="month", scale="variable")
    store = prepare(PrepareConfig("planet", str(tmp_path / "store"), splits, options, statistics))
    wanted = RapidIntensificationConfig(
        out=str(tmp_path / "out"), tracks="planet", store=str(store), thresholds_kt=[20.0], tree_seeds=1, members=50,
        draws=100, fractions=[], scratch_seeds=1, finetune=FinetuneConfig(steps=20, check_every=10, warmup_steps=2),
        fields=FieldsConfig(CropConfig(20.0), ["last"], [1], [5], 1, EncoderConfig("nano", 2, (1, 2, 2))),
    )  # fmt: skip
    summary = summarise(wanted)
    value = summary.scores.query("seed == '' and metric == 'BSS'").set_index("row")["value"]
    assert {
        SCRATCH,
        "untrained encoder",
        "untrained encoder + track",
        "PCA of the crop + track",
        f"{TRACK} + SST 2000",
    } <= set(value.index)
    assert value.idxmax() == KNOWN == "upper bound (hidden state, future track and air known)"
    assert "The upper bound, of the planet's storms only: " in CONVENTION
    assert np.isfinite(value).all()
    assert summary.record["synthetic"]
    assert "synthetic planet" in summary.title
    assert summary.record["split"] == Store(store).splits.to_json()
    assert [one["kind"] for one in summary.record["fields"]["encoders"]] == ["untrained"]
    with pytest.raises(EarthSSLError, match="samples in the train block, got none"):
        summarise(replace(wanted, tracks=str(_elsewhere(tmp_path))))


def _elsewhere(folder: Path) -> Path:
    """Storms of years that the store does not hold."""
    file = folder / "elsewhere.csv"
    storms().drop(columns="hidden").assign(time=lambda t: t["time"] + pd.Timedelta(days=9000)).to_csv(file, index=False)
    return file


@pytest.mark.usefixtures("_few_trees")
def test_few_samples_of_a_basin_are_left_out_and_said(tmp_path: Path) -> None:
    tracks = storms().drop(columns="hidden")
    strange = tracks["storm"].isin(tracks["storm"].unique()[:2])
    tracks.loc[strange, "basin"] = "SA"
    file = tmp_path / "storms.csv"
    tracks.to_csv(file, index=False)
    summary = summarise(config(str(file), tmp_path / "out"))
    assert summary.record["n"]["basins"] == ["NA", "SI"]
    assert any(" of SA: left out, fewer than 50 to train on" in note for note in summary.notes)
    assert "SA" in set(summary.tables["base_rates"]["group"])


def test_an_impossible_threshold_is_refused_before_anything_is_fitted(
    csv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(*arguments: Any) -> list[Forecast]:
        raise AssertionError("fitted before all thresholds were looked at")

    monkeypatch.setattr(module, "baselines", fitted)
    with pytest.raises(EarthSSLError, match="a change ≥ 500 kt in train"):
        summarise(config(csv, tmp_path / "out", thresholds_kt=[THRESHOLD, 500.0]))
    with pytest.raises(AssertionError, match="fitted before"):
        summarise(config(csv, tmp_path / "out", thresholds_kt=[THRESHOLD]))


@pytest.mark.parametrize(
    ("file", "blocks", "years"),
    [
        ((1990, 2011), {}, (2000, 2005)),  # those of training
        ((2004, 2011), {}, (2004, 2008)),  # two of training only: all before the test seasons
        ((2005, 2011), {}, (2005, 2008)),
        ((2006, 2011), {}, None),  # three
        ((2010, 2011), {}, None),
        ((2004, 2011), {"test": (2010, 2011), "val": (2006, 2009)}, (2004, 2009)),
    ],
)
def test_the_climatology_chosen_here_knows_no_year_of_the_test_block(
    file: tuple[int, int], blocks: dict[str, tuple[int, int]], years: tuple[int, int] | None, csv: str
) -> None:
    wanted = replace(config(csv, Path("out")), **blocks)
    if years is not None:
        assert module._years(file, wanted, Material.of(wanted)) == years
        return
    with pytest.raises(
        EarthSSLError, match=f"4 years or more before the test block's first, 2009, got a file of {file[0]}"
    ):
        module._years(file, wanted, Material.of(wanted))


def test_the_southern_spring_counts_to_the_test_block(csv: str, tmp_path: Path) -> None:
    """A season that begins in the July before the test block's first year."""
    tracks = pd.read_csv(csv, keep_default_na=False, parse_dates=["time"])
    spring = (tracks["basin"] == "SI") & (tracks["season"] == 2009)
    tracks.loc[spring, "time"] -= pd.Timedelta(days=90)
    file = tmp_path / "spring.csv"
    tracks.to_csv(file, index=False)
    wanted = config(str(file), tmp_path / "out")
    assert module._years((2004, 2011), wanted, Material.of(wanted)) == (2004, 2007)


def test_years_of_no_sst_are_refused(csv: str, tmp_path: Path) -> None:
    with pytest.raises(
        EarthSSLError, match=r"sst_years: expected a file of SST to take \[\(2000, 2005\)\] from, got none"
    ):
        summarise(config(csv, tmp_path / "out", sst_years=[(2000, 2005)]))


def test_mistakes_are_said(csv: str, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"test": (1990, 1999), "val": (1985, 1989), "train": (1980, 1984)}, "samples in the train block, got none"),
        ({"thresholds_kt": [500.0]}, "with and without a change ≥ 500 kt in train, got 0 among"),
    ]
    for change, said in cases:
        with pytest.raises(EarthSSLError, match=said):
            summarise(replace(config(csv, tmp_path / "out"), **change))
    with pytest.raises(EarthSSLError, match=r"expected features of \d+ samples, got shape"):
        summarise(config(csv, tmp_path / "out"), [SampleFeatures("encoder", 0, np.zeros((3, 2)), "pretrained")])
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "file").touch()
    with pytest.raises(EarthSSLError, match="filled"):
        run(config(csv, tmp_path / "filled"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "enso"}, "expected rapid_intensification, got 'enso'"),
        ({"thresholds_kt": []}, "different changes above 0"),
        ({"val": (2001, 2004)}, "train before those of val"),
        ({"checkpoints": ["x"]}, "checkpoints need a 6-hourly store"),
        ({"tracks": "planet"}, "planet needs a 6-hourly store"),
        ({"sst_years": [(2014, 2010)]}, "sst_years"),
        ({"draws": 10}, "draws ≥ 100,"),
        ({"fractions": [0.0]}, r"fractions in \(0, 1\]"),
        ({"label_unit": "sample"}, "label_unit season or storm"),
        ({"scratch_seeds": -1}, "scratch_seeds, finetune_seeds ≥ 0"),
    ],
)
def test_bad_configs_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        RapidIntensificationConfig(out="x", **change)
