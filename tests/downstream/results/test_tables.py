"""The one table maker, targets with known scores, and the sentence that says what was found."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.metrics.paired_bootstrap import Resampled, compare
from earthssl.downstream.results.finding import finding
from earthssl.downstream.results.row import Role, Row, over_seeds
from earthssl.downstream.results.scores import tables
from earthssl.downstream.results.summary import DIFFERENCES, SCORES
from earthssl.downstream.results.target import Metric, Target, class_target, number_target
from earthssl.ssl.common.errors import EarthSSLError

YEARS = np.repeat(np.arange(20), 5)
RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=100)
TARGET = number_target("t", TRUTH, np.zeros(100), YEARS, block=2)


def row(name: str, role: Role, noise: float, seed: int | None = None, **more: object) -> Row:
    rng = np.random.default_rng([seed or 0, len(name)])
    return Row(name, role, {"t": TRUTH + noise * rng.normal(size=100)}, seed, **more)  # type: ignore[arg-type]


def test_numbers_by_hand() -> None:
    perfect, none = Row("perfect", Role.BASELINE, {"t": TRUTH}), Row("none", Role.BASELINE, {"t": np.zeros(100)})
    half = Row("half", Role.BASELINE, {"t": TRUTH / 2})
    scores, _ = tables([TARGET], [perfect, none, half], draws=1000)
    value = scores.set_index(["row", "metric"])["value"]
    assert value["perfect", "skill"] == 1
    assert value["none", "skill"] == pytest.approx(0, abs=1e-12)
    assert value["half", "skill"] == pytest.approx(0.75)
    assert value["half", "r"] == pytest.approx(1)
    assert value["none", "r"] == 0
    assert value["half", "rmse"] == pytest.approx(np.sqrt((TRUTH**2).mean()) / 2)
    assert TARGET.errors is not None
    assert TARGET.errors(half).sum() == pytest.approx((TRUTH**2).sum() / 4)


def test_a_row_of_seeds_scores_the_mean_of_their_scores_and_each_stands_apart() -> None:
    rows = [row("base", Role.BASELINE, 1.0), *(row("pretrained", Role.PRETRAINED, 0.5, seed) for seed in (3, 4))]
    scores, differences = tables([TARGET], rows, draws=1000)
    assert list(scores.columns) == list(SCORES)
    assert list(differences.columns) == list(DIFFERENCES)
    skill = scores[scores.metric == "skill"].set_index(["row", "seed"])["value"]
    assert skill["pretrained", ""] == pytest.approx((skill["pretrained", "3"] + skill["pretrained", "4"]) / 2)
    assert ("base", "0") not in skill.index
    assert over_seeds(rows).tolist() == [[1, 0, 0], [0, 0.5, 0.5]]
    beside = differences.set_index(["row", "reference", "metric"])
    assert beside.loc[("pretrained", "base", "skill"), "verdict"] == "better"
    assert beside.loc[("pretrained", "base", "rmse"), "verdict"] == "better"  # smaller is better
    assert set(differences.reference) == {"base"}


def test_the_climatology_is_no_reference_and_known_truth_never_is() -> None:
    rows = [row("climatology", Role.BASELINE, 2.0, reference=False), row("known", Role.KNOWN, 0.1),
            row("base", Role.BASELINE, 1.0), row("twin", Role.UNTRAINED, 1.0, 0),
            row("net", Role.SCRATCH, 1.0, 0)]  # fmt: skip
    _, differences = tables([TARGET], rows, draws=1000)
    assert set(differences.reference) == {"base", "twin", "net"}


def test_a_difference_of_rounding_is_no_verdict() -> None:
    nudged = Row("pretrained", Role.PRETRAINED, {"t": TRUTH / 2 + 1e-13})
    _, differences = tables([TARGET], [Row("base", Role.BASELINE, {"t": TRUTH / 2}), nudged], draws=1000)
    assert set(differences.verdict) == {"undecided"}


def test_few_units_are_drawn_one_by_one_and_too_few_are_refused() -> None:
    five = number_target("t", TRUTH, np.zeros(100), np.repeat(np.arange(5), 20), block=3)
    scores, _ = tables([five], [row("base", Role.BASELINE, 1.0)], draws=1000)
    alone = number_target("t", TRUTH, np.zeros(100), np.repeat(np.arange(5), 20), block=1)
    assert scores.equals(tables([alone], [row("base", Role.BASELINE, 1.0)], draws=1000)[0])
    three = number_target("t", TRUTH, np.zeros(100), np.repeat(np.arange(3), [34, 33, 33]))
    with pytest.raises(EarthSSLError, match="independent units"):
        tables([three], [row("base", Role.BASELINE, 1.0)], draws=1000)


def test_rows_without_a_target_or_a_metric_are_left_out_of_it() -> None:
    other = number_target("u", TRUTH, np.zeros(100), YEARS)
    calls = Metric("hits", lambda rows: lambda w: np.full(len(rows), 0.5), takes=lambda one: one.calls)
    target = Target("t", YEARS, [*TARGET.metrics, calls])
    scores, _ = tables([target, other], [row("base", Role.BASELINE, 1.0)], draws=1000)
    assert set(scores.target) == {"t"}
    assert "hits" not in set(scores.metric)


def test_a_statistic_that_takes_all_draws_at_once_gives_the_same_intervals() -> None:
    forecasts = np.stack([TRUTH, TRUTH / 2, -TRUTH])
    error = (forecasts - TRUTH) ** 2

    class AtOnce(Resampled):
        def __call__(self, weights: np.ndarray) -> np.ndarray:
            return error @ weights / weights.sum()

        def resample(self, counts: np.ndarray) -> np.ndarray:
            sums = np.stack([np.bincount(YEARS, e) for e in error], 1)
            return counts @ sums / (counts @ np.bincount(YEARS))[:, None]

    one, two = (compare(s, YEARS, ["a", "b", "c"], ["a"], draws=500, block=2)
                for s in (lambda w: error @ w / w.sum(), AtOnce()))  # fmt: skip
    for found, expected in zip(one, two, strict=True):
        numbers = found.select_dtypes("number").to_numpy()
        assert numbers == pytest.approx(expected.select_dtypes("number").to_numpy(), rel=1e-12, abs=1e-15)


def test_classes_by_hand() -> None:
    truth = np.tile([0, 1, 1, 2], 25)
    clim = np.tile([0.25, 0.5, 0.25], (100, 1))
    target = class_target("c", truth, clim, YEARS)
    right = Row("right", Role.BASELINE, {"c": np.eye(3)[truth]})
    scores, _ = tables([target], [right, Row("clim", Role.BASELINE, {"c": clim})], draws=1000)
    value = scores.set_index(["row", "metric"])["value"]
    assert value["right", "brier_skill"] == 1
    assert value["clim", "brier_skill"] == pytest.approx(0)
    assert value["clim", "accuracy"] == 0.5
    assert value["clim", "balanced_accuracy"] == pytest.approx(1 / 3)


def test_the_finding_names_the_subject_its_twin_and_the_best_baseline() -> None:
    rows = [row("base [ridge]", Role.BASELINE, 1.0), row("worse [ridge]", Role.BASELINE, 3.0),
            row("pretrained [ridge]", Role.PRETRAINED, 0.3, 0),
            row("untrained [ridge]", Role.UNTRAINED, 1.0, 0)]  # fmt: skip
    scores, differences = tables([TARGET], rows, draws=1000)
    said = finding(scores, differences, rows, [("t", "skill")])
    assert said.startswith("pretrained [ridge] has skill 0.892")
    assert "its untrained twin (untrained [ridge]" in said
    assert "the best baseline (base [ridge]" in said
    assert said.count("better") == 2
    alone = finding(*tables([TARGET], rows[:2], draws=1000), rows[:2], [("t", "skill")])
    assert alone.startswith("No pretrained encoder is in this table; the best row, base [ridge], has skill")
