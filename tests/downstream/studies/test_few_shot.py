"""A few examples a class: scores against scikit-learn and brute force, draws, choices, and the verb from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from earthssl.cli.main import main
from earthssl.downstream.evaluation.window_labels import WindowLabels
from earthssl.downstream.metrics.classes import one_hot
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.results.target import Target
from earthssl.downstream.studies.few_shot import FewShotConfig
from earthssl.downstream.studies.shot_rows import CHOSEN, HEADS, Shots, shot_rows, spanned
from earthssl.downstream.studies.shot_scores import AUC, BALANCED, BRIER, shot_target
from earthssl.downstream.tasks.forecast.baselines import DAMPED
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from sklearn.metrics import balanced_accuracy_score, pairwise_distances, roc_auc_score

# ---- Scores -----------------------------------------------------------------------------------------------------


def chances(classes: int, draws: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, climatology, units and rounded chances, with ties, of 60 samples of 12 years."""
    rng = np.random.default_rng(seed)
    truth, units = rng.integers(0, classes, 60), np.repeat(np.arange(1900, 1912), 5)
    climatology = np.tile(rng.dirichlet(np.full(classes, 5.0)), (60, 1))
    said = rng.dirichlet(np.ones(classes), (draws, 60)) + 0.3 * one_hot(truth, classes)
    said = np.maximum(np.round(said, 1), 0.05)
    return truth, climatology, units, said / said.sum(axis=2, keepdims=True)


def statistic(target: Target, name: str, said: np.ndarray) -> Any:
    metric = next(one for one in target.metrics if one.name == name)
    return metric.statistic([Row("x [a]", Role.BASELINE, {"it": said})])


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_scikit_learns(classes: int) -> None:
    truth, climatology, units, said = chances(classes)
    target, every = shot_target("it", truth, climatology, units, 2), np.ones(60)
    balanced = balanced_accuracy_score(truth, said[0].argmax(1))
    auc = roc_auc_score(truth, said[0][:, 1]) if classes == 2 else roc_auc_score(truth, said[0], multi_class="ovr")
    own = said[0] * climatology
    own /= own.sum(1, keepdims=True)
    occurred = one_hot(truth, classes)
    brier = 1 - ((own - occurred) ** 2).sum() / ((climatology - occurred) ** 2).sum()
    for name, expected in ((BALANCED, balanced), (AUC, auc), (BRIER, brier)):
        assert statistic(target, name, said)(every) == pytest.approx([expected])


@pytest.mark.parametrize("name", [BALANCED, AUC, BRIER])
def test_a_resample_is_the_score_of_the_years_drawn(name: str) -> None:
    truth, climatology, units, said = chances(3)
    counts = np.array([2, 0, 1, 1, 0, 3, 1, 1, 1, 0, 1, 1.0])
    found = statistic(shot_target("it", truth, climatology, units, 1), name, said).resample(counts[None])
    rows = np.concatenate([np.repeat(np.flatnonzero(units == 1900 + k), int(n)) for k, n in enumerate(counts)])
    other = shot_target("it", truth[rows], climatology[rows], units[rows], 1)
    assert found[0] == pytest.approx(statistic(other, name, said[:, rows])(np.ones(len(rows))))


def test_intervals_hold_the_draws_of_the_examples() -> None:
    """Every year alike, but half of twenty draws call all right, the others all wrong: only draws can vary."""
    truth, units = np.tile([0, 1], 12), np.repeat(np.arange(12), 2)
    right = 0.8 * one_hot(truth, 2) + 0.1
    said = np.stack([right if draw % 2 else 1 - right for draw in range(20)])
    target = shot_target("it", truth, np.full((24, 2), 0.5), units, 1)
    rows = [Row("a [kNN]", Role.PRETRAINED, {"it": said}), Row("b [kNN]", Role.BASELINE, {"it": said[::-1]})]
    scores, differences = tables([target], rows, draws=1000)
    one = scores[(scores.row == "a [kNN]") & (scores.metric == BALANCED)].iloc[0]
    assert one.value == pytest.approx(0.5)
    assert (one.low, one.high) == pytest.approx((0.3, 0.7), abs=0.06)  # binomial of 20
    assert set(differences.verdict) == {"undecided"}


def test_rows_are_compared_with_the_same_head_and_the_same_draws() -> None:
    truth, climatology, units, said = chances(2, draws=5)
    names = ["pretrained [kNN]", "pretrained [ridge]", "PCA [kNN]", "PCA [ridge]"]
    roles = [Role.PRETRAINED] * 2 + [Role.BASELINE] * 2
    rows = [Row(name, role, {"it": said}) for name, role in zip(names, roles, strict=True)]
    _, differences = tables([shot_target("it", truth, climatology, units, 2)], rows, draws=1000)
    pairs = set(zip(differences.row, differences.reference, strict=True))
    assert pairs == {("pretrained [kNN]", "PCA [kNN]"), ("pretrained [ridge]", "PCA [ridge]")}
    assert differences[["value", "low", "high"]].to_numpy() == pytest.approx(0)  # the same forecasts, draw by draw


# ---- Examples and rows --------------------------------------------------------------------------------------------


def labelled(n: int = 900, classes: int = 2, seed: int = 0) -> WindowLabels:
    """Return random classes at steps in order: two thirds training, then validation and test, 15 steps a unit."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    ends = [0, 2 * n // 3, 5 * n // 6, n]
    rows = {part: np.arange(*ends[k : k + 2]) for k, part in enumerate(("train", "val", "test"))}
    climatology = np.full((len(rows["test"]), classes), 1 / classes)
    names = tuple(f"class {k}" for k in range(classes))
    return WindowLabels("it", one_hot(truth, classes), rows, np.arange(n) // 15, climatology, names)


def test_examples_are_apart_and_of_training_only() -> None:
    label = labelled()
    shots = Shots.drawn("t", label, [1, 5], draws=4, separation=20)
    classes = label.values.argmax(axis=1)
    for k, draws in shots.examples.items():
        assert len(draws) == 4
        for rows in draws:
            assert np.isin(rows, label.rows["train"]).all()
            assert np.bincount(classes[rows]).tolist() == [k, k]
            for one in range(2):
                assert (np.diff(np.sort(rows[classes[rows] == one])) >= 20).all()
    assert set(shots.examples[1][0]) <= set(shots.examples[5][0])  # more examples are these and others
    assert not np.array_equal(shots.examples[5][0], shots.examples[5][1])


def refused(label: WindowLabels, words: str, shots: int = 1) -> None:
    with pytest.raises(EarthSSLError, match=words):
        Shots.drawn("t", label, [shots], draws=2, separation=10)


def test_too_few_examples_or_classes_are_refused() -> None:
    label = labelled()
    refused(label, r"few-shot.tasks.t, it: expected 100 examples of class 0 at least 10 steps apart", shots=100)
    none = label.values.copy()
    none[label.rows["train"]] = [1, 0]
    refused(replace(label, values=none), r"in the train block, got 1, none of class 1")
    none = label.values.copy()
    none[label.rows["val"]] = [0, 1]
    refused(replace(label, values=none), r"in the val block, got 1, none of class 0")
    refused(replace(label, values=np.ones((900, 1)), classes=("only",)), "at least two classes")


def rows_of(label: WindowLabels, features: dict[str, np.ndarray], heads: Any = tuple(HEADS), **more: Any) -> list[Row]:
    shots = Shots.drawn("t", label, more.pop("shots", [1]), draws=6, separation=5)
    settings = {"scalings": ["raw", "standardised", "whitened"], **more}
    return list(shot_rows("x", Role.BASELINE, None, features, shots, label.rows["train"], heads, **settings))


def accuracy(label: WindowLabels, row: Row) -> float:
    (said,) = row.forecast.values()
    truth = label.values[label.rows["test"]].argmax(axis=1)
    return float(np.mean([balanced_accuracy_score(truth, one.argmax(1)) for one in said]))


def test_one_example_is_enough_where_classes_lie_apart_and_none_helps_in_noise() -> None:
    label = labelled(classes=3)
    rng = np.random.default_rng(3)
    near = label.values @ np.array([[9.0, 0], [0, 9], [-9, -9]]) + rng.normal(size=(900, 2))
    noise = rng.normal(size=(900, 2))
    heads = ("prototype", "kNN", "ridge")
    rows = rows_of(label, {"noise": noise, "near": near}, heads)
    assert [row.name for row in rows] == [*(f"x [{head}]" for head in heads), f"x [{CHOSEN}]"]
    assert min(accuracy(label, row) for row in rows) > 0.99
    assert max(accuracy(label, row) for row in rows_of(label, {"noise": noise}, heads)) < 0.45
    for row in rows:
        assert row.chosen["t: it, 1 a class"]["features"].startswith("near")


def test_whitening_is_chosen_where_a_loud_direction_says_nothing() -> None:
    label = labelled()
    rng = np.random.default_rng(4)
    loud = 50 * rng.normal(size=900)
    signal = 2.5 * (2 * label.values[:, 1] - 1) + rng.normal(size=900)
    features = {"both": np.column_stack([loud + signal, loud - signal])}
    (row, _) = rows_of(label, features, ["prototype"], shots=[5])
    assert row.chosen["t: it, 5 a class"]["features"] == "both, whitened"
    assert accuracy(label, row) > 0.95
    (row, _) = rows_of(label, features, ["prototype"], shots=[5], scalings=["raw"])
    assert accuracy(label, row) < 0.65


@pytest.mark.parametrize("head", HEADS)
def test_no_row_reads_the_labels_of_the_test_block(head: str) -> None:
    label = labelled()
    features = {"some": np.random.default_rng(5).normal(size=(900, 4)) + label.values @ np.eye(2, 4)}
    other = label.values.copy()
    other[label.rows["test"]] = other[label.rows["test"]][:, ::-1]
    first, second = (rows_of(one, features, [head])[0] for one in (label, replace(label, values=other)))
    assert np.array_equal(*(next(iter(row.forecast.values())) for row in (first, second)))


def test_the_span_of_the_examples_keeps_every_length_and_distance() -> None:
    rng = np.random.default_rng(6)
    x, z = rng.normal(size=(6, 200)), rng.normal(size=(40, 200))
    a, b = spanned(x, z)
    assert a.shape == (6, 7)
    assert a @ b.T == pytest.approx(x @ z.T)
    assert pairwise_distances(a, b) == pytest.approx(pairwise_distances(x, z))
    assert np.linalg.norm(b, axis=1) == pytest.approx(np.linalg.norm(z, axis=1))
    assert spanned(x[:, :5], z[:, :5])[1] == pytest.approx(z[:, :5])


def test_tiles_are_samples_with_the_steps_of_their_times() -> None:
    """Two places at 450 times: features (time, place, k), the training mask along the times alone."""
    label = labelled()
    tiles = replace(label, steps=np.repeat(np.arange(450), 2), units=label.units)
    features = {"all": (label.values @ np.array([[5.0], [-5.0]])).reshape(450, 2, 1)}
    shots = Shots.drawn("t", tiles, [3], draws=2, separation=30)
    for rows in shots.examples[3]:
        steps = tiles.steps_of(rows[label.values[rows, 0] > 0])
        assert (np.diff(np.sort(steps)) >= 30).all()
    found = list(shot_rows("x", Role.BASELINE, None, features, shots, np.arange(450) < 300, ["ridge"], ["raw"]))
    assert accuracy(label, found[0]) == 1


# ---- The verb -----------------------------------------------------------------------------------------------------


def written(file: Path, store: Path, checkpoint: Path) -> Path:
    """Return a config of two tasks of the small store."""
    shared = {"store": str(store), "checkpoints": [str(checkpoint)], "untrained_seeds": 1, "layers": [2]}
    tasks = {
        "ENSO": {"task": "states", "leads": [0], "window": 3, "poolings": ["mean"], "components": [5], **shared},
        "ahead": {"task": "forecast", "leads": [1, 2], "variables": ["sst"], "components": [4], **shared},
    }
    settings = {"tasks": tasks, "shots": [1, 2], "example_draws": 3, "heads": ["prototype", "kNN"], "draws": 100}
    file.write_text(yaml.safe_dump({"few-shot": settings}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(small_store: Path, small_pretrain: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of two tasks by an encoder that was pretrained to forecast, and what asks for it again."""
    folder = tmp_path_factory.mktemp("few-shot")
    short = {"steps": 2, "warmup_steps": 1, "val_every": 2, "save_every": 2}
    path = small_pretrain(folder / "run", {"lead_time": {"leads": [1, 2], "draw": "all"}}, **short)
    config = written(folder / "config.yaml", small_store, path.parent)

    def again(*words: str, out: str = "out") -> int:
        return main(["few-shot", "--config", str(config), "--out", str(folder / out), *words])

    assert again() == 0
    return folder / "out", again


@pytest.mark.slow
def test_one_table_holds_examples_and_decoders(run: Any) -> None:
    report = run[0] / "report"
    scores = pd.read_csv(report / "scores.csv", keep_default_na=False)
    first = scores[scores.target.str.startswith("ENSO")]
    assert set(first.target) == {"ENSO: lead 0, 1 a class", "ENSO: lead 0, 2 a class"}
    made = ("raw window", "PCA of the window", "Niño index", "pretrained", "untrained")
    assert set(first.row) == {"climatology", *(f"{name} [{CHOSEN}]" for name in made)}
    even = first[(first.row == "climatology") & (first.target == "ENSO: lead 0, 1 a class")].set_index("metric").value
    assert even.astype(float).to_dict() == pytest.approx({BALANCED: 1 / 3, AUC: 0.5, BRIER: 0})
    fields = scores[scores.target.str.startswith("ahead")]
    assert {"pretrained [decoder, zero-shot]", "persistence", DAMPED} <= set(fields.row)
    heads = pd.read_csv(report / "by_head.csv")
    assert set(heads.row) == {f"{name} [{head}]" for name in made for head in ("prototype", "kNN")}
    choices = pd.read_csv(report / "choices.csv")
    assert choices[choices.row == f"pretrained [{CHOSEN}]"]["features"].str.startswith("layer 3, mean").all()
    said = (report / "table.txt").read_text(encoding="utf-8")
    assert "A few examples a class, and none: ENSO, ahead" in said
    assert f"pretrained [{CHOSEN}]" in said
    record = read_json(report / "result.json", "it")
    assert set(record["tasks"]) == {"ENSO", "ahead"}
    assert (report / "by_examples_a_class.png").is_file()


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = run
    kept = out / "tasks" / "ENSO" / "record.json"
    before, table = kept.stat().st_mtime_ns, (out / "report" / "scores.csv").read_bytes()
    (out / "tasks" / "ahead" / "record.json").unlink()  # as if it had been killed in the second task
    assert again() == 0
    assert kept.stat().st_mtime_ns == before
    assert (out / "report" / "scores.csv").read_bytes() == table
    assert again("--shots", "[1]") == 2
    assert "was begun with another 'shots'" in capsys.readouterr().err
    assert again("--tasks.ENSO.leads", "[2]") == 2
    assert "was begun with another 'leads'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--heads", "[prototpye]"], "Did you mean 'prototype'"),
        (["--scalings", "[whitend]"], "Did you mean 'whitened'"),
        (["--heads", "[kNN, kNN]"], "few-shot.heads: expected each once"),
        (["--shots", "[0]"], "shots ≥ 1"),
        (["--shots", "[]"], "shots"),
        (["--shots", "[5, 5]"], "few-shot.shots: expected each once"),
        (["--example_draws", "0"], "example_draws ≥ 1"),
        (["--draws", "10"], "draws ≥ 100"),
        (["--separation_days", "-1"], "separation_days ≥ 0"),
        (["--shotz", "[1]"], "Did you mean"),
        (["--tasks", "{}"], "few-shot.tasks: expected the settings of a probe"),
        (["--tasks", "{a: 3}"], "few-shot.tasks.a: expected the settings of a probe"),
        (["--tasks.ENSO.task", "sttes"], "Did you mean 'states'"),
        (["--tasks.ENSO.lead", "[1]"], "lead"),
        (["--tasks.ENSO.store", "nowhere"], "nowhere"),
        (["--tasks.ENSO.checkpoints", "[nowhere]"], "nowhere"),
        (["--shots", "[60]"], "few-shot.tasks.ENSO, lead 0: expected 60 examples"),
        (["--tasks.ENSO.threshold", "30"], "at least two classes"),
        (["--tasks.ENSO.task", "explain"], "Did you mean"),
    ],
)
def test_bad_input_is_said_in_one_line(
    words: list[str], said: str, small_store: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path / "config.yaml", small_store, small_run)
    assert main(["few-shot", "--config", str(config), "--out", str(tmp_path / "new"), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]
    assert not (tmp_path / "new" / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "leads"), [("forecast", [1, 2]), ("enso", [3])])
def test_a_task_without_classes_or_decoder_is_refused(
    task: str, leads: list[int], small_store: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"task": task, "store": str(small_store), "checkpoints": [str(small_run)], "leads": leads}
    settings = {"few-shot": {"tasks": {"other": own}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["few-shot", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "out")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("earthssl")]
    assert len(said) == 1
    assert "few-shot.tasks.other: expected checkpoints whose pretraining had a decoder for the task" in said[0]


def test_settings_by_hand() -> None:
    made = FewShotConfig("o", {"a": {"store": "s"}})
    assert made.shots == [1, 5, 20]
    assert made.heads == ["prototype", "kNN", "ridge"]
    with pytest.raises(EarthSSLError, match=r"few-shot.scalings: expected each once"):
        FewShotConfig("o", {"a": {"store": "s"}}, scalings=["raw", "raw"])
