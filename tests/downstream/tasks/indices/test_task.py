"""Numbers by time: labels known by hand, few labelled years, what is refused, and the weather planet's own labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.results.row import Role
from earthssl.downstream.tasks.indices.label_table import read_label_table
from earthssl.downstream.tasks.indices.task import KERNEL, PERSISTENCE, Indices, IndicesConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources.weather import history as history_module
from earthssl.ssl.store.store import Store

SHAPE = EncoderConfig("nano", 2, (1, 3, 4))
SPLITS = SplitsConfig(("1900-01-01", "1903-12-31"), ("1904-02-01", "1904-09-30"), ("1904-11-01", "1907-03-31"), 20)


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of eight years of the weather planet after a short spin-up, 500 hPa over the North Atlantic."""
    folder = tmp_path_factory.mktemp("indices")
    options = {"years": 8, "variables": ["z500"], "region": [22, 70, 270, 350], "cache": str(folder / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_module, "SPIN_UP", 30)
        prepare(PrepareConfig(source="weather", splits=SPLITS, out=str(folder / "store"), options=options))
    return folder / "store"


@pytest.fixture
def config(weather: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IndicesConfig:
    monkeypatch.setenv("EARTHSSL_CACHE", str(weather.parent / "cache"))
    return IndicesConfig(
        str(weather), str(tmp_path / "out"), columns=["height_3d", "blocking_3d"], encoder=SHAPE, components=[5, 20],
        untrained_seeds=1, random_seeds=1, scratch=ScratchConfig(0), fractions=[0.5, 1.0], label_draws=1, draws=1000,
        kernel=False,
    )  # fmt: skip


def with_labels(config: IndicesConfig, folder: Path, **columns: np.ndarray) -> IndicesConfig:
    times = Store(config.store).times.astype("datetime64[s]")
    pd.DataFrame({"time": times, **columns}).to_csv(folder / "labels.csv", index=False)
    return replace(config, labels=str(folder / "labels.csv"), columns=[], encoder=SHAPE)


def skill(task: Indices, name: str, target: str) -> float:
    features = {"values": task.raw(2)}
    row = task.fitted(name, Role.BASELINE, features)
    label = next(one for one in task.labels if one.name == target)
    truth = label.values[label.rows["test"], 0]
    return float(1 - ((truth - row.forecast[target]) ** 2).mean() / (truth**2).mean())


def test_a_cell_of_the_input_is_found_and_noise_is_not(config: IndicesConfig, tmp_path: Path) -> None:
    """One value of the input itself plus a season, and white noise: skill 1 and at most about 0."""
    store = Store(config.store)
    day = np.arange(len(store.times))
    cell = store.read_all()[:, 0, 4, 6] + 3 * np.cos(2 * np.pi * day / 365.2425)
    noise = np.random.default_rng(0).normal(size=len(day))
    task = Indices(with_labels(config, tmp_path, cell=cell, noise=noise), store)
    assert skill(task, "raw", "cell") > 0.98
    assert skill(task, "raw", "noise") < 0.02


def test_targets_of_the_same_samples_share_a_fit_and_nothing_else(config: IndicesConfig, tmp_path: Path) -> None:
    store = Store(config.store)
    values = np.random.default_rng(1).normal(size=(len(store.times), 2)) + store.read_all()[:, 0, :2, 0]
    both = Indices(with_labels(config, tmp_path, a=values[:, 0], b=values[:, 1]), store)
    row = both.fitted("raw", Role.BASELINE, {"values": both.raw(2)})
    for name, own in (("a", values[:, 0]), ("b", values[:, 1])):
        one = Indices(with_labels(config, tmp_path, **{name: own}), store)
        alone = one.fitted("raw", Role.BASELINE, {"values": one.raw(2)})
        np.testing.assert_allclose(row.forecast[name], alone.forecast[name], rtol=0, atol=1e-9)
        assert row.chosen[name]["setting"] == alone.chosen[name]["setting"]


def test_labels_outside_the_labelled_years_are_not_read(config: IndicesConfig, tmp_path: Path) -> None:
    """Training labels after the second year are nonsense; with two labelled years nothing changes."""
    store = Store(config.store)
    times = store.times.astype("datetime64[D]")
    cell = store.read_all()[:, 0, 4, 6].astype(float)
    spoilt = np.where((times > np.datetime64("1901-12-31")) & (times < np.datetime64("1904-01-01")), 1e3, cell)
    found = []
    for values, years in ((cell, ["1900-01-01", "1901-12-31"]), (spoilt, ["1900-01-01", "1901-12-31"]),
                          (spoilt, ["1900", "1901"])):  # fmt: skip
        task = Indices(replace(with_labels(config, tmp_path, cell=values), labelled=years), store)
        assert task.label_units().tolist() == [1900, 1901]
        found.append(task.fitted("raw", Role.BASELINE, {"values": task.raw(2)}).forecast["cell"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_persistence_is_the_regression_on_the_present_value(config: IndicesConfig) -> None:
    task = Indices(config, Store(config.store))
    row = next(row for row in task.baselines(2) if row.name == PERSISTENCE)
    label = task.labels[0]
    x = task.table["height_0d"].to_numpy()
    kept = label.rows["train"]
    slope = np.polyfit(x[kept], label.values[kept, 0], 1)[0]  # the season taken off moves it a little
    own = np.polyfit(x[label.rows["test"]], row.forecast["height_3d"], 1)[0]
    assert own == pytest.approx(slope, rel=0.2)
    assert (task.labels[1].values[label.rows["test"]] > 0.5).any()  # some days are blocked


def test_forecasts_by_a_kernel_tell_of_tomorrow(config: IndicesConfig, tmp_path: Path) -> None:
    """The leading component of the fields a day on, with four labelled years; in the label curve; not where unasked."""
    store = Store(config.store)
    raw = Indices(config, store).raw(2)
    first = raw @ np.linalg.svd(raw[1:] - raw[1:].mean(0), full_matrices=False)[2][0]
    tomorrow = np.append(first[1:], np.nan)
    task = Indices(replace(with_labels(config, tmp_path, tomorrow=tomorrow), kernel=True, ahead=[1]), store)
    row = next(row for row in task.baselines(2) if row.name == f"{KERNEL} [ridge]")
    label = task.labels[0]
    truth = label.values[label.rows["test"], 0]
    assert 1 - ((truth - row.forecast["tomorrow"]) ** 2).mean() / (truth**2).mean() > 0.5
    assert task.curved(row)
    assert not any(row.name.startswith(KERNEL) for row in Indices(config, store).baselines(2))


def test_a_whole_run_has_every_row_and_the_curve(config: IndicesConfig, tmp_path: Path) -> None:
    """On the planet's labels of every eighth day: fewer starts for the true model to forecast from."""
    store = Store(config.store)
    Indices(config, store).table.iloc[::8].to_csv(tmp_path / "labels.csv")
    own = replace(config, labels=str(tmp_path / "labels.csv"), reachable_members=1, reachable_noise=0.0)
    out = run(Indices(own, store))
    scores = pd.read_csv(out / "scores.csv")
    rows = set(scores["row"])
    assert {"climatology", PERSISTENCE, "PCA of the window [ridge]", "raw window [ridge]", "untrained [ridge]",
            "predictable directions (CCA) [ridge]", "the true model, 1 members"} <= rows  # fmt: skip
    value = scores.set_index(["row", "target", "metric"])["value"]
    assert value["the true model, 1 members", "height_3d", "skill"] > 0.95
    curve = pd.read_csv(out / "label_curve.csv")
    assert {0.5, 1.0} == set(curve["used"])


def test_an_mlp_gains_where_the_features_hold_what_is_not_linear(
    config: IndicesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A square of a feature, which no linear head finds; the feature itself, where there is nothing to gain."""
    steps = len(Store(config.store).times)
    features = np.random.default_rng(0).normal(size=(steps, 2)).astype(np.float32)
    monkeypatch.setattr(Indices, "pooled", lambda self, encoder, layers: {"mean": {"layer 1, mean": features}})
    x = features[:, 0].astype(float)
    own = replace(with_labels(config, tmp_path, square=x**2, itself=x), mlp=True)
    out = run(Indices(own, Store(config.store)))
    scores = pd.read_csv(out / "scores.csv")
    assert {"untrained [ridge]", "untrained [MLP]"} <= set(scores["row"])
    value = scores[scores["seed"].isna()].set_index(["row", "target", "metric"])["value"]
    assert value["untrained [ridge]", "square", "skill"] < 0.05
    assert value["untrained [MLP]", "square", "skill"] > 0.7
    gain = pd.read_csv(out / "mlp_gain.csv").set_index(["target", "metric"])
    assert gain.loc["square", "skill"].verdict == "better"
    assert abs(gain.loc["itself", "skill"].value) < 0.05
    found = value["untrained [MLP]", "square", "skill"] - value["untrained [ridge]", "square", "skill"]
    assert gain.loc["square", "skill"].value == pytest.approx(found)
    notes = read_json(out / "result.json", "it")["notes"]
    assert [note for note in notes if note.startswith(f"MLP − linear, untrained, square, skill: {found:+.3f} [")]
    # The curve over labels follows the linear heads.
    assert not pd.read_csv(out / "label_curve.csv")["row"].str.contains("MLP").any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,a\n", r"a header alone \(time, a\)"),
        ("time,a\n1900-01-01,1\n1900-01-02,-1\n1900-01-03,-999\n", "line 4: expected a value of 'a', got -999, far"),
        ("time,lat,lon\n1900-01-01,1,2\n", "columns of numbers"),
        ("time,a\n1900-01-01,1_0\n", "digits only"),
        ("time,a\n1900-01-01T00+02:00,1\n", "in UTC"),
        ("when,a\n1900-01-01,1\n", "a column 'time'"),
        ("time,a\n1900-01-01,1\n1900-01-01,2\n", "each time once"),
        ("time,a\n1900-01-01,one\n", "line 2: expected a number of 'a', got 'one'.*leave the column out"),
        ("time,a\n01.02.1900,1\n", "an ISO time"),
        ("time,a\n1900-01-01T12:00,1\n", "labels 'a' at steps of the store"),
        ("", "got an empty file"),
    ],
)
def test_unclear_tables_are_refused(config: IndicesConfig, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(EarthSSLError, match=words):
        Indices(replace(config, labels=str(tmp_path / "bad.csv"), columns=[]), Store(config.store))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": ["heigth_3d"]}, "height_3d"),
        ({"labelled": ["1950-01-01", "1951-01-01"]}, "within the training block"),
        ({"labelled": ["soon", "later"]}, "two dates"),
        ({"columns": ["height_10d", "height_10d"]}, "each once"),
        ({"ahead": [0]}, "ahead ≥ 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(config: IndicesConfig, change: dict[str, object], words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        _ = Indices(replace(config, **change), Store(config.store)).labels  # type: ignore[arg-type]


def test_empty_cells_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,a,b\n1900-01-01,1,\n1900-01-02T00:00,,2.5\n")
    table = read_label_table(str(tmp_path / "a.csv"))
    assert table.isna().to_numpy().tolist() == [[False, True], [True, False]]


def test_places_and_columns_that_are_not_wanted_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,Latitude,lon,a,a_0d,word\n1900-01-01,1,2,3,4,five\n")
    assert list(read_label_table(str(tmp_path / "a.csv"), ["a"], ["a_0d"])) == ["a", "a_0d"]
    assert list(read_label_table(str(tmp_path / "a.csv"), ["lon", "a"])) == ["lon", "a"]
    (tmp_path / "b.csv").write_text("time,lat,lon,a\n1900-01-01,1,2,3\n")
    assert list(read_label_table(str(tmp_path / "b.csv"))) == ["a"]


def test_columns_of_classes(config: IndicesConfig, tmp_path: Path) -> None:
    """Cold, usual or warm half-months; their climatology is the frequency in the month, of all of training."""
    store = Store(config.store)
    day = store.times.astype("datetime64[D]")
    month = day.astype("datetime64[M]").astype(int) % 12
    warm = np.where((day - day.astype("datetime64[M]")).astype(int) < 15, 2 * (month > 5), 1).astype(float)
    task = Indices(with_labels(config, tmp_path, warm=warm), store)
    (label,) = task.classified()
    assert label.classes == ("0", "1", "2")
    for rows in label.rows.values():
        assert np.array_equal(label.values[rows].argmax(axis=1), warm[rows])
    train, test = label.rows["train"], label.rows["test"]
    same = train[month[train] == month[test[0]]]
    counts = np.bincount(warm[same].astype(int), minlength=3)
    assert label.climatology[0] == pytest.approx((counts + 1) / (len(same) + 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values, train: values + 0.5, "expected classes 0, 1, … in 'one'"),
        (lambda values, train: values - 1, "expected classes 0, 1, … in 'one'"),
        (lambda values, train: np.where(train, 0, values), "each with an example in the training block, got 0"),
        (lambda values, train: np.where(train & (values == 1), 2, values), "got 0, 2"),
        (lambda values, train: np.arange(len(values)) % 11.0, "at most 10"),
    ],
)
def test_columns_that_are_no_classes_are_refused(
    config: IndicesConfig, tmp_path: Path, change: Any, words: str
) -> None:
    store = Store(config.store)
    train = store.splits.inside(store.times, "train")
    values = change((np.arange(len(train)) % 3).astype(float), train)
    with pytest.raises(EarthSSLError, match=words):
        Indices(with_labels(config, tmp_path, one=values), store).classified()
