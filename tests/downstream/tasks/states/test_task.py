"""Task 4: labels by hand, blocks that do not touch, the trivial solution, and the tables."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.summary import SCORES
from earthssl.downstream.heads.linear import LogisticHead
from earthssl.downstream.tasks.enso.state_labels import STATES, StateLabels
from earthssl.downstream.tasks.states.frozen import StatesTask
from earthssl.downstream.tasks.states.network import _targets, scratch_rows
from earthssl.downstream.tasks.states.rows import INDEX, classify, index_row, with_season
from earthssl.downstream.tasks.states.task import StatesConfig, _uncertainty, run
from earthssl.downstream.training.from_scratch import SCRATCH, ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

SHAPE = EncoderConfig("nano", 3, (1, 2, 3))


@pytest.fixture(scope="module")
def labels(small_store: Path) -> StateLabels:
    return StateLabels.from_store(Store(small_store), [0, 2], window=3)


def test_classes_by_hand(labels: StateLabels, small_data: Any) -> None:
    """Two cells on the equator at 210 and 240 °E; training climatology; three months up to the last."""
    sst = small_data["sst"].sel(lat=0, lon=[210, 240], method="nearest").mean("lon").to_series()
    climatology = sst["1981":"2000"].groupby(lambda t: t.month).mean()
    anomaly = sst - climatology.loc[sst.index.month].to_numpy()
    season = anomaly.rolling(3).mean().to_numpy()
    assert labels.season == pytest.approx(season, abs=1e-3, nan_ok=True)
    expected = np.where(season >= 0.5, 2, np.where(season <= -0.5, 0, 1))
    clear = np.abs(np.abs(season) - 0.5) > 1e-3
    assert np.array_equal(labels.classes[clear], expected[clear])
    assert (labels.classes[:2] == -1).all()


@pytest.mark.parametrize("lead", [0, 2])
def test_no_block_reaches_into_another(labels: StateLabels, lead: int) -> None:
    """Months that a sample touches, inputs and season, month by month."""
    year = labels.enso.time.astype("datetime64[Y]").astype(int) + 1970
    touched = {}
    for block, first, last in (("train", 1981, 2000), ("val", 2002, 2005), ("test", 2007, 2010)):
        rows = labels.rows(block, lead)
        season = np.unique(rows[:, None] + lead - np.arange(3))
        inputs = np.unique(rows[:, None] - np.arange(labels.window))
        assert year[season].min() >= first
        assert year[season].max() <= last
        touched[block] = set(season) | set(inputs)
    assert not touched["train"] & touched["val"]
    assert not (touched["train"] | touched["val"]) & touched["test"]


def test_every_lead_is_scored_on_each_season_of_the_test_block(labels: StateLabels) -> None:
    for lead in labels.leads:
        months = labels.enso.time[labels.rows("test", lead) + lead]
        assert str(months[0]) == "2007-03"
        assert str(months[-1]) == "2010-12"
        assert len(months) == 46


def test_labels_of_training_do_not_know_later_years(small_store: Path, labels: StateLabels) -> None:
    class Warmer(Store):
        def dataset(self, variables: Any = None) -> Any:
            data = super().dataset(variables)
            return data.where(data["time"].dt.year < 2001, data + 3)

    other = StateLabels.from_store(Warmer(small_store), [0, 2], window=3)
    rows = labels.rows("train", 0)
    assert np.array_equal(other.classes[rows], labels.classes[rows])
    assert not np.array_equal(other.classes[labels.rows("test", 0)], labels.classes[labels.rows("test", 0)])


def test_persistence_by_hand(labels: StateLabels) -> None:
    """Lead 2: the class of the last season in the inputs; lead 0: of the three months before the target's."""
    for lead, back in ((0, 3), (2, 2)):
        rows = labels.rows("test", lead)
        found = labels.baselines(lead)["persistence"]
        assert np.array_equal(found.argmax(1), labels.classes[rows + lead - back])
        assert np.array_equal(np.sort(found, axis=1), np.tile([0.0, 0, 1], (len(rows), 1)))


def test_climatology_is_by_season_from_train_and_validation(labels: StateLabels) -> None:
    rows = labels.rows("test", 0)
    fit = np.concatenate([labels.rows("train", 0), labels.rows("val", 0)])
    month = labels.enso.month
    same = fit[month[fit] == month[rows[5]]]
    counts = np.bincount(labels.classes[same], minlength=3)
    assert labels.baselines(0)["climatology"][5] == pytest.approx((counts + 1) / (len(same) + 3))


def test_the_index_solves_lead_0(labels: StateLabels) -> None:
    rows = labels.rows("test", 0)
    right = index_row(labels, 0).probabilities.argmax(1) == labels.target(rows, 0)
    assert right.mean() > 0.9
    later = index_row(labels, 2).probabilities.argmax(1) == labels.target(labels.rows("test", 2), 2)
    assert later.mean() < right.mean()


def test_no_row_knows_the_test_labels(labels: StateLabels) -> None:
    test = np.isin(np.arange(len(labels.classes)), labels.rows("test", 0))
    other = replace(labels, classes=np.where(test, (labels.classes + 1) % 3, labels.classes))
    features = with_season(labels, {"index": labels.index_features()})
    first, second = (classify(one, LogisticHead(), features, 0, "", None) for one in (labels, other))
    assert np.array_equal(first.probabilities, second.probabilities)


def test_mistakes_are_said(small_store: Path) -> None:
    store = Store(small_store)
    with pytest.raises(EarthSSLError, match=r"at least two classes in training at lead 0, got only neutral"):
        StateLabels.from_store(store, [0], 3, threshold=50)
    with pytest.raises(EarthSSLError, match="leads ≥ 0 months and a threshold > 0"):
        StateLabels.from_store(store, [-1], 3)
    with pytest.raises(EarthSSLError, match="move a block, or shorten the window or the longest lead"):
        StateLabels.from_store(store, [0], 36)
    with pytest.raises(EarthSSLError, match="a window of at most 3 months, got 6"):
        StatesTask(store, window=3).evaluate(EncoderConfig("nano", 6, (1, 2, 3)).build(store.variables), [0])
    with pytest.raises(EarthSSLError, match="Did you mean 'logistic'"):
        StatesConfig("s", "o", heads=["logstic"])
    with pytest.raises(EarthSSLError, match="Did you mean 'mean'"):
        StatesConfig("s", "o", poolings=["meen"])
    with pytest.raises(EarthSSLError, match="draws ≥ 1000"):
        StatesConfig("s", "o", draws=10)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("components", []), ("pca_components", []), ("layers", []), ("steps", []), ("untrained_seeds", -1),
     ("shots", [0, 2]), ("shots", []), ("fractions", [0.0, 1.0]), ("fractions", [1.5])],
)  # fmt: skip
def test_bad_settings_are_refused_before_any_work(name: str, wrong: Any) -> None:
    with pytest.raises(EarthSSLError, match=name):
        StatesConfig("s", "o", **{name: wrong})


def test_a_lead_of_too_few_validation_years_is_left_out_and_no_other(labels: StateLabels) -> None:
    """At lead 0 the validation months are told apart into nine years and more; at lead 2 into their own four."""

    @dataclass(frozen=True, eq=False)
    class Years(StateLabels):
        def years(self, rows: np.ndarray, lead: int) -> np.ndarray:
            apart = np.isin(rows, self.rows("val", 0)) * (rows % 9 if lead == 0 else 0)
            return super().years(rows, lead) * 100 + apart

    own = Years(**{one.name: getattr(labels, one.name) for one in fields(labels)})
    features = with_season(own, {"index": own.index_features()})
    rows = {lead: [classify(own, LogisticHead(), features, lead, "PCA [logistic]", None)] for lead in own.leads}
    config = StatesConfig("s", "o", draws=1000)
    assert set(_uncertainty(config, own, rows)["lead"]) == {0}
    assert _uncertainty(config, own, {2: rows[2]}).empty
    assert _uncertainty(config, labels, rows).empty


def test_the_frozen_task_scores_layers_and_references_alike(small_store: Path) -> None:
    import torch

    store = Store(small_store)
    task = StatesTask(store, leads=[0, 2], window=3, poolings=["mean"])
    torch.manual_seed(0)
    found = task.evaluate(SHAPE.build(store.variables), [0, 2])
    references = task.references()
    assert list(found) == [0, 2]
    assert set(references) == {"damped persistence", INDEX, "20 PCs × 3 months", "PCA, all variables"}
    assert not np.array_equal(references["PCA, all variables"].error, references["20 PCs × 3 months"].error)
    for one in (*found.values(), *references.values()):
        assert np.array_equal(one.units, found[0].units)
        assert np.array_equal(one.reference, found[0].reference)
        assert len(one.by_unit().units) == 4
    alone = StatesTask(store, leads=[0], window=3).references()[INDEX]
    assert alone.skill() > 0.8
    assert references[INDEX].skill() < alone.skill()


@pytest.fixture(scope="module")
def result(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StatesConfig, Path]:
    folder = tmp_path_factory.mktemp("states")
    config = StatesConfig(
        str(small_store), str(folder / "out"), [str(small_run)], leads=[0, 2], window=3, draws=1000,
        heads=["logistic", "kNN", "attentive"], steps=[5, 10], poolings=["mean"], layers=[2], untrained_seeds=1,
        pca_components=[5], fractions=[0.1, 1.0], shots=[1, 2], label_draws=1, cache=str(folder / "cache"),
        scratch=ScratchConfig(2, steps=6, batch_size=16, check_every=3),
    )  # fmt: skip
    return config, run(config, "earthssl probe")


def test_the_tables_hold_every_row_metric_and_lead(result: tuple[StatesConfig, Path]) -> None:
    scores = pd.read_csv(result[1] / "scores.csv", keep_default_na=False)
    assert list(scores.columns) == list(SCORES)
    baselines = ["climatology", "majority", "persistence", "damped persistence", INDEX, "PCA [logistic]",
                 "PCA, all variables [logistic]", "PCA [kNN]"]  # fmt: skip
    encoders = [f"{kind} [{head}]" for kind in ("pretrained", "untrained") for head in result[0].heads]
    assert set(scores.row) == {*baselines, *encoders, SCRATCH}
    assert len(scores) == (len({*baselines, *encoders}) + 3) * 4 * 2  # two seeds and their mean
    clim = scores[(scores.row == "climatology") & (scores.metric == "brier_skill")]
    assert clim.value.astype(float).tolist() == [0, 0]
    differences = pd.read_csv(result[1] / "differences.csv")
    assert set(differences.verdict) <= {"better", "worse", "undecided"}
    assert not {"majority", "pretrained [logistic]"} & set(differences.reference)
    beside = differences[(differences.row == "pretrained [logistic]") & (differences.reference == SCRATCH)]
    assert set(zip(beside.target, beside.metric, strict=True)) == {
        (f"lead {lead}", metric)
        for lead in (0, 2) for metric in ("brier_skill", "accuracy", "balanced_accuracy", "log_loss")
    }  # fmt: skip


def test_curves_confusions_and_record_are_written(result: tuple[StatesConfig, Path]) -> None:
    out = result[1]
    curve = pd.read_csv(out / "label_fractions.csv")
    assert set(curve.used) == {0.1, 1.0}
    assert len(curve) == 2 * 5 * 2  # leads × logistic rows × fractions
    assert set(pd.read_csv(out / "few_shot.csv").labels) == {3, 6}
    names = {file.name for file in out.iterdir()}
    assert {"report.html", "confusion_lead_0.png", "skill_by_label_fraction.png", "few_shot.csv"} <= names
    record = read_json(out / "result.json", "result")
    assert sum(record["samples"]["lead 0"]["test"]) == 46
    assert [one["kind"] for one in record["encoders"]] == ["pretrained", "untrained"]
    said = (out / "table.txt").read_text(encoding="utf-8")
    for note in ("trivial solution", "No uncertainty at leads [0, 2]"):
        assert note in said
    assert "No network is trained from scratch" not in said
    assert not (out / "uncertainty.csv").exists()


@pytest.mark.slow
def test_the_same_config_gives_the_same_scores(result: tuple[StatesConfig, Path], tmp_path: Path) -> None:
    config, out = result
    again = run(replace(config, out=str(tmp_path / "again"), leads=[2], shots=[1], fractions=[1.0]))
    # The network from scratch is one for all leads, so that its scores hang on which there are.
    tables = (pd.read_csv(folder / "scores.csv") for folder in (out, again))
    first, second = (table[table.row != SCRATCH].reset_index(drop=True) for table in tables)
    assert first[first.target == "lead 2"].reset_index(drop=True).equals(second)


@pytest.mark.slow
def test_without_checkpoints_untrained_encoders_stand_alone_and_say_how_sure_they_are(
    small_data: Any, tmp_path: Path
) -> None:
    """Ten validation years: enough to calibrate 90 % intervals by years."""
    small_data.to_netcdf(tmp_path / "small.nc")
    splits = SplitsConfig(("1981", "1992"), ("1994", "2003"), ("2005", "2010"), 365)
    options = {"path": str(tmp_path / "small.nc"), "variables": ["sst"]}
    store = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options))
    config = StatesConfig(
        str(store), str(tmp_path / "out"), leads=[0], window=3, heads=["logistic"], poolings=["mean"], layers=[2],
        untrained_seeds=1, pca_components=[5], fractions=[1.0], shots=[1], encoder=SHAPE, draws=1000,
        scratch=ScratchConfig(0),
    )  # fmt: skip
    out = run(config)
    assert "No network is trained from scratch" in (out / "table.txt").read_text(encoding="utf-8")
    table = pd.read_csv(out / "uncertainty.csv")
    assert set(table.features) == {"PCA", "untrained"}
    own = table[table.features == "PCA"].set_index(["method", "metric"])["value"]
    assert own["climatology", "crpss"] == 0
    assert own["ridge posterior", "crpss"] > 0.5
    assert 0 < own["conformal", "coverage"] <= 1


def test_a_network_from_scratch_learns_the_season_that_its_inputs_hold(small_store: Path, labels: StateLabels) -> None:
    store = Store(small_store)
    config = ScratchConfig(1, steps=60, batch_size=32, lr=2e-3, check_every=20)
    found = scratch_rows(config, EncoderConfig("nano", 3, (3, 2, 3)), store, labels)
    assert list(found) == [0, 2]
    for lead, (row,) in found.items():
        truth = labels.target(labels.rows("test", lead), lead)
        assert row.probabilities.shape == (len(truth), 3)
        assert row.probabilities.sum(1) == pytest.approx(1)
        assert row.choice is not None
        assert int(row.choice.setting.split()[0]) in (20, 40, 60)
        error = ((row.probabilities - np.eye(3)[truth]) ** 2).sum(1).mean()
        clim = ((labels.baselines(lead)["climatology"] - np.eye(3)[truth]) ** 2).sum(1).mean()
        if lead == 0:
            assert error < 0.8 * clim


def test_a_network_from_scratch_is_a_function_of_its_seed(small_store: Path, labels: StateLabels) -> None:
    store, config = Store(small_store), ScratchConfig(2, steps=2, batch_size=8, check_every=1)
    first, again = (scratch_rows(config, SHAPE, store, labels)[2] for _ in range(2))
    assert np.array_equal(first[0].probabilities, again[0].probabilities)
    assert not np.array_equal(first[0].probabilities, first[1].probabilities)


def test_a_network_from_scratch_never_sees_a_test_label(labels: StateLabels) -> None:
    targets = _targets(labels, len(labels.classes))
    for k, lead in enumerate(labels.leads):
        known = np.flatnonzero(targets[:, k] >= 0)
        expected = np.concatenate([labels.rows("train", lead), labels.rows("val", lead)])
        assert np.array_equal(known, expected)
        assert np.array_equal(targets[known, k], labels.classes[known + lead])


def test_results_are_never_overwritten(result: tuple[StatesConfig, Path]) -> None:
    with pytest.raises(EarthSSLError, match="is not empty"):
        run(result[0])


def test_states_are_named_cold_to_warm() -> None:
    assert STATES == ("La Niña", "neutral", "El Niño")
