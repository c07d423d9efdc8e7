"""Rapid intensification: the whole task, with fields and without, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import earthssl.downstream.tasks.rapid_intensification.material as material
import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.run import run, summarise
from earthssl.downstream.results.row import Role
from earthssl.downstream.results.scores import tables
from earthssl.downstream.storms.crops import CropConfig
from earthssl.downstream.tasks.rapid_intensification.config import FieldsConfig, RapidIntensificationConfig
from earthssl.downstream.tasks.rapid_intensification.material import Material, modelled
from earthssl.downstream.tasks.rapid_intensification.models import (
    BALANCED,
    BOOSTED,
    CLIMATOLOGY,
    DAY_CALL,
    HALF_DAY_CALL,
    SCRATCH,
    SEASONAL,
    TABLE,
    TRACK,
)
from earthssl.downstream.tasks.rapid_intensification.samples import base_rates
from earthssl.downstream.tasks.rapid_intensification.scores import AUC, BSS, PSS
from earthssl.downstream.tasks.rapid_intensification.task import CONVENTION, KNOWN, RapidIntensification
from earthssl.downstream.training.fine_tuning import FinetuneConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

Make = Callable[..., RapidIntensificationConfig]


def task(config: RapidIntensificationConfig) -> RapidIntensification:
    return RapidIntensification(config, Store(config.store) if config.store else None)


@pytest.mark.usefixtures("_few_trees")
def test_the_task_without_fields_writes_its_folder(config: Make, tmp_path: Path) -> None:
    folder = run(task(config(tmp_path / "out", tree_seeds=2, fractions=[0.2, 1.0], label_draws=2)), "typed")
    names = {file.name for file in folder.iterdir()}
    assert {"scores.csv", "differences.csv", "by_basin.csv", "base_rates.csv", "contingency.csv", "murphy.csv",
            "reliability.csv", "scores.png", "reliability.png", "brier_skill_by_basin.png", "report.html",
            "label_curve_draws.csv", "label_curve.csv", "label_curve.png", "table.txt",
            "result.json"} <= names  # fmt: skip
    curve = pd.read_csv(folder / "label_curve.csv")
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


def test_features_that_know_more_win_and_noise_does_not(
    config: Make, samples: pd.DataFrame, tracks: pd.DataFrame, tmp_path: Path
) -> None:
    """Two seeds of features that hold the hidden gain, one variant of which is noise, and features of noise only."""
    one = task(config(tmp_path / "out"))
    hidden = samples[["storm"]].merge(tracks.drop_duplicates("storm")[["storm", "hidden"]], "left")["hidden"].to_numpy()
    noise = np.random.default_rng(6).standard_normal((3, len(samples), 4))
    good = np.column_stack([hidden, noise[0]])
    none = np.empty((len(samples), 0))
    rows = [
        *one.both("pretrained", Role.PRETRAINED, {"layer 1": noise[1], "layer 2": good}, 0),
        *one.both("pretrained", Role.PRETRAINED, {"layer 2": good + 0.1}, 1),
        *one.both("untrained", Role.UNTRAINED, {"layer 1": noise[2]}, 0),
        one.fitted(TRACK, Role.BASELINE, {"none": none}),
    ]
    assert [row.chosen["15 kt"]["variant"] for row in rows[:2]] == ["layer 2", "layer 2"]
    assert [list(row.features) for row in rows[:2]] == [[], ["layer 2"]]  # the curve over labels takes no other
    d = tables(one.targets(), rows, draws=100)[1].set_index(["row", "reference", "metric"])
    assert d.loc[("pretrained [logistic + track]", TRACK, BSS), "verdict"] == "better"
    assert d.loc[("pretrained [logistic]", "untrained [logistic]", BSS), "verdict"] == "better"
    assert d.loc[("untrained [logistic + track]", TRACK, BSS), "verdict"] != "better"
    assert d.loc[("untrained [logistic]", TRACK, AUC), "verdict"] == "worse"


def test_samples_without_fields_are_left_out_of_every_row(config: Make, samples: pd.DataFrame, tmp_path: Path) -> None:
    found = Material.of(config(tmp_path / "out"), None)
    assert len(found.samples) == len(samples)
    shown = np.ones(len(samples), bool)
    shown[samples.index[(samples["season"] == 2010) & (samples["basin"] == "SI")][:7]] = False
    kept, basins, notes = modelled(found, shown)
    assert kept.sum() == len(samples) - 7
    assert basins == ["NA", "SI"]
    assert notes[0].startswith("7 samples lie outside the fields")


@pytest.mark.parametrize("unit", ["season", "storm"])
def test_few_labels_are_those_of_whole_units_and_no_other(config: Make, tmp_path: Path, unit: str) -> None:
    """Within a share no label of the other units is read; all units give the row itself, one class Laplace's rule."""
    one = task(config(tmp_path / "out", label_unit=unit))
    main, units = one.main, one.label_units()
    none = {"none": np.empty((len(main.event), 0))}
    row = one.fitted(TRACK, Role.BASELINE, none)
    np.testing.assert_array_equal(one.refitted(replace(row, features=none), units).forecast["15 kt"],
                                  row.forecast["15 kt"])  # fmt: skip
    drawn = units[: len(units) // 2]
    few = one.fitted(TRACK, Role.BASELINE, none, units=drawn).forecast["15 kt"]
    outside = main.inside("train") & ~main.samples[unit].isin(drawn).to_numpy()
    assert 0 < outside.sum() < main.inside("train").sum()
    change = np.where(outside, -main.samples["change_kt"], main.samples["change_kt"])
    one.problems = [replace(main, samples=main.samples.assign(change_kt=change))]
    np.testing.assert_array_equal(one.fitted(TRACK, Role.BASELINE, none, units=drawn).forecast["15 kt"], few)
    assert (one.fitted(TRACK, Role.BASELINE, none).forecast["15 kt"] != row.forecast["15 kt"]).any()
    calm = np.where(main.samples[unit] == units[0], 0.0, main.samples["change_kt"])
    one.problems = [replace(main, samples=main.samples.assign(change_kt=calm))]
    count = int((main.inside("train") & (main.samples[unit] == units[0]).to_numpy()).sum())
    constant = one.fitted(TRACK, Role.BASELINE, none, units=units[:1]).forecast["15 kt"]
    np.testing.assert_allclose(constant, 1 / (count + 2))


@pytest.mark.usefixtures("_few_trees")
def test_with_fields_no_row_beats_what_the_planet_itself_knows(tracks: pd.DataFrame, tmp_path: Path) -> None:
    splits = SplitsConfig(("2000-01", "2000-12"), ("2001-01-15", "2001-06-20"), ("2001-07-05", "2001-12"), 14)
    options = {"years": 2, "start": "2000-01-01", "step": "6-hourly", "storms": 60, "shape": [12, 24],
               "variables": ["sst", "u850", "v850"]}  # fmt: skip
    statistics = StatisticsConfig(climatology="month", scale="variable")
    store = prepare(PrepareConfig("planet", str(tmp_path / "store"), splits, options, statistics))
    wanted = RapidIntensificationConfig(
        out=str(tmp_path / "out"), tracks="planet", store=str(store), thresholds_kt=[20.0], tree_seeds=1, members=50,
        fractions=[0.5], label_draws=1, label_unit="storm", scratch=ScratchConfig(1, steps=20, check_every=10),
        finetune=FinetuneConfig(warmup_steps=2), fields=FieldsConfig(CropConfig(20.0), ["last"], [5]), layers=[1],
        untrained_seeds=1, random_seeds=1, encoder=EncoderConfig("nano", 2, (1, 2, 2)),
    )  # fmt: skip
    summary = summarise(task(wanted))
    value = summary.scores.query("seed == '' and metric == 'BSS'").set_index("row")["value"]
    assert {
        SCRATCH, "untrained [logistic]", "untrained [logistic + track]", "PCA of the crop [logistic + track]",
        "raw window [logistic + track]", "random features of the raw window [logistic + track]",
        "PCA of the window [logistic + track]", f"{TRACK} + SST 2000",
    } <= set(value.index)  # fmt: skip
    assert set(summary.tables["label_curve"]["row"]) == {
        TRACK, SCRATCH, "untrained [logistic + track]", "raw window [logistic + track]",
        "PCA of the crop [logistic + track]",
    }  # fmt: skip
    assert value.idxmax() == KNOWN == "upper bound (hidden state, future track and air known)"
    assert "The upper bound, of the planet's storms only: " in CONVENTION
    assert np.isfinite(value).all()
    assert summary.record["synthetic"]
    assert "synthetic planet" in summary.title
    assert summary.record["split"] == Store(store).splits.to_json()
    assert [one["kind"] for one in summary.record["encoders"]] == ["untrained"]
    with pytest.raises(EarthSSLError, match="samples in the train block, got none"):
        task(replace(wanted, tracks=str(_elsewhere(tmp_path, tracks))))


def _elsewhere(folder: Path, tracks: pd.DataFrame) -> Path:
    """Storms of years that the store does not hold."""
    file = folder / "elsewhere.csv"
    tracks.drop(columns="hidden").assign(time=lambda t: t["time"] + pd.Timedelta(days=9000)).to_csv(file, index=False)
    return file


def test_few_samples_of_a_basin_are_left_out_and_said(config: Make, tracks: pd.DataFrame, tmp_path: Path) -> None:
    tracks = tracks.drop(columns="hidden")
    strange = tracks["storm"].isin(tracks["storm"].unique()[:2])
    tracks.loc[strange, "basin"] = "SA"
    file = tmp_path / "storms.csv"
    tracks.to_csv(file, index=False)
    one = task(config(tmp_path / "out", tracks=str(file)))
    assert one.samples()["basins"] == ["NA", "SI"]
    assert any(" of SA: left out, fewer than 50 to train on" in note for note in one.notes)
    rates = base_rates(one.material.samples, one.material.part, [15.0])
    assert "SA" in set(rates["group"])


def test_an_impossible_threshold_is_refused_before_anything_is_fitted(config: Make, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match="a change ≥ 500 kt in train"):
        task(config(tmp_path / "out", thresholds_kt=[15.0, 500.0]))


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
    file: tuple[int, int], blocks: dict[str, tuple[int, int]], years: tuple[int, int] | None, config: Make
) -> None:
    wanted = replace(config(Path("out")), **blocks)
    if years is not None:
        assert material.sst_years(file, wanted, Material.of(wanted, None)) == years
        return
    with pytest.raises(
        EarthSSLError, match=f"4 years or more before the test block's first, 2009, got a file of {file[0]}"
    ):
        material.sst_years(file, wanted, Material.of(wanted, None))


def test_the_southern_spring_counts_to_the_test_block(config: Make, csv: str, tmp_path: Path) -> None:
    """A season that begins in the July before the test block's first year."""
    tracks = pd.read_csv(csv, keep_default_na=False, parse_dates=["time"])
    spring = (tracks["basin"] == "SI") & (tracks["season"] == 2009)
    tracks.loc[spring, "time"] -= pd.Timedelta(days=90)
    file = tmp_path / "spring.csv"
    tracks.to_csv(file, index=False)
    wanted = config(tmp_path / "out", tracks=str(file))
    assert material.sst_years((2004, 2011), wanted, Material.of(wanted, None)) == (2004, 2007)


def test_mistakes_are_said(config: Make, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"test": (1990, 1999), "val": (1985, 1989), "train": (1980, 1984)}, "samples in the train block, got none"),
        ({"thresholds_kt": [500.0]}, "with and without a change ≥ 500 kt in train, got 0 among"),
        ({"sst_years": [(2000, 2005)]}, r"sst_years: expected a file of SST to take \[\(2000, 2005\)\] from, got none"),
    ]
    for change, said in cases:
        with pytest.raises(EarthSSLError, match=said):
            task(replace(config(tmp_path / "out"), **change))
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "file").touch()
    with pytest.raises(EarthSSLError, match="filled"):
        run(task(config(tmp_path / "filled")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "enso"}, "expected rapid_intensification, got 'enso'"),
        ({"thresholds_kt": []}, "thresholds_kt > 0, at least one"),
        ({"val": (2001, 2004)}, "train before those of val"),
        ({"checkpoints": ["x"]}, "checkpoints need a 6-hourly store"),
        ({"tracks": "planet"}, "planet needs a 6-hourly store"),
        ({"sst_years": [(2014, 2010)]}, "sst_years"),
        ({"draws": 10}, "draws ≥ 1000"),
        ({"fractions": [0.0]}, r"fractions in \(0, 1\]"),
        ({"fractions": [2.0]}, r"fractions in \(0, 1\]"),
        ({"label_unit": "sample"}, "label_unit: expected one of season, storm"),
        ({"finetune_seeds": -1}, "finetune_seeds ≥ 0"),
    ],
)
def test_bad_configs_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        RapidIntensificationConfig(out="x", **change)
