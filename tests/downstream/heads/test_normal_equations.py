"""The normal equations by hand, and against the samples they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.downstream.heads.patch_ridge import solved, squared_error


def test_one_feature_by_hand() -> None:
    """b = xy / (xx + λ) = 6 / (4 + 2); error yy - 2 b xy + b² xx = 10 - 12 + 4."""
    gram, cross = np.array([[4.0]]), np.array([[6.0]])
    b = solved(gram, cross, np.array([2.0]))
    assert b.item() == 1
    assert squared_error(b, gram, cross, np.array([10.0])).item() == 2


def test_sums_say_what_the_samples_say() -> None:
    """The solution is the least of error plus penalty, and the error that of the predictions."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    ridge = np.array([0.0, 1.0, 5.0, 2.0])
    sums = x.T @ x, x.T @ y
    b = solved(*sums, ridge)
    rows, targets = np.concatenate([x, np.diag(ridge**0.5)]), np.concatenate([y, np.zeros((4, 3))])
    np.testing.assert_allclose(b, np.linalg.lstsq(rows, targets, rcond=None)[0])
    assert squared_error(b, *sums, (y**2).sum(0)) == pytest.approx(((y - x @ b) ** 2).sum(0))
