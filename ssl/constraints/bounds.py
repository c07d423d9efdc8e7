"""Bounds: values of a variable lie between two numbers, or above or below one.

The way from departures to units rises, so a bound in units is one of departures, of its own at each cell and time:
there it is held to, which is exact for variables that are kept as logarithms, too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import NON_NEGATIVE, SIGMOID, SOFTPLUS, ConstraintConfig
from .constraint import Constraint, put
from .scene import Scene, area_mean, mean_where


class Bounds(Constraint):
    """Lower and upper bound of one variable."""

    def __init__(self, config: ConstraintConfig, variable: str, position: int, unit: str) -> None:
        super().__init__(config)
        self.name, self.unit, self.position = f"{config.kind}_{variable}", unit, position
        self.lower = 0.0 if config.kind == NON_NEGATIVE else config.lower
        self.upper = config.upper

    def _beyond(self, x: Tensor, lower: Tensor | None, upper: Tensor | None) -> Tensor:
        beyond = torch.zeros_like(x)
        if lower is not None:
            beyond = beyond + (lower - x).clamp(min=0)
        return beyond if upper is None else beyond + (x - upper).clamp(min=0)

    def _bounds(self, scene: Scene) -> tuple[Tensor | None, Tensor | None]:
        lower, upper = (
            None if bound is None else scene.units.standard(bound, self.position) for bound in (self.lower, self.upper)
        )
        return lower, upper

    def _weight(self, x: Tensor, scene: Scene) -> Tensor:
        weight = scene.weight if scene.asked is None else scene.weight * scene.asked
        return weight.expand(x.shape)[:, :, self.position]

    def violation(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the area mean of what lies beyond the bounds, in units."""
        values = scene.units.values(x)[:, :, self.position]
        lower, upper = (None if b is None else torch.full_like(values, b) for b in (self.lower, self.upper))
        weight = self._weight(x, scene)
        return mean_where(area_mean(self._beyond(values, lower, upper), weight), weight)

    def penalty(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the area mean of the squared departure beyond the bounds, in squared standard deviations."""
        weight = self._weight(x, scene)
        beyond = self._beyond(x[:, :, self.position], *self._bounds(scene))
        return mean_where(area_mean(beyond.square(), weight), weight)

    def layer(self, x: Tensor, scene: Scene) -> Tensor:
        """Return x with the variable laid between its bounds by softplus, sigmoid or clamp."""
        own = x[:, :, self.position]
        lower, upper = self._bounds(scene)
        if self.config.layer == SOFTPLUS:
            assert lower is not None
            own = lower + nn.functional.softplus(own - lower, beta=self.config.sharpness)
        elif self.config.layer == SIGMOID:
            assert lower is not None
            assert upper is not None
            # Of slope 1 half-way between the bounds.
            own = lower + (upper - lower) * torch.sigmoid(4 * (own - (lower + upper) / 2) / (upper - lower))
        else:
            own = own if lower is None else torch.maximum(own, lower.expand(own.shape))
            own = own if upper is None else torch.minimum(own, upper.expand(own.shape))
        return put(x, self.position, own)
