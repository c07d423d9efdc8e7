"""Scores of masks by hand: one confusion matrix, objects across 0°E and round a pole, average precision, factors."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.metrics.events import Ranking
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.target import Target
from earthssl.downstream.tasks.segmentation.scores import Scorer, best_factors, called, iou, objects_of
from earthssl.ssl.fields.grid import LatLonGrid

GLOBE = LatLonGrid(np.array([75.0, 45, 15, -15, -45, -75]), np.arange(0.0, 360, 30))
REGION = LatLonGrid(np.array([50.0, 40, 30, 20, 10, 0]), np.arange(0.0, 120, 10))
CLASSES = ("background", "storm")


def chances_of(calls: np.ndarray, classes: int = 2) -> np.ndarray:
    """Chances of .9 for the class that is called."""
    return np.moveaxis(np.eye(classes)[calls] * 0.8 + 0.2 / classes, -1, 1)


def score(truth: np.ndarray, chances: np.ndarray, grid: LatLonGrid = GLOBE, overlap: float = 0.5) -> dict[str, float]:
    scorer = Scorer(CLASSES, grid, overlap)
    target = scorer.target("t", np.arange(len(truth)), 1)
    row = Row("own", Role.BASELINE, {"t": scorer.parts(chances, np.zeros(2), truth)})
    return values(target, row)


def values(target: Target, row: Row) -> dict[str, float]:
    return {m.name: float(m.statistic([row])(np.ones(len(target.units)))[0]) for m in target.metrics}


def test_iou_is_of_sums_and_not_a_mean_over_frames() -> None:
    """One frame with 1 hit of 1, one with 1 hit, 2 false alarms and 3 misses: 2 / 7, and not (1 + 1/6) / 2."""
    truth, calls = np.zeros((2, 6, 12), int), np.zeros((2, 6, 12), int)
    truth[0, 2, 3] = calls[0, 2, 3] = 1
    truth[1, 2, 1:5] = 1
    calls[1, 2, 4:7] = 1
    found = score(truth, chances_of(calls))
    assert found["iou"] == pytest.approx(2 / 7)
    assert found["iou, background"] == pytest.approx((144 * 1.0 - 7 * weight(2)) / (144 - 2 * weight(2)), abs=1e-9)
    cells = (2 * 72 - 7) / (2 * 72 - 2)
    assert found["mean_iou_cells"] == pytest.approx((2 / 7 + cells) / 2)


def weight(row: int) -> float:
    return float(GLOBE.area[row, 0] / GLOBE.area.mean())


def test_cells_count_by_their_area() -> None:
    truth, calls = np.zeros((1, 6, 12), int), np.zeros((1, 6, 12), int)
    truth[0, 0, 0] = truth[0, 2, 0] = calls[0, 2, 0] = 1  # the polar one is missed
    found = score(truth, chances_of(calls))
    assert found["iou"] == pytest.approx(weight(2) / (weight(0) + weight(2)))
    assert found["iou"] > 0.75


def test_weights_are_those_of_a_resample() -> None:
    """A frame that counts twice is the frame twice."""
    rng = np.random.default_rng(0)
    truth, chances = (rng.random((3, 6, 12)) < 0.2).astype(int), rng.dirichlet((8, 2), (3, 6, 12)).transpose(0, 3, 1, 2)
    scorer = Scorer(CLASSES, GLOBE, 0.5)
    target = scorer.target("t", np.arange(3), 1)
    row = Row("own", Role.BASELINE, {"t": scorer.parts(chances, np.zeros(2), truth)})
    twice = score(truth[[0, 2, 2]], chances[[0, 2, 2]])
    for metric in target.metrics:
        assert float(metric.statistic([row])(np.array([1.0, 0, 2]))[0]) == pytest.approx(
            twice[metric.name], nan_ok=True
        )


def test_an_object_across_the_seam_is_one() -> None:
    mask = np.zeros((2, 6, 12), bool)
    mask[0, 2, [0, 11]] = True  # across 0°E
    mask[0, 4, 5] = mask[0, 3, 6] = True  # by a corner
    mask[1, 2, 11] = mask[1, 3, 0] = True  # across it and by a corner
    labels, count = objects_of(mask, GLOBE)
    assert count == 3
    assert labels[0, 2, 0] == labels[0, 2, 11] > 0
    assert labels[0, 4, 5] == labels[0, 3, 6] != labels[0, 2, 0]
    assert labels[1, 2, 11] == labels[1, 3, 0]
    assert (labels[~mask] == 0).all()
    assert objects_of(mask, REGION)[1] == 5  # a region has two edges there


def test_cells_of_a_row_round_the_pole_touch_and_frames_do_not() -> None:
    mask = np.zeros((2, 6, 12), bool)
    mask[0, 0, [1, 7]] = True
    mask[1, 0, 1] = mask[1, 1, [5, 9]] = True
    _, count = objects_of(mask, GLOBE)
    assert count == 1 + 3


def test_objects_are_found_by_overlap() -> None:
    """Two true objects: one half covered, one by a quarter; a third call has nothing true under it."""
    truth, calls = np.zeros((1, 6, 12), int), np.zeros((1, 6, 12), int)
    truth[0, 2, [10, 11, 0, 1]] = 1
    calls[0, 2, [0, 1]] = 1
    truth[0, 4, 2:6] = 1
    calls[0, 4, 5] = 1
    calls[0, 1, 6] = 1
    found = score(truth, chances_of(calls), overlap=0.5)
    assert found["object_recall"] == pytest.approx(1 / 2)
    assert found["object_precision"] == pytest.approx(2 / 3)
    assert found["object_f1"] == pytest.approx(4 / 7)
    assert score(truth, chances_of(calls), overlap=0.25)["object_recall"] == 1
    nothing = score(truth, chances_of(np.zeros_like(calls)))
    assert nothing["object_recall"] == 0
    assert np.isnan(nothing["object_precision"])
    assert nothing["object_f1"] == 0  # nothing called, though there is something
    wrong = np.zeros_like(calls)
    wrong[0, 1, 8] = 1
    assert score(truth, chances_of(wrong))["object_f1"] == 0  # all calls wrong
    assert score(np.zeros_like(truth), chances_of(wrong))["object_f1"] == 0  # and where nothing is
    assert np.isnan(score(np.zeros_like(truth), chances_of(np.zeros_like(calls)))["object_f1"])


def test_average_precision_is_that_of_the_ranking() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random((60, 6, 12)) < 0.1).astype(int)
    odds = rng.normal(size=truth.shape) + 2 * truth
    chance = 1 / (1 + np.exp(-odds))
    found = score(truth, np.stack([1 - chance, chance], 1), REGION)["average_precision"]
    area = np.broadcast_to(REGION.area, truth.shape).ravel()
    exact = Ranking(chance.ravel(), truth.ravel()).average_precision(area)[0]
    assert found == pytest.approx(exact, abs=0.003)
    flat = score(truth, np.full((60, 2, 6, 12), 0.5), REGION)["average_precision"]
    assert flat == pytest.approx(
        float((truth * REGION.area).sum() / (60 * REGION.area.sum()))
    )  # of no skill, the base rate


@pytest.mark.parametrize("scale", [0.02, 1.0, 20.0])
def test_factors_make_up_for_chances_that_are_too_low_or_too_high(scale: float) -> None:
    """Odds times any number in reach: the calls, and their IoU, are those of the best threshold."""
    rng = np.random.default_rng(2)
    truth = (rng.random((20, 6, 12)) < 0.2).astype(int)
    odds = np.exp(rng.normal(size=truth.shape) + 3 * truth - 2)
    p = scale * odds / (1 + scale * odds)
    chances, area = np.stack([1 - p, p], 1), GLOBE.area
    factors, found = best_factors(chances, truth, area)
    calls = called(chances, factors)
    sums = [[(area * ((truth == i) & (calls == j))).sum() for j in range(2)] for i in range(2)]
    assert found == pytest.approx(iou(np.array(sums))[1])
    best = max(
        (area * truth * (odds >= t)).sum() / (area * np.maximum(truth, odds >= t)).sum()
        for t in np.exp(np.arange(-3, 3, 0.05))
    )
    assert best - 0.02 < found <= best + 0.01


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_factors_go_beyond_their_bounds_where_the_best_lies_there(scale: float) -> None:
    """Chances of a very rare class, all of them below e⁻⁴ or above 1 - e⁻⁴, still part the cells."""
    truth = np.zeros((4, 6, 12), int)
    truth[:, 2, 3] = 1
    odds = scale * np.where(truth == 1, 3.0, 1.0)
    chances = np.stack([1 / (1 + odds), odds / (1 + odds)], 1)
    factors, found = best_factors(chances, truth, GLOBE.area)
    assert found == 1
    assert 4 < abs(factors[1]) < 14
    assert np.array_equal(called(chances, factors), truth)


def test_factors_of_three_classes_find_the_rare_one() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice(3, p=[0.9, 0.08, 0.02], size=(30, 6, 12))
    logits = rng.normal(size=(30, 6, 12, 3)) + 3 * np.eye(3)[truth] + np.log([0.9, 0.08, 0.02])
    chances = np.moveaxis(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), -1, 1)
    factors, found = best_factors(chances, truth, GLOBE.area)
    plain = called(chances, np.zeros(3))
    sums = np.array([[(GLOBE.area * ((truth == i) & (plain == j))).sum() for j in range(3)] for i in range(3)])
    assert found > iou(sums)[1:].mean() + 0.02
    assert (factors[1:] > 0).all()
