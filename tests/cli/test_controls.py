"""`earthssl controls`: pretraining finds what is hidden where it can, nothing where there is nothing, and says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from earthssl.cli.controls import NOT_POSED, RECIPES, controls, refuse_wrong
from earthssl.cli.main import main
from earthssl.downstream.studies.controls import ControlsConfig, cell_file
from earthssl.pretext import TASKS
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import EncoderConfig


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> ControlsConfig:
    """A smaller world with a stronger signal: ten seconds for what takes the full one minutes."""
    return ControlsConfig(
        out=str(tmp_path_factory.mktemp("controls") / "run"), designs=["N0", "P2"], steps=250, length=4000,
        amplitudes={"P2": 1.5}, encoder=EncoderConfig("nano", 2, (1, 4, 8)), labels=[50, 500], label_draws=3,
        draws=1000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(quick: ControlsConfig) -> Path:
    return controls(quick)


def skill(report: Path, row: str, target: str) -> float:
    scores = pd.read_csv(report / "scores.csv")
    return float(scores.loc[(scores["row"] == row) & (scores["target"] == target), "value"].iloc[0])


def test_prediction_in_time_finds_what_is_not_linear(report: Path) -> None:
    assert skill(report, "pretrained lead_time", "P2, 50") > 0.2
    assert skill(report, "pretrained lead_time", "P2, 500") > 0.3
    for row in ("untrained", "PCA of the window", "predictable directions (CCA)", "raw window", "true state"):
        assert skill(report, row, "P2, 50") < 0.05


def test_nothing_is_won_where_all_is_linear(report: Path) -> None:
    d = pd.read_csv(report / "differences.csv")
    mine = d[d["target"].str.startswith("N0") & (d["row"] == "pretrained lead_time")]
    linear = mine[mine["reference"] == "predictable directions (CCA)"]
    assert len(linear) == 2
    assert not (linear["verdict"] == "better").any()
    assert skill(report, "pretrained lead_time", "N0, 500") < skill(report, "true state", "N0, 500")
    assert skill(report, "pretrained lead_time", "N0, 500") > 0.4


def test_the_verdict_is_told_and_kept(report: Path) -> None:
    found = json.loads((report / "result.json").read_text())
    assert found["passed"]
    assert {one["design"] for one in found["checks"]} == {"N0", "P2"}
    assert "as they must be" in (report / "table.txt").read_text()
    assert "| pretrained lead_time |" in (report / "table.md").read_text()
    refuse_wrong(report)


def test_what_is_done_is_not_done_again_and_a_failure_has_its_status(
    quick: ControlsConfig, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell whose encoder has nothing (its errors are the climatology's) is kept, and judged as what it is."""
    file = cell_file(Path(quick.out), "P2", "lead_time", 0)
    whole, cell = file.read_text(), json.loads(file.read_text())
    for one in cell["rows"]["lead_time"]["scores"]:
        one["error"] = one["reference"]
    file.write_text(json.dumps(cell))
    monkeypatch.setattr("earthssl.cli.controls.pretrain_once", lambda config: pytest.fail("pretrained again"))
    try:
        folder = controls(quick)
        with pytest.raises(EarthSSLError, match=r"P2: lead_time has skill 0\.00"):
            refuse_wrong(folder)
    finally:
        file.write_text(whole)
    refuse_wrong(controls(quick))


def test_other_settings_in_the_same_folder_are_refused(quick: ControlsConfig, report: Path) -> None:
    with pytest.raises(EarthSSLError, match="begun with another 'steps'"):
        controls(dataclasses.replace(quick, steps=400))


def test_every_pretext_task_has_a_row_or_a_reason() -> None:
    assert set(RECIPES) | set(NOT_POSED) == set(TASKS)
    assert not set(RECIPES) & set(NOT_POSED)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--designs", "[N0, N0]"], "expected some, each once"),
        (["--designs", "[Q1]"], "controls.designs"),
        (["--objectives", "cross_variable"], "needs two variables"),
        (["--objectives", "masks"], "controls.objectives"),
        (["--steps", "1"], "steps ≥ 10"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["controls", "--out", str(tmp_path / "x"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_full_set_is_as_it_must_be(tmp_path: Path) -> None:
    """N0, P1 and P2 at the budget from which on the stated skills are asked for."""
    refuse_wrong(controls(ControlsConfig(out=str(tmp_path / "full"))))


@pytest.mark.slow
def test_every_objective_can_be_posed(tmp_path: Path) -> None:
    folder = controls(
        ControlsConfig(out=str(tmp_path / "all"), designs=["P4"], objectives="all", steps=20, length=2000)
    )
    rows = set(pd.read_csv(folder / "scores.csv")["row"])
    assert {f"pretrained {name}" for name in RECIPES} <= rows
