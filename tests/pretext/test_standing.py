"""Where a trained encoder stands beside cues: the audit's numbers, and words for what is below."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from earthssl.cli.studies import audit
from earthssl.pretext import TASKS
from earthssl.pretext.audit import AuditConfig
from earthssl.pretext.standing import COLUMNS, TRIVIAL, below_cue, standing
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.budget import StudyTraining
from earthssl.ssl.training.multitask import MultitaskConfig
from earthssl.ssl.training.pretrain import PretrainConfig, pretrain


def test_a_checkpoint_stands_where_the_audit_of_its_task_says(small_store: Path, tmp_path: Path) -> None:
    """The same start, batches and rule: the same skill of the task, and of each analytic cue."""
    training = StudyTraining(steps=6, batch_size=8, val_every=3, accelerator="cpu")
    shape, tasks = EncoderConfig("nano", 3, (1, 2, 3)), {"order": {"kind": "order"}}
    own = AuditConfig(str(small_store), str(tmp_path / "audit"), tasks, shape, training, 5, fit_batches=4, draws=200)
    audit(own)
    ruled = training.by_rule(64)
    run = PretrainConfig(str(small_store), str(tmp_path / "run"), tasks, MultitaskConfig(), shape, ruled)
    found = standing(pretrain(run, TASKS), Store(small_store), ruled, TASKS, eval_batch=5, fit_batches=4)
    assert list(found.columns) == list(COLUMNS)
    folder = tmp_path / "audit" / "solvers" / "order"
    tables = {one["solver"].iloc[0]: one["skill"].mean() for one in map(pd.read_csv, sorted(folder.glob("*.csv")))}
    skills = found.set_index("solver")["skill"]
    assert skills["order"] == pytest.approx(tables["the task itself"], abs=1e-6)
    assert skills[TRIVIAL] == 0
    analytic = found[found["kind"] == "analytic"]
    assert len(analytic) == 2
    for name in analytic["solver"]:
        assert skills[name] == pytest.approx(tables[name], abs=1e-6)


def test_below_the_best_cue_in_words() -> None:
    """Task by task; below the trivial answer counts, equal to the cue does not, and what is no number is below."""

    def table(**skills: tuple[float, float]) -> pd.DataFrame:
        rows = []
        for name, (itself, cue) in skills.items():
            rows += [(name, name, "task", itself), (name, TRIVIAL, "trivial", 0.0), (name, "a cue", "analytic", cue)]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    assert below_cue(table(x=(0.5, 0.4), y=(0.4, 0.4))) == []
    assert below_cue(table(x=(0.3, 0.4), y=(0.5, 0.4))) == ["x 0.30, a cue 0.40"]
    assert below_cue(table(x=(-0.1, -0.4))) == ["x -0.10, the trivial answer 0.00"]
    assert below_cue(table(x=(float("nan"), 0.4))) == ["x nan, a cue 0.40"]
    assert below_cue(table()) == []
