"""Energy: half the area mean of the squares of a wind's components, or of other variables, is the truth's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import ConstraintConfig
from .constraint import Constraint
from .scene import Scene, area_mean, mean_where


class Energy(Constraint):
    """Sum of squares of some variables, over the cells that were observed.

    A forecast of the mean has less of it than any truth: what it cannot know it leaves out.
    """

    needs_truth = True
    unit = "share of the truth's"

    def __init__(self, config: ConstraintConfig, variables: Sequence[str], positions: Sequence[int]) -> None:
        super().__init__(config)
        self.name, self.positions = f"{config.kind}_{'_'.join(variables)}", list(positions)

    def _off(self, x: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """Return energy over that of the truth, less 1, (sample, time), and the cells' weights."""
        assert scene.truth is not None
        assert scene.seen is not None
        weight = (scene.weight * scene.seen).expand(x.shape)[:, :, self.positions]
        weight = torch.where((weight > 0).all(2, keepdim=True), weight, 0.0)
        own, true = (
            area_mean(scene.units.values(y)[:, :, self.positions].square(), weight).sum(2) / 2 for y in (x, scene.truth)
        )
        there = true > 0
        return torch.where(there, own / torch.where(there, true, torch.ones_like(true)) - 1, 0.0), weight[:, :, 0]

    def violation(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the mean over the samples of what is missing or too much, as a share of the truth's."""
        off, weight = self._off(x, scene)
        return mean_where(off.abs(), weight)

    def penalty(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the mean over the samples of that share squared."""
        off, weight = self._off(x, scene)
        return mean_where(off.square(), weight)
