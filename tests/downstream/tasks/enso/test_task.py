"""ENSO as a task: its targets and tables, and the same errors layer by layer for the matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.downstream.evaluation.evaluate import evaluate, references
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.features.frozen_features import candidates, extract
from earthssl.downstream.results.summary import DIFFERENCES, SCORES
from earthssl.downstream.tasks.enso.labels import MEAN
from earthssl.downstream.tasks.enso.monthly_ridge import HeadOptions, select_and_refit
from earthssl.downstream.tasks.enso.task import Enso, EnsoConfig
from earthssl.downstream.training.from_scratch import SCRATCH, ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

HEAD = HeadOptions(months=(12,))
SHAPE = EncoderConfig("nano", 3, (1, 2, 3))


@pytest.fixture(scope="module")
def task(small_store: Path) -> Enso:
    config = EnsoConfig(
        str(small_store), leads=[1, 3], window=3, poolings=["mean"], head=HEAD, encoder=SHAPE, random_seeds=1
    )
    return Enso(config, Store(small_store))


@pytest.fixture(scope="module")
def result(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EnsoConfig, Path]:
    folder = tmp_path_factory.mktemp("enso")
    config = EnsoConfig(
        str(small_store), str(folder / "out"), [str(small_run)], leads=[1, 3], poolings=["mean", "mean+pcs"],
        components=[4], layers=[2], untrained_seeds=1, random_seeds=2, head=HEAD, fractions=[0.1, 1.0], label_draws=2,
        draws=1000, scratch=ScratchConfig(2, steps=6, batch_size=16, check_every=3), cache=str(folder / "cache"),
    )  # fmt: skip
    return config, run(Enso(config, Store(small_store)), "earthssl probe")


def test_the_tables_hold_every_row_and_target(result: tuple[EnsoConfig, Path]) -> None:
    scores = pd.read_csv(result[1] / "scores.csv", keep_default_na=False)
    assert list(scores.columns) == list(SCORES)
    fixed = [f"PCA: {k} PCs × 3 months, fixed" for k in (10, 20)]
    baselines = ["climatology", "persistence", "damped persistence", "LIM", "cyclostationary LIM",
                 "cyclostationary LIM, all variables", *fixed, "PCA", "PCA, all variables"]  # fmt: skip
    equal = [f"{name} [ridge]" for name in ("raw window", "random features of the raw window", "PCA of the window",
                                            "predictable directions (CCA)")]  # fmt: skip
    frozen = [f"{kind} [{pooling}]" for kind in ("pretrained", "untrained")
              for pooling in ("mean", "mean+pcs", "chosen")]  # fmt: skip
    assert list(dict.fromkeys(scores.row)) == [*baselines, *equal, *frozen, SCRATCH]
    assert set(zip(scores.target, scores.metric, strict=True)) == {
        (MEAN, "skill"), *((f"lead {lead}", metric) for lead in (1, 3) for metric in ("skill", "rmse", "std_ratio"))
    }  # fmt: skip
    means = scores[(scores.seed == "") & (scores.metric == "skill")].set_index(["row", "target"]).value.astype(float)
    for row in (*baselines, *frozen, SCRATCH):
        assert means[row, MEAN] == pytest.approx((means[row, "lead 1"] + means[row, "lead 3"]) / 2)
    assert (scores[(scores.row == "climatology") & (scores.metric == "skill")].value.astype(float) == 0).all()


def test_only_skill_is_compared_and_never_with_the_pretrained_or_the_climatology(
    result: tuple[EnsoConfig, Path],
) -> None:
    differences = pd.read_csv(result[1] / "differences.csv")
    assert list(differences.columns) == list(DIFFERENCES)
    assert set(differences.metric) == {"skill"}
    references = set(differences.reference)
    assert not {"climatology", "pretrained [mean]", "pretrained [chosen]"} & references
    assert {"persistence", "raw window [ridge]", "untrained [chosen]", SCRATCH} <= references


def test_the_finding_speaks_of_the_pooling_that_validation_chose(result: tuple[EnsoConfig, Path]) -> None:
    said = (result[1] / "table.txt").read_text(encoding="utf-8")
    assert "pretrained [chosen] has skill" in said
    assert "(mean over leads)" in said
    assert "pretrained [mean] −" not in said
    assert len(said.splitlines()) < 60


def test_seasons_forecasts_curve_and_record_are_written(result: tuple[EnsoConfig, Path]) -> None:
    out = result[1]
    seasons = pd.read_csv(out / "seasons.csv")
    assert list(seasons.columns) == ["row", "lead", "target_month", "r"]
    scores = pd.read_csv(out / "scores.csv", keep_default_na=False)
    own = scores[(scores.row == SCRATCH) & (scores.target == "lead 3") & (scores.metric == "skill")]
    mean = seasons[(seasons.row == SCRATCH) & (seasons.lead == 3)].r.mean()
    assert float(own[own.seed == ""].value.iloc[0]) == pytest.approx(mean)
    with xr.open_dataset(out / "forecasts.nc") as kept:
        assert kept.sizes["row"] == len({(s.row, s.seed) for s in scores[scores.seed != ""].itertuples()}) + 19
        assert np.isfinite(kept.observed).sum() == 2 * 47
    curve = pd.read_csv(out / "label_curve.csv")
    assert set(curve.row) == {"pretrained [chosen]", "untrained [chosen]", "raw window [ridge]", SCRATCH}
    assert set(curve.asked) == {0.1, 1.0}
    assert {"skill_by_lead.png", "seasons.png", "scores.png", "label_curve.png", "report.html"} <= {
        file.name for file in out.iterdir()
    }
    record = read_json(out / "result.json", "result")
    assert record["test_years"] == "2007-2010"
    assert record["window"] == 3
    assert [one["kind"] for one in record["encoders"]] == ["pretrained", "untrained"]


@pytest.mark.slow
def test_the_same_config_gives_the_same_scores(result: tuple[EnsoConfig, Path], tmp_path: Path) -> None:
    config, out = result
    again = run(Enso(replace(config, out=str(tmp_path / "again"), fractions=[]), Store(config.store)))
    assert pd.read_csv(out / "scores.csv").equals(pd.read_csv(again / "scores.csv"))


def test_pca_sees_the_encoders_window_and_the_published_rows_do_not(small_store: Path) -> None:
    config = EnsoConfig(str(small_store), leads=[1], head=HEAD, encoder=replace(SHAPE, window=6))
    task = Enso(config, Store(small_store))
    assert task.enso.window == 6
    rows = {row.name: row for row in task.baselines(6)}
    assert "× 6 months" in rows["PCA"].chosen["candidate"]
    assert "PCA: 10 PCs × 3 months, fixed" in rows
    shorter = Enso(replace(config, pca_window=3), Store(small_store))
    assert "× 3 months" in next(row for row in shorter.baselines(6) if row.name == "PCA").chosen["candidate"]


def test_label_units_are_years_that_have_every_calendar_month(task: Enso) -> None:
    """Windows of 3 months from 1981-01: the first sample is March; the last target ends in 2000."""
    assert task.label_units().tolist() == list(range(1982, 2000))


def test_a_network_from_scratch_is_refitted_as_the_heads_are_and_chosen_by_their_score(task: Enso) -> None:
    """The refit takes the gap between train and validation, too; the error is the RMSE, mean over leads."""
    fit = np.flatnonzero(task.enso.samples("fit")[0])
    for label in task.labels:
        assert np.array_equal(label.refit_rows, fit)
        assert set(label.rows["train"]) < set(fit)
    truth = [task.enso.target[j, label.rows["val"]] for j, label in enumerate(task.labels)]
    error = task.validation_error()
    assert error(truth) == 0
    assert error([own - 1.0 for own in truth]) == pytest.approx(1)
    by_hand = np.mean([np.sqrt(np.mean(own**2)) for own in truth])
    assert error([0 * own for own in truth]) == pytest.approx(by_hand)


def test_errors_are_those_of_the_probes_row(task: Enso) -> None:
    """One layer, one pooling: mean squared error by lead = RMSE² of the probe's row, over the climatology's."""
    torch.manual_seed(0)
    encoder = SHAPE.build(task.store.variables)
    found = evaluate(task, encoder, [2])[2]
    raw = extract(encoder, task.store, [2], "test")
    train = task.store.splits.inside(task.store.times.astype("datetime64[ns]"), "train")
    sets = candidates(raw, len(task.store.times), train, [2], ["mean"], [4])["mean"]
    row = select_and_refit(task.enso, sets, name="x", options=HEAD)
    by_lead = [target for target in task.targets() if target.name != MEAN]
    pairs = [len(target.units) for target in by_lead]
    rmse = [target.metrics[1].statistic([row])(np.ones(n))[0] for target, n in zip(by_lead, pairs, strict=True)]
    assert len(found.error) == sum(pairs)
    climatology = [float(np.mean(target.reference_errors)) for target in by_lead]
    assert found.error.sum() == pytest.approx((np.square(rmse) / climatology) @ pairs)


def test_the_reference_is_the_squared_anomaly_by_target_year(task: Enso) -> None:
    observed = task.enso.array(task.enso.of_test(task.enso.target))
    observed = observed / np.sqrt((observed**2).mean([dim for dim in observed.dims if dim != "lead"]))
    for one in references(task).values():
        assert one.reference.sum() == pytest.approx(float((observed**2).sum()))
        assert set(one.units) == {2007, 2008, 2009, 2010}
        first = one.reference[one.units == 2008].sum()
        centre = np.array(
            [[np.datetime64(t, "M") + int(lead) for t in observed.init_time.values] for lead in observed.lead]
        )
        inside = (centre.astype("datetime64[Y]").astype(int) + 1970 == 2008) & np.isfinite(observed.values)
        assert first == pytest.approx((observed.values[inside] ** 2).sum())


def test_references_share_samples_and_persistence_is_worth_something_in_red_noise(task: Enso) -> None:
    found = references(task)
    assert {"damped persistence", "PCA", "raw window [ridge]", "random features of the raw window [ridge]"} <= set(
        found
    )
    assert "climatology" not in found
    damped, pcs = found["damped persistence"], found["PCA"]
    assert np.array_equal(damped.units, pcs.units)
    assert np.array_equal(damped.reference, pcs.reference)
    assert 0 < damped.skill() < 1


def test_each_layer_is_scored_alone(task: Enso) -> None:
    torch.manual_seed(0)
    encoder = SHAPE.build(task.store.variables)
    both, last = evaluate(task, encoder, [0, 2]), evaluate(task, encoder, [2])
    assert list(both) == [0, 2]
    assert np.array_equal(both[2].error, last[2].error)
    assert not np.array_equal(both[0].error, both[2].error)


def test_poolings_stand_beside_each_other(task: Enso) -> None:
    """Mean and token PCs alone beside what validation chose of all: each as a task that has it alone scores it."""
    torch.manual_seed(0)
    encoder = SHAPE.build(task.store.variables)
    more = Enso(replace(task.config, poolings=["mean", "pcs", "mean+pcs"]), task.store)
    found = evaluate(more, encoder, [0, 2])
    assert list(found) == [0, 2, "0, mean", "0, token PCs", "2, mean", "2, token PCs"]
    for pooling, words in (("mean", "mean"), ("pcs", "token PCs")):
        alone = evaluate(Enso(replace(task.config, poolings=[pooling]), task.store), encoder, [2])
        assert list(alone) == [2]
        assert np.array_equal(found[f"2, {words}"].error, alone[2].error)
    assert not np.array_equal(found["2, mean"].error, found["2, token PCs"].error)


def test_a_longer_window_than_declared_is_refused(task: Enso) -> None:
    encoder = EncoderConfig("nano", 6, (1, 2, 3)).build(task.store.variables)
    with pytest.raises(EarthSSLError, match="a window of at most 3 months, got 6"):
        evaluate(task, encoder, [0])


def test_mistakes_are_said(small_data: Any, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match="Did you mean 'mean'"):
        EnsoConfig("s", "o", poolings=["meen"])
    with pytest.raises(EarthSSLError, match="draws ≥ 1000"):
        EnsoConfig("s", "o", draws=10)
    small_data[["u10"]].to_netcdf(tmp_path / "wind.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "wind.nc"), "variables": ["u10"]}
    store = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options))
    with pytest.raises(EarthSSLError, match="expected the variable sst or ssta"):
        Enso(EnsoConfig(str(store), leads=[3], window=3), Store(store))


def test_encoders_of_a_shifted_grid_are_taken_where_it_is_said(
    small_data: Any, small_run: Path, tmp_path: Path
) -> None:
    small_data.assign_coords(lon=small_data.lon + 1.0).to_netcdf(tmp_path / "shifted.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "shifted.nc"), "variables": ["sst", "u10", "v10"]}
    folder = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options))
    config = EnsoConfig(
        str(folder),
        checkpoints=[str(small_run)],
        leads=[1],
        poolings=["mean"],
        untrained_seeds=0,
        other_statistics=True,
    )
    with pytest.raises(EarthSSLError, match="grid: expected"):
        Enso(config, Store(folder)).encoders()
    task = Enso(replace(config, other_grid=True), Store(folder))
    (encoder,) = task.encoders()
    assert [values.shape[0] for values in task.embedded(encoder, [2])["mean"].values()] == [len(task.enso.time)]
