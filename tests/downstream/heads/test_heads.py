"""Heads: hand answers, brute force, and choices that see training and validation only."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.heads.base import Samples, choose, standardised
from earthssl.downstream.heads.linear import LogisticHead, RidgeHead
from earthssl.downstream.heads.nearest import TEMPERATURE, NearestHead
from earthssl.downstream.metrics.classes import one_hot, squared_error
from earthssl.ssl.common.errors import EarthSSLError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import normalize


def clouds(n: int = 300, seed: int = 0, classes: int = 3, width: int = 4) -> Samples:
    """Gaussian clouds around the corners of a simplex, one sample a step."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = 1.5 * np.eye(classes, width)
    return Samples(centres[labels] + rng.normal(size=(n, width)), one_hot(labels, classes), np.arange(n))


def test_one_hot_and_brier_by_hand() -> None:
    targets = one_hot(np.array([0, 2]), 3)
    assert targets.tolist() == [[1, 0, 0], [0, 0, 1]]
    p = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    assert squared_error(p, targets) == pytest.approx([0.5, 0.04 + 0.09 + 0.25])


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(EarthSSLError, match="from 0 to 1, got -1 to 1"):
        one_hot(np.array([-1, 1]), 2)


def test_logistic_is_scikit_learns_on_standardised_features() -> None:
    train, queries = clouds(), clouds(50, seed=1)
    found = LogisticHead().predict(train, queries, [0.1])[0]
    x, z = standardised(train.features, queries.features)
    other = LogisticRegression(C=0.1, tol=1e-8).fit(x, train.targets.argmax(1))
    assert found == pytest.approx(other.predict_proba(z), abs=2e-3)
    assert found.sum(1) == pytest.approx(np.ones(50))


def test_an_infinite_penalty_gives_the_frequencies() -> None:
    train = clouds(200)
    found = LogisticHead((1e-9, 1.0)).predict(train, clouds(5, seed=1), [1e-9])[0]
    assert found == pytest.approx(np.tile(train.targets.mean(0), (5, 1)), abs=1e-3)


def test_the_order_of_the_costs_does_not_matter() -> None:
    train, queries = clouds(), clouds(50, seed=1)
    up = LogisticHead().predict(train, queries, [1e-3, 0.1, 10.0])
    down = LogisticHead().predict(train, queries, [10.0, 0.1, 1e-3])
    assert np.array_equal(up, down[::-1])


def test_a_class_never_seen_is_unlikely_but_not_impossible() -> None:
    train = clouds(90, classes=2)
    lacking = Samples(train.features, np.pad(train.targets, ((0, 0), (0, 1))), train.steps)
    found = LogisticHead().predict(lacking, lacking, [1.0])[0]
    assert found[:, 2] == pytest.approx(np.full(90, 1 / 93))
    assert found.sum(1) == pytest.approx(np.ones(90))


def test_one_class_in_training_is_an_error() -> None:
    train = clouds(20)
    lone = Samples(train.features, one_hot(np.ones(20, dtype=int), 3), train.steps)
    with pytest.raises(EarthSSLError, match="at least two classes among the 20 training samples, got class 1 only"):
        LogisticHead().predict(lone, train, [1.0])


def test_neighbours_by_brute_force() -> None:
    """Weights exp(cosine / T) of the k nearest by a loop, the query's own step left out."""
    train, queries = clouds(60), clouds(60, seed=1)
    found = NearestHead((7,)).predict(train, queries, [7])[0]
    x, z = (normalize(part.features - train.features.mean(0)) for part in (train, queries))
    for q in range(len(z)):
        cosine = x @ z[q]
        cosine[train.steps == queries.steps[q]] = -np.inf
        nearest = np.argsort(-cosine)[:7]
        weight = np.exp(cosine[nearest] / TEMPERATURE)
        assert found[q] == pytest.approx(weight @ train.targets[nearest] / weight.sum())


def test_neighbours_keep_through_shift_and_turn_but_not_through_scale() -> None:
    """Cosines of centred features know no shift and no rotation."""
    train, queries = clouds(), clouds(30, seed=1)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    turned, scaled = (
        [Samples(s.features @ matrix + 5, s.targets, s.steps) for s in (train, queries)]
        for matrix in (turn, np.diag([1e3, 1, 1e-3, 1]))
    )
    head = NearestHead((10,))
    assert head.predict(*turned, [10]) == pytest.approx(head.predict(train, queries, [10]))
    assert head.predict(*scaled, [10]) != pytest.approx(head.predict(train, queries, [10]))


def test_more_neighbours_than_there_may_be_is_an_error() -> None:
    train = clouds(20)
    with pytest.raises(EarthSSLError, match=r"k of at most 19, .* among 20 samples, got 20"):
        NearestHead((20,)).predict(train, train, [20])
    assert NearestHead((5, 20, 100)).settings(train) == [5]


def test_ridge_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    train = Samples(rng.normal(size=(80, 6)), rng.normal(size=(80, 2)), np.arange(80))
    found = RidgeHead().predict(train, train, [0.5])[0]
    x, z = standardised(train.features, train.features)
    other = Ridge(alpha=0.5 * 80).fit(x, train.targets)
    assert found == pytest.approx(other.predict(z))


@pytest.mark.parametrize("head", [LogisticHead(), NearestHead(), RidgeHead()], ids=lambda head: head.name)
def test_the_choice_is_the_least_error_on_validation(head) -> None:  # type: ignore[no-untyped-def]
    """Noise beside signal: the signal is chosen, and the table holds what predict gives."""
    train, val = clouds(), clouds(100, seed=1)
    rng = np.random.default_rng(2)
    noise = [Samples(rng.normal(size=s.features.shape), s.targets, s.steps) for s in (train, val)]
    found = choose(head, {"noise": noise[0], "signal": train}, {"noise": noise[1], "signal": val})
    assert found.candidate == "signal"
    assert found.error == min(min(errors.values()) for errors in found.table.values())
    again = head.predict(train, val, [found.setting])[0]
    assert found.error == pytest.approx(squared_error(again, val.targets).mean(), rel=1e-3)


def test_what_queries_really_were_is_not_read() -> None:
    train, queries = clouds(), clouds(30, seed=1)
    blind = Samples(queries.features, np.full_like(queries.targets, np.nan), queries.steps)
    for head in (LogisticHead(), NearestHead(), RidgeHead()):
        setting = head.settings(train)[:1]
        assert np.array_equal(head.predict(train, queries, setting), head.predict(train, blind, setting))


def test_features_with_gaps_are_refused() -> None:
    features = np.ones((4, 2))
    features[1] = np.nan
    with pytest.raises(EarthSSLError, match="finite features for 4 samples, got NaN or infinity in 1"):
        Samples(features, np.ones((4, 1)), np.arange(4))


def test_nothing_to_choose_on_is_an_error() -> None:
    train = clouds(20)
    with pytest.raises(EarthSSLError, match="20 in train and 0 in validation"):
        choose(RidgeHead(), {"a": train}, {"a": train.take(np.zeros(20, dtype=bool))})
    with pytest.raises(EarthSSLError, match="the same features in both blocks"):
        choose(RidgeHead(), {"a": train}, {"b": train})


def test_only_ridge_knows_how_wide_its_distributions_are() -> None:
    """The further from the fitted features, the wider; the same for all outputs."""
    rng = np.random.default_rng(0)
    train = Samples(rng.normal(size=(50, 2)), rng.normal(size=(50, 3)), np.arange(50))
    asked = Samples(np.array([[0.0, 0.0], [3.0, 3.0], [30.0, 30.0]]), np.zeros((3, 3)), np.arange(3))
    (wide,) = RidgeHead().spreads(train, asked, [0.1])
    assert wide[0] < 1.02
    assert wide[0] < wide[1] < wide[2]
    assert NearestHead().spreads(train, asked, [1]) is None
