"""worth: worlds in which it is known whether pretraining can win, and labels that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.cli.main import main
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources.controls.controls import Control, ControlConfig
from earthssl.ssl.store.store import Store

STEPS = 4400
Worth = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, pd.Series]]:
    """Maker of a control's store and its label at every step, each made once."""
    folder, made = tmp_path_factory.mktemp("worlds"), {}

    def make(design: str) -> tuple[Path, pd.Series]:
        if design not in made:
            control = Control(ControlConfig(design, STEPS, 3))
            options = {"design": design, "steps": STEPS, "seed": 3}
            path = prepare(PrepareConfig("controls", str(folder / design), SplitsConfig(**control.splits()), options))
            label = pd.Series(control.truth.label, pd.DatetimeIndex(control.time, name="time"), name="asked")
            made[design] = path, label
        return made[design]

    return make


def table(label: pd.Series, store: Path, labelled: int) -> pd.DataFrame:
    """Return labels with so many of those of the training block, evenly spread, and all others."""
    splits = Store(store).splits
    training = np.flatnonzero(splits.inside(label.index.to_numpy(), "train"))
    drop = np.setdiff1d(training, training[np.linspace(2, len(training) - 1, labelled).astype(int)])
    found = label.to_frame()
    found.iloc[drop] = np.nan
    return found


@pytest.fixture
def worth(tmp_path: Path) -> Worth:
    """The verb on a store and labels; returns the first column of its JSON."""

    def run(store: Path, labels: pd.DataFrame, *words: str) -> dict[str, Any]:
        labels.to_csv(tmp_path / "labels.csv")
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        given = ["--store", str(store), "--labels", str(tmp_path / "labels.csv"), "--out", str(out), *words]
        assert main(["worth", *given]) == 0
        found: dict[str, Any] = json.loads((out / "worth.json").read_text())["columns"][0]
        return found

    return run


@pytest.mark.parametrize(
    ("design", "labelled", "verdict", "kind"),
    [("N0", 60, "no", ""), ("P1", 60, "yes", "linear"), ("P2", 200, "yes", "nonlinear")],
)
def test_where_the_answer_is_known_it_is_given(
    worlds: Any, worth: Worth, capsys: Any, design: str, labelled: int, verdict: str, kind: str
) -> None:
    store, label = worlds(design)
    found = worth(store, table(label, store, labelled), "--columns", "asked")
    assert (found["verdict"], found["kind"]) == (verdict, kind)
    assert found["labelled"] == labelled
    assert found["unlabelled_per_label"] == pytest.approx(found["unlabelled"] / labelled)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert any(line.startswith(f"Verdict: {verdict}") for line in lines)
    if design == "P2":  # no linear row has much, and the best one without a network is said to be the rival
        skill = {row["row"]: row["value"] for row in found["scores"]}
        assert max(skill["raw window, ridge"], skill["PCA of the window, ridge"]) < 0.1 < 0.2 < skill[found["rival"]]


def test_where_most_steps_are_labelled_pretraining_has_no_lever(worlds: Any, worth: Worth) -> None:
    store, label = worlds("P1")
    found = worth(store, table(label, store, 1200))
    assert found["verdict"] == "no"
    assert found["unlabelled_per_label"] == pytest.approx(1.83, abs=0.01)
    assert "do not tell" in found["reasons"][0]


def test_noise_is_not_called_worth_it(worlds: Any, worth: Worth) -> None:
    store, label = worlds("N0")
    noise = pd.Series(np.random.default_rng(1).standard_normal(len(label)), label.index, name="asked")
    found = worth(store, table(noise, store, 60))
    assert found["verdict"] == "cannot be told"
    assert found["reasons"][0].startswith("No row has skill")


def test_several_columns_get_a_line_each_and_dates_limit_the_labels(worlds: Any, worth: Worth, capsys: Any) -> None:
    store, label = worlds("P1")
    both = pd.DataFrame({"asked": label, "turned": -label})
    first = worth(store, both, "--columns", "asked,turned", "--labelled", "1900-01-03:1900-05-01")
    assert first["labelled"] == 119
    lines = capsys.readouterr().out.splitlines()
    asked, turned = (next(line for line in lines if line.startswith(name)) for name in ("asked", "turned"))
    assert asked.split()[1:] == turned.split()[1:]  # a label and its negative are one task


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        (lambda t, s: t, ["--columns", "askd"], "Did you mean 'asked'?"),
        (lambda t, s: t[~s.inside(t.index.to_numpy(), "val")], [], "labels in the val block"),
        (lambda t, s: t[~s.inside(t.index.to_numpy(), "test")], [], "labels in the test block"),
        (lambda t, s: t * 0 + 3, [], "labels of 'asked' that vary in the train block"),
        (lambda t, s: t, ["--labelled", "1900-01-03:1900-01-15"], "at least 20 labels of 'asked'"),
        (lambda t, s: t, ["--labelled", "1900-01-03"], "a first and a last date"),
        (lambda t, s: t, ["--labelled", "1800:1801"], "dates within the training block"),
        (lambda t, s: t.iloc[:0], [], "expected lines of labels, got a header alone"),
        (lambda t, s: t, ["--window", "0"], "window ≥ 1"),
        (lambda t, s: t, ["--ahead", "[]"], "expected ahead ≥ 1, at least one"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used_are_refused_in_a_line(
    worlds: Any, tmp_path: Path, capsys: Any, change: Any, words: list[str], told: str
) -> None:
    store, label = worlds("P1")
    file = tmp_path / "labels.csv"
    change(label.to_frame(), Store(store).splits).to_csv(file)
    given = ["--columns", "asked"] if "--columns" not in words else []
    assert (
        main(["worth", "--store", str(store), "--labels", str(file), "--out", str(tmp_path / "o"), *given, *words]) == 2
    )
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
