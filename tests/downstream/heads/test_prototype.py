"""Class means as a head, and scalings of features: hand answers and limits."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.heads.base import Samples
from earthssl.downstream.heads.prototype import PrototypeHead
from earthssl.downstream.heads.scaling import scaled
from earthssl.downstream.metrics.classes import one_hot
from earthssl.ssl.common.errors import EarthSSLError


def samples(values: list[float], labels: list[int], classes: int = 2) -> Samples:
    return Samples(np.array(values)[:, None], one_hot(np.array(labels), classes), np.arange(len(values)))


def test_chances_by_hand() -> None:
    """Prototypes at 0 and 2, four apart in squares: from .5, at T = .5, the log odds are (2.25 - .25) / 4."""
    train = samples([-1.0, 1.0, 2.0], [0, 0, 1])
    found = PrototypeHead().predict(train, samples([0.5], [0]), [0.5])[0, 0]
    odds = 2 * np.exp((2.25 - 0.25) / 4)  # two examples of the first class
    assert found == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])


def test_limits_of_the_temperature() -> None:
    train = samples([0.0, 2.0], [0, 1])
    found = PrototypeHead().predict(train, samples([0.9, 1.1], [0, 1]), [1e-6, 1e6])
    assert found[0] == pytest.approx(np.eye(2))
    assert found[1] == pytest.approx(np.full((2, 2), 0.5), abs=1e-5)


def test_a_class_never_seen_and_equal_prototypes() -> None:
    found = PrototypeHead().predict(samples([0.0, 2.0], [0, 1], 3), samples([0.0], [0], 3), [1.0])[0, 0]
    assert found[2] == pytest.approx(1 / 5)
    assert found.sum() == pytest.approx(1)
    same = PrototypeHead().predict(samples([1.0, 1.0], [0, 1]), samples([5.0], [0]), [0.1])[0, 0]
    assert same == pytest.approx([0.5, 0.5])


def test_a_move_and_a_turn_of_the_features_change_nothing() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(12, 5)), rng.normal(size=(20, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    targets, head = one_hot(np.arange(12) % 3, 3), PrototypeHead()
    first, second = (
        head.predict(
            Samples(move(x), targets, np.arange(12)), Samples(move(z), targets[np.zeros(20, int)], np.arange(20)), [0.1]
        )
        for move in (lambda own: own, lambda own: 3 * own @ turn + 7)
    )
    assert first == pytest.approx(second)


def test_temperatures_must_be_positive() -> None:
    with pytest.raises(EarthSSLError, match="temperatures"):
        PrototypeHead((0.0,))


def test_scalings_by_their_definitions() -> None:
    rng = np.random.default_rng(1)
    own = rng.normal(size=(500, 3)) @ np.array([[1.0, 0.9, 0], [0, 0.1, 0], [0, 0, 10]]) + 5
    made = dict(scaled(own, own, ["raw", "standardised", "whitened"]))
    assert made["raw"] == pytest.approx(own - own.mean(0), abs=1e-4)
    assert made["standardised"].std(0) == pytest.approx(np.ones(3), abs=1e-4)
    assert np.cov(made["whitened"], rowvar=False) == pytest.approx(np.eye(3), abs=1e-3)
    gap = own.copy()
    gap[0] = np.nan
    assert dict(scaled(own, gap, ["raw"]))["raw"] == pytest.approx(own - own[1:].mean(0), abs=1e-4)


def test_wide_and_white_features_are_not_whitened() -> None:
    rng = np.random.default_rng(2)
    wide, white = rng.normal(size=(300, 129)) @ rng.normal(size=(129, 129)), rng.normal(size=(4000, 3))
    assert [name for name, _ in scaled(wide, wide, ["raw", "whitened"])] == ["raw"]
    assert [name for name, _ in scaled(white, white, ["raw", "whitened"])] == ["raw"]
