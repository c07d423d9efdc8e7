"""Budgets by rule: the numbers of the rule, a training that stops and keeps its best, and its course in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from earthssl.ssl.training.budget import Course, StudyTraining
from earthssl.ssl.training.callbacks import Average, Gaining
from earthssl.ssl.training.config import TrainingConfig
from torch import nn


def test_the_rule_in_numbers() -> None:
    """Rate 2e-3 at width 64, as 1/width, as 1/√steps beyond 6000; a tenth of warm-up; twenty validations."""
    made = StudyTraining().by_rule(64)
    assert type(made) is TrainingConfig
    assert (made.steps, made.batch_size, made.lr, made.warmup_steps, made.val_every) == (6000, 32, 2e-3, 600, 300)
    assert (made.save_every, made.schedule, made.patience, made.gain) == (300, "steady", 8, 0.002)
    assert StudyTraining().by_rule(128).lr == pytest.approx(1e-3)
    assert StudyTraining(steps=24000).by_rule(64).lr == pytest.approx(1e-3)
    assert StudyTraining(steps=7).by_rule(64).warmup_steps == 1
    said = StudyTraining(steps=50, lr=0.1, warmup_steps=3, val_every=9, save_every=4).by_rule(128)
    assert (said.lr, said.warmup_steps, said.val_every, said.save_every) == (0.1, 3, 9, 4)
    assert said.by_rule(64) is said
    with pytest.raises(EarthSSLError, match=r"training\.lr"):
        StudyTraining(lr=-1.0)
    with pytest.raises(EarthSSLError, match=r"training\.steps: expected a whole number ≥ 2"):
        StudyTraining(steps=1)
    with pytest.raises(EarthSSLError, match=r"training\.ema: expected 0"):
        StudyTraining(ema=0.9)
    with pytest.raises(EarthSSLError, match=r"training\.gain: expected 0 with several processes"):
        TrainingConfig(gain=0.1, devices=2)


def test_the_average_forgets_its_beginnings_at_any_length() -> None:
    """Weights of power form: of s in proportion to s(s+1)…(s+8), so the mean age is about an eleventh of the run."""
    average = Average(None)
    assert average.share(1) == 1
    for length in (50, 500):
        shares = np.array([average.share(step) for step in range(1, length + 1)])
        left = np.cumprod(np.r_[1 - shares[1:], 1.0][::-1])[::-1]
        weights = shares * left
        assert weights.sum() == pytest.approx(1)
        expected = np.array([math.prod(range(s, s + 9)) for s in range(1, length + 1)], float)
        assert weights == pytest.approx(expected / expected.sum(), rel=1e-6, abs=1e-12)
        assert (weights * (length - np.arange(1, length + 1))).sum() == pytest.approx(length / 11, rel=0.05)
    assert Average(0.9).share(5) == pytest.approx(0.1)


def trainer(step: int, skill: float | None) -> Any:
    """What a callback sees at a validation."""
    metrics = {} if skill is None else {"val/skill": torch.tensor(skill)}
    return SimpleNamespace(callback_metrics=metrics, global_step=step, sanity_checking=False, should_stop=False)


def test_the_best_is_kept_and_no_gain_ends(tmp_path: Path) -> None:
    """By hand: small rises do not count as gains, are kept all the same, and patience runs out."""
    module = nn.Linear(1, 1, bias=False)
    gaining = Gaining(tmp_path / "best.ckpt", 0.05, 3, None)
    assert gaining.restore(module) is None
    skills = [0.1, 0.2, 0.24, None, 0.23, 0.22]
    stopped = []
    for number, skill in enumerate(skills, 1):
        nn.init.constant_(module.weight, float(number))
        now = trainer(number, skill)
        gaining.on_validation_end(now, module)  # type: ignore[arg-type]
        stopped.append(now.should_stop)
    assert stopped == [False, False, False, False, False, True]
    assert gaining.restore(module) == 3
    assert float(module.weight.detach()) == 3
    # One that goes on after its end stops before its first step; one that had patience left does not.
    again = Gaining(tmp_path / "best.ckpt", 0.05, 3, None)
    again.load_state_dict(gaining.state_dict())
    begun = trainer(6, None)
    again.on_train_start(begun, module)  # type: ignore[arg-type]
    assert begun.should_stop
    fresh = trainer(0, None)
    Gaining(tmp_path / "best.ckpt", 0.05, 3, None).on_train_start(fresh, module)  # type: ignore[arg-type]
    assert not fresh.should_stop


def test_a_run_stops_and_its_checkpoint_is_that_of_the_best_validation(
    small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """It says both numbers of steps; its weights are, to the byte, those of a run that ended there."""
    steady = {"schedule": "steady", "val_every": 2, "lr": 3e-3}
    checkpoint = small_pretrain(tmp_path / "run", steps=40, gain=1e9, patience=4, **steady)
    course = Course.read(tmp_path / "run" / "history.csv", TrainingConfig(steps=40, warmup_steps=2, gain=1e9))
    assert list(course.steps) == [2, 4, 6, 8, 10]  # the first is the mark, four more are no gain of 1e9
    assert course.ended == "no more gain"
    record = read_json(checkpoint / "record.json", "it")
    assert record["steps"] == course.kept
    run = read_json(tmp_path / "run" / "run.json", "it")
    assert run["steps"] == course.kept
    if course.kept < 10:
        assert run["steps_taken"] == 10
    other = small_pretrain(tmp_path / "other", steps=course.kept, **steady)
    for part in ("encoder", "heads"):
        assert (checkpoint / f"{part}.safetensors").read_bytes() == (other / f"{part}.safetensors").read_bytes()
    table = pd.read_csv(tmp_path / "run" / "history.csv")
    both = [table[table["name"] == name].value.to_numpy() for name in ("val/skill", "val/masking/skill")]
    assert both[0] == pytest.approx(both[1])


def test_a_steady_rate_warms_up_and_stays(small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    small_pretrain(tmp_path / "run", steps=12, schedule="steady", log_every=1, warmup_steps=4, lr=4e-3)
    table = pd.read_csv(tmp_path / "run" / "history.csv")
    rates = table[table["name"] == "lr"].value.to_numpy()
    assert rates == pytest.approx(np.minimum(1e-3 * np.arange(2, 14), 4e-3))  # of the step to come


@pytest.mark.parametrize(
    ("skills", "kept", "ended"),
    [
        (np.linspace(0, 0.4, 10), 100, "budget spent, still gaining"),
        ([0, *[0.4] * 9], 20, "budget spent"),
        ([0, 0.4, *[0.401] * 8], 30, "budget spent"),
        ([0.1, 0.4, 0.3, 0.2], 20, "no more gain"),
        ([np.nan] * 10, 100, "budget spent"),
        ([], 100, "budget spent"),
    ],
)
def test_a_course_in_words(skills: Any, kept: int, ended: str) -> None:
    course = Course(10 * np.arange(1, len(skills) + 1), np.array(skills, float), 100, 0.002)
    assert (course.kept, course.ended) == (kept, ended)
    assert course.still_gaining == (ended == "budget spent, still gaining")


def test_skill_at_fractions_by_hand() -> None:
    course = Course(np.array([10, 20, 30]), np.array([0.1, 0.3, 0.2]), 100, 0.002)
    assert course.at([0.05, 0.1, 0.25, 1.0]) == [pytest.approx(x, nan_ok=True) for x in (math.nan, 0.1, 0.3, 0.2)]
    line = course.line()
    assert (line["taken"], line["kept"], line["skill at 25 %"]) == (30, 20, 0.3)
    with pytest.raises(EarthSSLError, match="expected the history of a training"):
        Course.read(Path("nowhere.csv"), TrainingConfig())
