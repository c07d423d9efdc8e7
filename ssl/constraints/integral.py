"""Integral: the area mean of a variable, by cell bounds, is that of the last step seen, or a given one."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import SCALE, ConstraintConfig
from .constraint import Constraint, put
from .scene import Scene, area_mean, mean_where, restored, transformed

ONE_SIGN = 1e-3  # how far the mean size of values may be above their mean's, for them to count as of one sign


class Integral(Constraint):
    """Area mean of one variable; cells that either side lacks are left out."""

    def __init__(self, config: ConstraintConfig, variable: str, position: int, unit: str) -> None:
        super().__init__(config)
        self.name, self.unit, self.position = f"{config.kind}_{variable}", unit, position
        self.needs_start = config.total is None

    def _means(self, x: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values in units, their means (sample, time), the means to be kept, and the cells' weights."""
        k = self.position
        values, weight = scene.units.values(x)[:, :, k], scene.weight.expand(x.shape)[:, :, k]
        if self.config.total is not None:
            mean = area_mean(values, weight)
            return values, mean, torch.full_like(mean, self.config.total), weight
        assert scene.start is not None
        before, there = scene.start[0][:, :, k], scene.start[1].expand(scene.start[0].shape)[:, :, k]
        weight = weight * (there > 0)
        return values, area_mean(values, weight), area_mean(before.expand(values.shape), weight), weight

    def violation(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the root mean square over the samples of what the mean is off, in units."""
        _, mean, kept, weight = self._means(x, scene)
        return mean_where((mean - kept).square(), weight).sqrt()

    def penalty(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the mean square of what the mean is off, in squared standard deviations of a cell."""
        _, mean, kept, weight = self._means(x, scene)
        return mean_where(((mean - kept) / scene.units.spread[self.position]).square(), weight)

    def layer(self, x: Tensor, scene: Scene) -> Tensor:
        """Return x with all values multiplied by one number, or with one added, so that the mean is kept.

        A factor serves values of one sign (rain), which keep it; those of both would grow without limit where their
        mean is near 0. Where they have both, or the mean to be kept has the other, one number is added in either form.
        Each field is judged by itself, by the cells that count; a thousandth of the other sign is taken for rounding.
        """
        k, units = self.position, scene.units
        values, mean, kept, weight = self._means(x, scene)
        off = torch.where(weight.sum((-1, -2)) > 0, kept - mean, torch.zeros_like(mean))
        change = off[..., None, None].expand(values.shape)
        if self.config.layer == SCALE:
            tiny = 1e-6 * units.spread[k]
            one_sign = area_mean(values.abs(), weight) <= (1 + ONE_SIGN) * mean.abs()
            usable = one_sign & (mean.abs() > tiny) & (kept * mean >= 0)
            factor = off / torch.where(usable, mean, torch.ones_like(mean))
            change = torch.where(usable[..., None, None], factor[..., None, None] * values.double(), change)
        scale = units.scale.expand(*units.scale.shape[:2], x.shape[2], *units.scale.shape[3:])[:, :, k]
        if not units.transforms[k]:  # the change alone: a large mean costs no digits
            return put(x, k, (x[:, :, k].double() + change / scale).to(x.dtype))
        offset = units.offset.expand(*units.offset.shape[:2], x.shape[2], *units.offset.shape[3:])[:, :, k].double()
        exact = restored(x[:, :, k].double() * scale + offset, units.transforms[k]) + change
        return put(x, k, ((transformed(exact, units.transforms[k]) - offset) / scale).to(x.dtype))
