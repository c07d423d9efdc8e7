"""Pointwise: linear regression at every cell by itself, from normal equations that batches add up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ssl.common.errors import EarthSSLError

RIDGE = 1e-4  # of the number of samples: below any signal, above what rounding makes of equal predictors


class Pointwise:
    """Least squares of one target on a few predictors, with coefficients of its own at each cell.

    Memory is (predictors² + predictors) × cells × 8 bytes, however many samples are added.
    """

    def __init__(self) -> None:
        self._gram: Tensor | None = None
        self._cross: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, x: Tensor, y: Tensor, valid: Tensor) -> None:
        """Add samples.

        Args:
            x: Predictors, 0 where missing, (sample, predictor, *cell).
            y: Target, (sample, *cell).
            valid: Which of the targets count, (sample, *cell).
        """
        x, count = x.double(), valid.double()
        chosen = x * count[:, None]
        gram = torch.einsum("sp...,sq...->...pq", chosen, x)
        cross = torch.einsum("sp...,s...->...p", chosen, y.double())
        if self._gram is None or self._cross is None or self._count is None:
            self._gram, self._cross, self._count = gram, cross, count.sum(0)
        else:
            self._gram, self._cross, self._count = self._gram + gram, self._cross + cross, self._count + count.sum(0)

    def solve(self, chosen: Sequence[int] | None = None) -> Tensor:
        """Return the coefficients of the chosen predictors (all where None), (*cell, predictor).

        They are 0 at cells that no sample had.

        Raises:
            EarthSSLError: If nothing was added.
        """
        if self._gram is None or self._cross is None or self._count is None:
            raise EarthSSLError("expected a regression fitted on training windows, got none; call fit first")
        index = torch.as_tensor(list(range(self._cross.shape[-1]) if chosen is None else chosen))
        gram, cross = self._gram[..., index[:, None], index], self._cross[..., index]
        ridge = RIDGE * self._count.clamp(min=1)[..., None, None] * torch.eye(len(index), dtype=gram.dtype)
        return torch.linalg.solve(gram + ridge, cross)


def predict(coefficients: Tensor, x: Tensor) -> Tensor:
    """Return the prediction at every cell, (sample, *cell), from predictors (sample, predictor, *cell)."""
    return torch.einsum("sp...,...p->s...", x, coefficients.to(x))
