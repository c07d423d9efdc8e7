"""Skill by a few examples a class, of logistic regression.

Settings are chosen on the whole validation block and nothing is refitted: the curve shows what fewer labels to fit
on cost, not fewer labels to choose with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ...evaluation.label_fractions import SHOTS, few_shot
from ...heads.base import Samples, choose
from ...heads.linear import LogisticHead
from ...metrics.classes import frequencies, statistics


def shot_curve(
    train: Samples,
    val: Samples,
    test: Samples,
    climatology: np.ndarray,
    shots: Sequence[int] = SHOTS,
    *,
    separation: int,
    draws: int = 5,
) -> pd.DataFrame:
    """Return test scores by number of examples a class; see `few_shot`.

    Args:
        train, val, test: One-hot samples with the same features.
        climatology: Probabilities that the Brier skill refers to, for the test samples, (n, classes).
        shots: Examples a class.
        separation: As for `few_shot`.
        draws: Of the examples.

    Returns:
        Columns asked, used (examples a class), draw, labels (samples fitted on), and each metric of classes.py.

    The curve ends where the rarest class has no more examples that lie apart.

    Raises:
        EarthSSLError: If not even the smallest number can be drawn.
    """
    labels = train.targets.argmax(axis=1)
    lines: list[dict[str, float]] = []
    for k in sorted(shots):
        for draw in range(draws):
            try:
                drawn = train.take(few_shot(labels, train.steps, k, separation=separation, draw=draw))
            except EarthSSLError:
                if not lines:
                    raise
                break
            scored = _scores(drawn, val, test, climatology)
            lines.append({"asked": k, "used": k, "draw": draw, "labels": len(drawn), **scored})
    return pd.DataFrame(lines)


def _scores(train: Samples, val: Samples, test: Samples, climatology: np.ndarray) -> dict[str, float]:
    found = few_labels(train, val, test)
    truth = test.targets.argmax(axis=1)
    every = np.ones(len(truth))
    return {name: float(one(every)[0]) for name, one in statistics(found[None], truth, climatology).items()}


def few_labels(train: Samples, val: Samples, test: Samples) -> np.ndarray:
    """Return test probabilities, (n, classes), of logistic regression on a few samples.

    Where they show one class only (a year of one state), nothing can be fitted: Laplace's rule on their counts.
    """
    seen = train.targets.argmax(axis=1)
    if len(np.unique(seen)) < 2:
        return np.tile(frequencies(seen, train.targets.shape[1]), (len(test), 1))
    head = LogisticHead()
    return head.predict(train, test, [choose(head, {"": train}, {"": val}).setting])[0]
