"""Analogues by brute force: the date, one another, the season."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.heads.neighbours import YEAR, neighbours
from scipy.spatial.distance import cdist


def by_hand(
    distance: np.ndarray, when: np.ndarray, asked: float, count: int, exclude: float, apart: bool, season: float | None
) -> list[int]:
    """Return what a loop over the states by distance takes."""
    taken: list[int] = []
    for k in np.argsort(distance):
        gap = abs(when[k] % YEAR - (np.floor(asked % YEAR) + 0.5))
        far = abs(when[k] - asked) > exclude and (not apart or all(abs(when[k] - when[j]) > exclude for j in taken))
        if far and (season is None or min(gap, YEAR - gap) <= season + 0.5) and len(taken) < count:
            taken.append(int(k))
    return taken


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("season", [None, 40.0])
@pytest.mark.parametrize(("exclude", "apart"), [(0, False), (20, False), (20, True), (200, True)])
def test_they_are_those_of_a_loop(metric: str, season: float | None, exclude: float, apart: bool) -> None:
    rng = np.random.default_rng(0)
    when = np.sort(rng.choice(3000, 400, replace=False)).astype(float)
    # Neighbours in time are alike, so that the exclusion matters.
    states = np.cumsum(rng.normal(size=(400, 3)), axis=0) + 0.1 * rng.normal(size=(400, 3))
    asked = np.concatenate([when[::13], when[::29] + 0.4])
    queries = np.concatenate([states[::13], states[::29] + 0.2])
    found, distance = neighbours(
        states, when, queries, asked, 8, exclude=exclude, apart=apart, season=season, metric=metric
    )  # fmt: skip
    every = cdist(queries, states, metric)
    for q in range(len(queries)):
        expected = by_hand(every[q], when, asked[q], 8, exclude, apart, season)
        assert found[q, : len(expected)].tolist() == expected
        assert (found[q, len(expected) :] == -1).all()
        assert np.isinf(distance[q, len(expected) :]).all()
        np.testing.assert_allclose(distance[q, : len(expected)], every[q, expected], atol=1e-6)


def test_the_turn_of_the_year_is_no_wall() -> None:
    """Of states on the first of January, July and the last of December: the season of 1 January has two."""
    when = np.array([0.0, 181.0, 364.0]) + 10 * YEAR
    found, _ = neighbours(np.zeros((3, 1)), when, np.zeros((1, 1)), np.array([0.0]), 3, season=10)
    assert sorted(found[0].tolist()) == [-1, 0, 2]
