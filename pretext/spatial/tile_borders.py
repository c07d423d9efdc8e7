"""Borders: how well tiles agree where they face each other, and the solver that looks at nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor

from ...ssl.fields.batch import Batch
from ...ssl.training.objective import Cue, over_chance

KINDS = ("level", "slope", "extrapolation", "pattern")
UNRELATED = 2.0  # mean squared difference of two independent normalised cells
RIDGE = 1e-3


class Borders(Cue):
    """Says the class for which the adjoining borders of the tiles shown agree best.

    Tiles come without their mean and deviation, so equal levels are not all there is to agree in: a fit on
    training windows weighs the kinds of agreement (a conditional logit: a weight for each number of the task's
    `mismatch`, the same for all classes). Unfitted it looks at the level alone.
    """

    name = "borders that agree best"

    def __init__(self) -> None:
        self._weights: np.ndarray | None = None

    def fit(self, objective: Any, batches: Iterable[Batch], patch: tuple[int, int, int]) -> None:
        """Weigh the kinds of agreement."""
        posed = [self._pose(objective, batch) for batch in batches]
        x, y = (np.concatenate([pair[k] for pair in posed]) for k in (0, 1))
        scale = x.std((0, 1)) + 1e-9
        x, rows = x / scale, np.arange(len(x))

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            scores = x @ weights
            expected = np.einsum("nc,nck->k", softmax(scores, axis=1), x) / len(x)
            value = -log_softmax(scores, axis=1)[rows, y].mean() + RIDGE * (weights @ weights)
            return float(value), expected - x[rows, y].mean(0) + 2 * RIDGE * weights

        self._weights = minimize(loss, np.zeros(x.shape[-1]), jac=True, method="L-BFGS-B").x / scale

    def skill(self, objective: Any, batch: Batch, patch: tuple[int, int, int]) -> float:
        """Return the skill over chance of the class whose borders agree best."""
        x, y = self._pose(objective, batch)
        weights = self._weights
        if weights is None:
            weights = -1.0 * (np.arange(x.shape[-1]) % len(KINDS) == KINDS.index("level"))
        right = torch.from_numpy((x @ weights).argmax(1) == y)
        return float(over_chance(right.float().mean(), x.shape[1]))

    def _pose(self, objective: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        shown, target = objective.pose(batch)
        return objective.mismatch(shown).double().cpu().numpy(), target.cpu().numpy()


def across(
    values: Float[Tensor, "*tile time variable row column"],
    valid: Bool[Tensor, "*tile time variable row column"],
    others: Float[Tensor, "*other time variable row column"],
    others_valid: Bool[Tensor, "*other time variable row column"],
    way: tuple[int, int],
) -> Float[Tensor, "*pair kind"]:
    """Return how badly tiles agree where they face each other, one number for each of `KINDS`.

    The mean squared difference of the facing cells, of the slopes across the border, and of both tiles
    extrapolated half a cell; and 1 less the correlation along the border. Where nothing is valid in both it is
    what two unrelated tiles have.

    Args:
        values: Tiles; the leading axes of tiles and others broadcast.
        valid: Their valid cells.
        others: The tiles said to lie that way from them.
        others_valid: Their valid cells.
        way: Steps southward and eastward, each -1, 0 or 1; diagonal neighbours face each other with one cell.
    """
    back = (-way[0], -way[1])
    edge, other = _strip(values, way, 0), _strip(others, back, 0)
    slope, other_slope = edge - _strip(values, way, 1), other - _strip(others, back, 1)
    both = _strip(valid, way, 0) & _strip(others_valid, back, 0)
    deep = both & _strip(valid, way, 1) & _strip(others_valid, back, 1)
    level = _mean((edge - other).square(), both)
    # Both slopes point out of their tile: where the field goes on they are opposite.
    steep = _mean((slope + other_slope).square(), deep)
    ahead = _mean((edge + slope / 2 - other - other_slope / 2).square(), deep)
    return torch.stack([level, steep, ahead, _pattern(edge, other, both)], -1)


def _strip(x: Tensor, way: tuple[int, int], depth: int) -> Tensor:
    """Return the cells at a depth behind the border that faces the way."""
    row, column = (
        {-1: slice(depth, depth + 1), 0: slice(None), 1: slice(size - 1 - depth, size - depth)}[step]
        for step, size in zip(way, x.shape[-2:], strict=True)
    )
    return x[..., row, column]


def _mean(square: Tensor, seen: Tensor) -> Tensor:
    count = seen.sum((-4, -3, -2, -1))
    mean = (square * seen).sum((-4, -3, -2, -1)) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.full_like(mean, UNRELATED))


def _pattern(edge: Tensor, other: Tensor, seen: Tensor) -> Tensor:
    """Return 1 - correlation along the border, the mean over variables; 1 where there is nothing to correlate."""
    count = seen.sum((-4, -2, -1), keepdim=True).clamp(min=1)
    one, two = (((x - (x * seen).sum((-4, -2, -1), keepdim=True) / count) * seen) for x in (edge, other))
    both, first, second = ((a * b).sum((-4, -2, -1)) for a, b in ((one, two), (one, one), (two, two)))
    return 1 - (both / (first * second).sqrt().clamp(min=1e-6)).mean(-1)
