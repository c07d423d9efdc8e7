"""Task 4: labels by hand, blocks that do not touch, the trivial solution, and the tables."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.evaluation.window_network import _targets
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.summary import SCORES
from earthssl.downstream.tasks.enso.state_labels import STATES, StateLabels
from earthssl.downstream.tasks.states.task import INDEX, States, StatesConfig
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
def task(small_store: Path) -> States:
    config = StatesConfig(str(small_store), "", leads=[0, 2], window=3, poolings=["mean"], draws=1000, encoder=SHAPE)
    return States(config, Store(small_store))


@pytest.fixture(scope="module")
def labels(task: States) -> StateLabels:
    return task.states


def index_row(task: States) -> Row:
    return next(row for row in task.baselines(3) if row.name == INDEX)


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


def test_the_index_solves_lead_0(task: States, labels: StateLabels) -> None:
    row = index_row(task)
    right = row.forecast["lead 0"].argmax(1) == labels.target(labels.rows("test", 0), 0)
    assert right.mean() > 0.9
    later = row.forecast["lead 2"].argmax(1) == labels.target(labels.rows("test", 2), 2)
    assert later.mean() < right.mean()


def test_no_row_knows_the_test_labels(task: States, labels: StateLabels) -> None:
    test = np.isin(np.arange(len(labels.classes)), labels.rows("test", 0))
    other = States(task.config, task.store)
    other.states = replace(labels, classes=np.where(test, (labels.classes + 1) % 3, labels.classes))
    assert not np.array_equal(other.labels[0].values, task.labels[0].values)
    features = {"index": labels.index_features()}
    first, second = (one.fitted("", Role.BASELINE, features) for one in (task, other))
    assert np.array_equal(first.forecast["lead 0"], second.forecast["lead 0"])


def test_mistakes_are_said(small_store: Path) -> None:
    store = Store(small_store)
    with pytest.raises(EarthSSLError, match=r"at least two classes in training at lead 0, got only neutral"):
        StateLabels.from_store(store, [0], 3, threshold=50)
    with pytest.raises(EarthSSLError, match="leads ≥ 0 months and a threshold > 0"):
        StateLabels.from_store(store, [-1], 3)
    with pytest.raises(EarthSSLError, match="move a block, or shorten the window or the longest lead"):
        StateLabels.from_store(store, [0], 36)
    with pytest.raises(EarthSSLError, match="a window of at most 3 months, got 6"):
        States(StatesConfig("s", "o", window=3, encoder=EncoderConfig("nano", 6, (1, 2, 3))), store).encoders()
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


def test_a_lead_of_too_few_validation_years_is_left_out_and_no_other(task: States, labels: StateLabels) -> None:
    """At lead 0 the validation months are told apart into nine years and more; at lead 2 into their own four."""

    @dataclass(frozen=True, eq=False)
    class Years(StateLabels):
        def years(self, rows: np.ndarray, lead: int) -> np.ndarray:
            apart = np.isin(rows, self.rows("val", 0)) * (rows % 9 if lead == 0 else 0)
            return super().years(rows, lead) * 100 + apart

    own = Years(**{one.name: getattr(labels, one.name) for one in fields(labels)})
    other = States(task.config, task.store)
    other.states = own
    row = other.fitted("PCA [logistic]", Role.BASELINE, {"index": own.index_features()})
    assert set(other._uncertainty([row])["target"]) == {"lead 0"}
    assert other._uncertainty([]).empty
    assert task._uncertainty([row]).empty


@pytest.fixture(scope="module")
def result(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StatesConfig, Path]:
    folder = tmp_path_factory.mktemp("states")
    config = StatesConfig(
        str(small_store), str(folder / "out"), [str(small_run)], leads=[0, 2], window=3, draws=1000,
        heads=["logistic", "kNN", "attentive"], steps=[5, 10], poolings=["mean"], layers=[2], untrained_seeds=1,
        pca_components=[5], fractions=[0.1, 1.0], shots=[1, 2], label_draws=1, cache=str(folder / "cache"),
        scratch=ScratchConfig(2, steps=6, batch_size=16, check_every=3), random_seeds=1,
    )  # fmt: skip
    return config, run(States(config, Store(small_store)), "earthssl probe")


def test_the_tables_hold_every_row_metric_and_lead(result: tuple[StatesConfig, Path]) -> None:
    scores = pd.read_csv(result[1] / "scores.csv", keep_default_na=False)
    assert list(scores.columns) == list(SCORES)
    baselines = ["climatology", "majority", "persistence", "damped persistence", INDEX, "PCA [logistic]",
                 "PCA, all variables [logistic]", "PCA [kNN]", "raw window [logistic]",
                 "random features of the raw window [logistic]", "PCA of the window [logistic]",
                 "predictable directions (CCA) [logistic]"]  # fmt: skip
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
    curve = pd.read_csv(out / "label_curve.csv")
    assert set(curve.used) == {0.1, 1.0}
    assert set(curve.row) == {"pretrained [logistic]", "untrained [logistic]", "raw window [logistic]", SCRATCH}
    assert len(curve) == 2 * 4 * 2  # targets × rows × fractions
    paired = pd.read_csv(out / "label_curve_differences.csv")
    assert set(paired.reference) == {"untrained [logistic]", "raw window [logistic]", SCRATCH}
    assert set(pd.read_csv(out / "few_shot.csv").labels) == {3, 6}
    names = {file.name for file in out.iterdir()}
    pictures = {"confusion_lead_0.png", "scores.png", "label_curve.png", "skill_by_examples_a_class.png"}
    assert {"report.html", "few_shot.csv"} | pictures <= names
    record = read_json(out / "result.json", "result")
    assert sum(record["samples"]["lead 0"]["test"]) == 46
    assert [one["kind"] for one in record["encoders"]] == ["pretrained", "untrained"]
    said = (out / "table.txt").read_text(encoding="utf-8")
    for note in ("trivial solution", "No uncertainty at lead 0, lead 2"):
        assert note in said
    assert "No network is trained from scratch" not in said
    assert not (out / "head_uncertainty.csv").exists()


@pytest.mark.slow
def test_the_same_config_gives_the_same_scores(result: tuple[StatesConfig, Path], tmp_path: Path) -> None:
    config, out = result
    other = replace(config, out=str(tmp_path / "again"), leads=[2], shots=[1], fractions=[1.0])
    again = run(States(other, Store(config.store)))
    # The network from scratch is one for all leads, so that its scores hang on which there are.
    tables = [pd.read_csv(folder / "scores.csv") for folder in (out, again)]
    # So does what predicts the fields at those leads.
    own = (
        ~tables[0].row.str.startswith((SCRATCH, "predictable")),
        ~tables[1].row.str.startswith((SCRATCH, "predictable")),
    )
    first, second = (table[keep].reset_index(drop=True) for table, keep in zip(tables, own, strict=True))
    # The mean over seeds is a matrix product, whose last digit depends on how many rows there are.
    pd.testing.assert_frame_equal(first[first.target == "lead 2"].reset_index(drop=True), second, rtol=1e-12)


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
        scratch=ScratchConfig(0), random_seeds=0,
    )  # fmt: skip
    out = run(States(config, Store(store)))
    assert "No network is trained from scratch" in (out / "table.txt").read_text(encoding="utf-8")
    table = pd.read_csv(out / "head_uncertainty.csv")
    assert set(table.features) == {"PCA", "untrained"}
    own = table[table.features == "PCA"].set_index(["method", "metric"])["value"]
    assert own["climatology", "crpss"] == 0
    assert own["ridge posterior", "crpss"] > 0.5
    assert 0 < own["conformal", "coverage"] <= 1


def scratch_rows(task: States, config: ScratchConfig, shape: EncoderConfig) -> list[Row]:
    own = States(replace(task.config, scratch=config, encoder=shape, untrained_seeds=1), task.store)
    return list(own.trained(own.encoders()))


def test_a_network_from_scratch_learns_the_season_that_its_inputs_hold(task: States, labels: StateLabels) -> None:
    config = ScratchConfig(1, steps=60, batch_size=32, lr=2e-3, check_every=20)
    (row,) = scratch_rows(task, config, EncoderConfig("nano", 3, (3, 2, 3)))
    assert list(row.forecast) == ["lead 0", "lead 2"]
    assert row.chosen["steps"] in (20, 40, 60)
    for lead in labels.leads:
        truth, found = labels.target(labels.rows("test", lead), lead), row.forecast[f"lead {lead}"]
        assert found.shape == (len(truth), 3)
        assert found.sum(1) == pytest.approx(1)
        error = ((found - np.eye(3)[truth]) ** 2).sum(1).mean()
        clim = ((labels.baselines(lead)["climatology"] - np.eye(3)[truth]) ** 2).sum(1).mean()
        if lead == 0:
            assert error < 0.8 * clim


def test_a_network_from_scratch_is_a_function_of_its_seed(task: States) -> None:
    config = ScratchConfig(2, steps=2, batch_size=8, check_every=1)
    first, again = (scratch_rows(task, config, SHAPE) for _ in range(2))
    assert np.array_equal(first[0].forecast["lead 2"], again[0].forecast["lead 2"])
    assert not np.array_equal(first[0].forecast["lead 2"], first[1].forecast["lead 2"])


def test_a_network_from_scratch_never_sees_a_test_label(task: States, labels: StateLabels) -> None:
    rows = [np.concatenate([one.rows["train"], one.rows["val"]]) for one in task.labels]
    targets = _targets(task.labels, rows, np.ones(2)).numpy()
    for k, lead in enumerate(labels.leads):
        known = np.flatnonzero(targets[:, k] >= 0)
        expected = np.concatenate([labels.rows("train", lead), labels.rows("val", lead)])
        assert np.array_equal(known, expected)
        assert np.array_equal(targets[known, k], labels.classes[known + lead])


def test_results_are_never_overwritten(result: tuple[StatesConfig, Path]) -> None:
    with pytest.raises(EarthSSLError, match="is not empty"):
        run(States(result[0], Store(result[0].store)))


def test_states_are_named_cold_to_warm() -> None:
    assert STATES == ("La Niña", "neutral", "El Niño")
