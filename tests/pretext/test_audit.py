"""The audit: solvers, units, resumption, and verdicts that follow from the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.cli.studies import audit
from earthssl.downstream.studies.audit_table import excess_summary
from earthssl.downstream.studies.courses import Trained
from earthssl.pretext.audit import ITSELF, AuditConfig
from earthssl.pretext.spatial.orientation import Orientation
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.budget import Course, StudyTraining
from earthssl.ssl.training.objective import Outcome


@pytest.fixture
def config(small_store: Path, tmp_path: Path) -> AuditConfig:
    training = StudyTraining(steps=6, batch_size=8, warmup_steps=2, val_every=6, save_every=3, accelerator="cpu")
    tasks = {"order": {"kind": "order"}, "orientation": {}}
    return AuditConfig(
        str(small_store), str(tmp_path / "audit"), tasks, EncoderConfig("nano", 3, (1, 2, 3)), training,
        eval_batch=5, fit_batches=4, draws=200,
    )  # fmt: skip


def test_every_solver_is_scored_on_the_same_batches_and_kept(config: AuditConfig) -> None:
    """Task, three censored, the analytic cues; the table says the excess; a second run trains nothing."""
    folder = audit(config, "earthssl audit")
    table = pd.read_csv(folder / "scores.csv")
    assert set(table[table.target == "order"].row) == {
        ITSELF, "validity mask only", "position and season only", "mean and deviation of each patch only",
        "chain of nearest frames", "mean and variance of each frame",
    }  # fmt: skip
    units = pd.read_csv(Path(config.out) / "solvers" / "order" / "task.csv")
    assert list(units.unit) == list(range(10))  # 46 windows of 3 months in the validation block, 5 at a time
    assert set(pd.read_csv(folder / "excess.csv").task) == {"order", "orientation"}
    assert "solver" in units
    assert read_json(folder / "result.json", "it")["command"] == "earthssl audit"
    solvers = Path(config.out) / "solvers"
    before = {file: file.stat().st_mtime_ns for file in solvers.rglob("*.csv")}
    budgets = pd.read_csv(folder / "budget.csv")
    assert len(budgets) == 8
    assert set(budgets.taken) == {6}
    assert (folder / "skill_against_steps.png").is_file()
    (solvers / "order" / "validity.csv").unlink()
    again = audit(config)
    after = {file: file.stat().st_mtime_ns for file in solvers.rglob("*.csv")}
    redone = {file.name for file in before if before[file] != after[file]}
    assert redone == {"validity.csv"}
    assert pd.read_csv(again / "scores.csv").equals(table)


def test_cues_see_what_was_trained(config: AuditConfig) -> None:
    """Components fitted on training windows, and a trained encoder's features, reach the analytic cues."""
    tasks = {"eof_masking": {"components": 24}, "temporal_latent": {"leads": [1]}}
    table = pd.read_csv(audit(replace(config, objectives=tasks)) / "scores.csv")
    rows = {name: set(own.row) for name, own in table.groupby("target")}
    regression, persistence = "linear regression on the visible components", "damped persistence of the features"
    assert rows["eof_masking"] == {ITSELF, "validity mask only", "position and season only", regression}
    assert rows["temporal_latent"] == {ITSELF, persistence}
    value = table.set_index("row")["value"]
    assert value[regression] < 0.05
    assert value[persistence] < 1
    (Path(config.out) / "solvers" / "temporal_latent" / "encoder.safetensors").unlink()
    (Path(config.out) / "solvers" / "temporal_latent" / "cue0.csv").unlink()
    with pytest.raises(EarthSSLError, match="audit in a new folder"):
        audit(replace(config, objectives=tasks))


@pytest.mark.slow
def test_what_a_fitted_cue_leaves_over_is_audited(config: AuditConfig) -> None:
    """Blind solvers and cues are scored in the same unit: 0 is the fitted cue, or the climatology."""
    tasks = {
        "linear_residual": {"leads": [1], "components": 16},
        "interpolation_residual": {"components": 16},
        "stochastic_lead_time": {"leads": [1]},
        "variance": {},
    }
    table = pd.read_csv(audit(replace(config, objectives=tasks)) / "scores.csv")
    rows = {name: set(own.row) for name, own in table.groupby("target")}
    squares = "regression of the rest on own last steps and squares"
    dressed = "per-point regression on own last steps, with the spread of its errors"
    assert {ITSELF, squares} < rows["linear_residual"]
    assert {ITSELF, "interpolation of the rest in space and time"} < rows["interpolation_residual"]
    assert {ITSELF, dressed} < rows["stochastic_lead_time"]
    assert rows["variance"] == {ITSELF}
    value = table.set_index(["target", "row"])["value"]
    assert value["stochastic_lead_time", dressed] > 0.1
    assert value["linear_residual", squares] < 0.2


def test_batches_that_pose_nothing_are_no_unit(config: AuditConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that can ask nothing in the first validation batch is scored on the others, and so are its cues."""
    ask = Orientation.forward

    def forward(self: Orientation, encoder: Any, batch: Any) -> Outcome:
        if not self.training and batch.times.min() == first:
            return Outcome(torch.zeros(()), {}, posed=False)
        return ask(self, encoder, batch)

    windows = Windows(Store(config.store), "val", 3, 0)
    first = windows.batch([0]).times.min()
    monkeypatch.setattr(Orientation, "forward", forward)
    audit(replace(config, objectives={"orientation": {}}))
    for file in (Path(config.out) / "solvers" / "orientation").glob("*.csv"):
        assert list(pd.read_csv(file).unit) == list(range(1, 10)), file.name


def test_an_audit_is_gone_on_with_only_as_it_was_begun(config: AuditConfig) -> None:
    """Other settings, an unknown task, a budget of nothing."""
    audit(replace(config, objectives={"orientation": {}}))
    with pytest.raises(EarthSSLError, match="begun with another 'objectives'"):
        audit(config)
    with pytest.raises(EarthSSLError, match="Did you mean 'order'"):
        audit(replace(config, objectives={"ordr": {}}))
    with pytest.raises(EarthSSLError, match=r"audit\.eval_batch"):
        replace(config, eval_batch=0)


def course(*skills: float, budget: int = 100) -> Course:
    """Validations every ten steps."""
    return Course(10 * np.arange(1, len(skills) + 1), np.array(skills), budget, 0.002)


def test_a_task_below_its_cue_is_said_to_be_so_and_whether_it_was_still_gaining() -> None:
    """One that rose to the last step is not called solved by its cue; one that had stopped is."""
    rising, level = course(*np.linspace(-0.1, 0.3, 10)), course(0.0, *[0.3] * 9)
    for own, verdict, words in (
        (rising, "below its cue, still gaining", "still below its best cue, a (0.50), at this budget"),
        (level, "solved by its cue", "solved by its cue, a (0.50)"),
    ):
        trained = [Trained("t", ITSELF, own), Trained("t", "a", level)]
        made = excess_summary(table(**{ITSELF: (0.3, 0.05), "a": (0.5, 0.05)}), "t", {}, 1000, trained)
        line = made.tables["excess"].iloc[0]
        assert line["verdict"] == verdict
        assert words in line["in_words"]
        assert ("still gaining when the budget was spent" in line["in_words"]) == (own is rising)
        assert any("more steps would change their rows: t (the task itself)" in n for n in made.notes) == (
            own is rising
        )
    above = excess_summary(table(**{ITSELF: (0.6, 0.05), "a": (0.5, 0.05)}), "t", {}, 1000,
                           [Trained("t", ITSELF, level), Trained("t", "a", rising)])  # fmt: skip
    assert "the excess is an upper limit" in above.tables["excess"].iloc[0]["in_words"]


def table(**skills: Any) -> pd.DataFrame:
    """A task with its solvers' skill on twelve batches."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=12)
    rows = [
        {"task": "t", "solver": name, "kind": "task" if name == ITSELF else "censored", "unit": unit,
         "skill": mean + spread * noise[unit]}
        for name, (mean, spread) in skills.items() for unit in range(12)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("itself", "cue", "verdict", "best"),
    [
        ((0.5, 0.05), (0.2, 0.05), "above its cues", "a"),
        ((0.5, 0.05), (0.5, 0.2), "solved by its cue", "a"),
        ((0.5, 0.05), (0.45, 0.9), "undecided", "a"),
        ((0.5, 0.05), (-0.4, 0.05), "above its cues", "the trivial answer"),
        ((0.0, 0.3), (-0.4, 0.05), "not solved", "the trivial answer"),
    ],
)
def test_verdicts(itself: tuple[float, float], cue: tuple[float, float], verdict: str, best: str) -> None:
    """Excess is over the best cue, or over the trivial answer where every cue is below it."""
    made = excess_summary(table(**{ITSELF: itself, "a": cue, "b": (-0.9, 0.1)}), "t", {}, 1000)
    line = made.tables["excess"].iloc[0]
    assert line["verdict"] == verdict
    assert line["best_cue"] == best
    floor = max(0.0, line["cue_skill"])
    assert line["excess"] == pytest.approx(line["skill"] - floor)
    assert line["excess_low"] <= line["excess"] <= line["excess_high"]
