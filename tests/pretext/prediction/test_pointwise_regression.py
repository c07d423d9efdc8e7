"""Regressions at every cell: against scikit-learn cell by cell, and planted coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.pointwise_regression import RIDGE, Pointwise, predict
from earthssl.ssl.common.errors import EarthSSLError
from sklearn.linear_model import Ridge


def test_each_cell_is_a_ridge_regression_of_its_own() -> None:
    """In three helpings, with missing targets, and on a subset of the predictors."""
    torch.manual_seed(0)
    x, y, valid = torch.randn(60, 3, 2, 4), torch.randn(60, 2, 4), torch.rand(60, 2, 4) > 0.3
    valid[:, 1, 2] = False
    found = Pointwise()
    for part in torch.arange(60).split(25):
        found.add(x[part], y[part], valid[part])
    for chosen in (None, [2, 0]):
        coefficients = found.solve(chosen)
        for row, column in np.ndindex(2, 4):
            own = valid[:, row, column]
            if not own.any():
                assert coefficients[row, column].tolist() == [0] * coefficients.shape[-1]
                continue
            inputs = x[own][:, chosen or [0, 1, 2], row, column]
            ridge = Ridge(alpha=RIDGE * int(own.sum()), fit_intercept=False).fit(inputs, y[own][:, row, column])
            np.testing.assert_allclose(coefficients[row, column], ridge.coef_, atol=1e-5)


def test_planted_coefficients_come_back() -> None:
    """Exact relations that differ from cell to cell are found, and predicted, to the ridge."""
    torch.manual_seed(1)
    planted, x = torch.randn(2, 4, 3), torch.randn(400, 3, 2, 4)
    y = predict(planted, x)
    assert float(y[5, 1, 2]) == pytest.approx(float(planted[1, 2] @ x[5, :, 1, 2]), abs=1e-5)
    found = Pointwise()
    found.add(x, y, torch.ones(y.shape, dtype=torch.bool))
    torch.testing.assert_close(found.solve().float(), planted, atol=1e-3, rtol=0)
    with pytest.raises(EarthSSLError, match="call fit first"):
        Pointwise().solve()
