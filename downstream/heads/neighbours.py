"""Analogues: the states most alike, apart in time from the date asked for and, if wanted, from each other.

One definition for all who look for them: the task `analogues`, the kNN head, the local page.
"""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

METRICS = ("euclidean", "cosine")
QUERIES_AT_ONCE = 512
YEAR = 365.2425


def neighbours(
    library: np.ndarray,
    when: np.ndarray,
    queries: np.ndarray,
    asked: np.ndarray,
    count: int,
    *,
    exclude: float = 0,
    apart: bool = False,
    season: float | None = None,
    metric: str = "euclidean",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest states of a library and their distances, nearest first, both (query, count).

    Where a query has fewer, the indices end with -1 and the distances with infinity.

    Args:
        library: Features of the states, (state, feature).
        when: Time of each, (state,), all different; in days where there is a season.
        queries: Features asked about, (query, feature).
        asked: Time of each, (query,).
        count: How many.
        exclude: None lies within ± this much of the query's time; at 0, not at that very time.
        apart: Whether none lies within ± this much of a nearer one either.
        season: Only states whose day of the year is within ± this many days of the query's, to a day; None: all.
        metric: "euclidean" or "cosine", as scikit-learn has them.
    """
    found = np.full((len(queries), count), -1)
    distance = np.full((len(queries), count), np.inf)
    # How many states a date, or a state that was taken, may forbid; so many more are asked for.
    around, each = _most_within(when, asked, exclude), _most_within(when, when, exclude)
    wanted = around + count * (each if apart else 1)
    for own, states in _seasons(when, asked, season):
        if not len(states):
            continue
        index = NearestNeighbors(metric=metric, algorithm="brute").fit(library[states])
        for begin in range(0, len(own), QUERIES_AT_ONCE):
            part = own[begin : begin + QUERIES_AT_ONCE]
            far, order = index.kneighbors(queries[part], min(wanted, len(states)))
            order = states[order]
            chosen = picked(when[order], asked[part], count, exclude=exclude, apart=apart)
            known = chosen >= 0
            at = np.maximum(chosen, 0)
            found[part] = np.where(known, np.take_along_axis(order, at, 1), -1)
            distance[part] = np.where(known, np.take_along_axis(far, at, 1), np.inf)
    return found, distance


def picked(when: np.ndarray, asked: np.ndarray, count: int, *, exclude: float, apart: bool) -> np.ndarray:
    """Return which of the states, sorted by distance, are analogues: their places in the order, (query, count).

    The nearest that is far enough in time from the date, then the nearest that is so from it and from those taken
    before, and so on; -1 where there are no more.

    Args:
        when: Times of the states of each query, nearest first, (query, state).
        asked: Time of each query, (query,).
        count, exclude, apart: As for `neighbours`.
    """
    free = np.abs(when - asked[:, None]) > exclude
    places = np.full((len(when), count), -1)
    if not apart:
        rank = np.cumsum(free, axis=1) - 1
        row, column = np.nonzero(free & (rank < count))
        places[row, rank[row, column]] = column
        return places
    rows = np.arange(len(when))
    for k in range(count if free.shape[1] else 0):
        first = free.argmax(axis=1)
        some = free[rows, first]
        if not some.any():
            break
        places[some, k] = first[some]
        free &= np.abs(when - when[rows, first][:, None]) > exclude
        free[rows, first] = False
    return places


def _most_within(when: np.ndarray, asked: np.ndarray, exclude: float) -> int:
    """Return the largest number of times that lie within ± `exclude` of a time asked for."""
    ordered = np.sort(when)
    ends = np.searchsorted(ordered, asked + exclude, "right") - np.searchsorted(ordered, asked - exclude)
    return int(ends.max(initial=0))


def _seasons(when: np.ndarray, asked: np.ndarray, season: float | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return queries, by their day of the year, with the states that are of their season."""
    if season is None:
        return [(np.arange(len(asked)), np.arange(len(when)))]
    day, groups = when % YEAR, []
    of_year = np.floor(asked % YEAR)
    for one in np.unique(of_year):
        gap = np.abs(day - (one + 0.5))
        groups.append((np.flatnonzero(of_year == one), np.flatnonzero(np.minimum(gap, YEAR - gap) <= season + 0.5)))
    return groups
