"""Brier skill against the basins' own frequencies: by hand, limits, and a draw by weights is the drawn sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from earthssl.downstream.metrics.events import CALLS, best_threshold
from earthssl.downstream.metrics.paired_bootstrap import Statistic
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.tasks.rapid_intensification.models import CLIMATOLOGY, Chances, Problem, climatology
from earthssl.downstream.tasks.rapid_intensification.scores import (
    AP,
    AUC,
    BSS,
    BSS_TRAIN,
    HSS,
    PSS,
    by_basin,
    contingency,
    event_target,
    own_skill,
    reliabilities,
    target_of,
)


def ranked(p: np.ndarray, event: np.ndarray, basin: np.ndarray) -> dict[str, Statistic]:
    rows = [Row(str(k), Role.BASELINE, {"event": one}) for k, one in enumerate(p)]
    target = event_target("event", event, basin, np.arange(len(event)))
    return {metric.name: metric.statistic(rows) for metric in target.metrics}


def test_skill_by_hand() -> None:
    """Two basins with one event of two each: the reference errs by 4 × .25 = 1, the forecasts by .1 and by 2."""
    event, basin = np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.9, 0.2], [0.0, 0.0, 0.0, 0.0]])
    found = own_skill(p, event, basin)(np.ones(4))
    assert found == pytest.approx([1 - (0.04 + 0.01 + 0.01 + 0.04), 1 - 2])


def test_weights_are_repetitions() -> None:
    """Every score under weights is that of the repeated samples, whose reference is their own frequency by basin."""
    rng = np.random.default_rng(0)
    p, event, basin = rng.random((2, 80)), rng.integers(0, 2, 80), rng.integers(0, 3, 80)
    weight = rng.poisson(1.0, 80)
    again = [np.repeat(one, weight, axis=-1) for one in (p, event, basin)]
    for name in (BSS, AUC, AP):
        one, two = ranked(p, event, basin)[name](weight.astype(float)), ranked(*again)[name](np.ones(weight.sum()))
        assert one == pytest.approx(two)
    rate = np.array([again[1][again[2] == k].mean() for k in range(3)])[again[2]]
    expected = 1 - ((again[0] - again[1]) ** 2).sum(1) / ((rate - again[1]) ** 2).sum()
    assert ranked(p, event, basin)[BSS](weight.astype(float)) == pytest.approx(expected)


def test_one_class_only_has_no_skill_to_speak_of() -> None:
    """NaN, which the bootstrap leaves out, not a number."""
    assert np.isnan(ranked(np.full((1, 3), 0.2), np.zeros(3, int), np.zeros(3, int))[BSS](np.ones(3))).all()


def test_limits_are_known(problem: Problem) -> None:
    """A seer has every skill 1; the test frequencies have none; seeds count by the mean of their scores."""
    event = problem.event
    rates = np.array([event[problem.inside("test") & (problem.basin == k)].mean() for k in (0, 1)])

    def row(name: str, chances: Chances, seed: int | None = None) -> Row:
        least = {(problem.name, score): best_threshold(chances.val, event[problem.inside("val")], score)
                 for score in CALLS}  # fmt: skip
        return Row(name, Role.BASELINE, {problem.name: chances.test}, seed, threshold=least)

    seer = row("seer", problem.chances(event.astype(float)))
    constant = row("constant", problem.chances(rates[problem.basin]))
    twice = [replace(one, name="mixed", seed=k) for k, one in enumerate((seer, constant))]
    rows = [seer, constant, *twice, row(CLIMATOLOGY, climatology(problem))]
    scores, _ = tables([target_of(problem, main=True)], rows, draws=100, references=["constant"])
    value = scores[scores["seed"] == ""].set_index(["row", "metric"])["value"]
    for metric in (BSS, BSS_TRAIN, AUC, PSS, HSS):
        assert value["seer", metric] == pytest.approx(1)
    assert value["constant", BSS] == pytest.approx(0, abs=1e-12)
    assert value["mixed", BSS] == pytest.approx(0.5)
    assert value[CLIMATOLOGY, BSS_TRAIN] == 0
    assert value[CLIMATOLOGY, BSS] < 0
    seeds = scores[(scores["row"] == "mixed") & (scores["metric"] == BSS)]
    assert dict(zip(seeds["seed"], seeds["value"].astype(float).round(9), strict=True)) == {"": 0.5, "0": 1.0, "1": 0.0}
    basins = by_basin(problem, rows, 100).set_index(["basin", "row", "metric"])
    for basin in ("NA", "SI"):
        assert basins.loc[(basin, "seer", BSS), "value"] == pytest.approx(1)
        assert basins.loc[(basin, "constant", BSS), "value"] == pytest.approx(0, abs=1e-12)
    calls = contingency(problem, rows)
    seen = calls[(calls["row"] == "seer") & (calls["basin"] == "all")]
    assert (seen["misses"] == 0).all()
    assert seen["hits"].unique() == event[problem.inside("test")].sum()
    assert len(reliabilities(problem, rows).query("row == 'seer'")) == 2
