"""Few labels: fractions of the training years, nested, and a few examples a class, apart in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import permutation

FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
SHOTS = (1, 2, 5, 10, 20)


@dataclass(frozen=True, eq=False)
class Fraction:
    """Some of the training years.

    Attributes:
        asked: Share of the years that was asked for.
        used: Share that whole years give: at least one year, so 1 % of 40 years is one year, 2.5 %.
        draw: Number of the draw.
        years: The years, ascending.
    """

    asked: float
    used: float
    draw: int
    years: np.ndarray

    def rows(self, years: np.ndarray) -> np.ndarray:
        """Return which samples lie in the drawn years, given each sample's year."""
        return np.isin(years, self.years)


def whole_units(units: np.ndarray) -> np.ndarray:
    """Return the units (years …) that have at least half as many samples as the fullest one, ascending.

    A year of a few labelled days, at the edge of a block or of a table, would count as a share like any other.

    Args:
        units: Unit of each training sample.
    """
    found, count = np.unique(units, return_counts=True)
    return found[2 * count >= count.max(initial=0)]


def label_fractions(
    years: np.ndarray, fractions: Sequence[float] = FRACTIONS, *, draws: int = 5, seed: int = 0
) -> list[Fraction]:
    """Return fractions of whole years; within a draw the smaller ones are parts of the larger.

    Args:
        years: Year of each training sample; repeats do not matter.
        fractions: Shares of the years, in (0, 1].
        draws: Orders of the years to start from; all years are one draw only.
        seed: Of the orders.

    Raises:
        EarthSSLError: If a fraction is out of range, or there are no years.
    """
    found = np.unique(years)
    bad = [f for f in fractions if not 0 < f <= 1]
    if bad or not fractions or draws < 1 or not len(found):
        raise EarthSSLError(
            f"expected fractions in (0, 1], draws ≥ 1 and some training years, got {list(fractions)}, {draws} and "
            f"{len(found)} years"
        )
    made = []
    for draw in range(draws):
        order = found[permutation(seed, "label fractions", draw, len(found)).numpy()]
        for fraction in sorted(fractions):
            count = max(1, round(fraction * len(found)))
            if count < len(found) or draw == 0:
                made.append(Fraction(fraction, count / len(found), draw, np.sort(order[:count])))
    return made


def few_shot(
    labels: np.ndarray, steps: np.ndarray, k: int, *, separation: int, draw: int = 0, seed: int = 0
) -> np.ndarray:
    """Return the indices of k examples of each class, ascending; those of a class are apart in time.

    Months of one El Niño are one example told many times: examples of a class lie at least `separation`
    steps from each other. They are taken in a random order, each unless it lies too close to one taken
    before; where that leaves fewer than k, from the largest set that lies apart.

    Args:
        labels: Class of each sample, shape (n,).
        steps: Time step of each sample, shape (n,).
        k: Examples a class.
        separation: Least number of steps between two examples of a class.
        draw: Number of the draw.
        seed: Of the draws.

    Raises:
        EarthSSLError: If a class has no k examples that lie apart.
    """
    if k < 1 or separation < 0:
        raise EarthSSLError(f"expected k ≥ 1 examples a class and a separation ≥ 0 steps, got {k} and {separation}")
    chosen = []
    order = permutation(seed, "few shots", draw, len(labels)).numpy()
    for label in np.unique(labels):
        own = order[labels[order] == label]
        taken = _apart(own, steps, separation, k)
        if len(taken) < k:
            # Earliest first is the largest set of points that lie apart.
            most = _apart(own[np.argsort(steps[own], kind="stable")], steps, separation)
            if len(most) < k:
                raise EarthSSLError(
                    f"expected {k} examples of class {label} at least {separation} steps apart, the training block has "
                    f"{len(most)}; ask for fewer, or lower the separation"
                )
            taken = most[np.sort(permutation(seed, f"few shots of {label}", draw, len(most)).numpy()[:k])]
        chosen.append(taken)
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=int)


def _apart(candidates: np.ndarray, steps: np.ndarray, separation: int, most: int | None = None) -> np.ndarray:
    """Return the candidates, in their order, less those that lie too close to one kept before; at most so many."""
    kept: list[int] = []
    left = candidates
    while len(left) and (most is None or len(kept) < most):
        one, left = int(left[0]), left[1:]
        kept.append(one)
        left = left[np.abs(steps[left] - steps[one]) >= separation]
    return np.array(kept, dtype=int)
