"""Scene: what a constraint must know of predicted fields besides themselves: units, cells, the truth, what was seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LARGEST = 40.0  # of a transformed value: exp(40) of its scale is beyond anything, and still a number


@dataclass(frozen=True)
class Units:
    """The way from standardised departures, (sample, time, variable, row, column), to values in units, and back.

    Attributes:
        offset: Climatology of each cell and time, transformed where the variable is, same shape or broadcast.
        scale: Standard deviation of departures from it, likewise.
        transforms: Of each variable, the scale of sign(x) log(1 + |x| / scale); 0 for none (see `normalisation`).
        spread: Usual departure of each variable, in units.
    """

    offset: Tensor
    scale: Tensor
    transforms: tuple[float, ...]
    spread: tuple[float, ...]

    def values(self, x: Tensor) -> Tensor:
        """Return values in units."""
        y = x * self.scale + self.offset
        if not any(self.transforms):
            return y
        return torch.stack([restored(own, s) for own, s in zip(y.unbind(2), self.transforms, strict=True)], 2)

    def departures(self, values: Tensor) -> Tensor:
        """Return what `values` was given."""
        if any(self.transforms):
            own = [transformed(one, s) for one, s in zip(values.unbind(2), self.transforms, strict=True)]
            values = torch.stack(own, 2)
        return (values - self.offset) / self.scale

    def standard(self, value: float, k: int) -> Tensor:
        """Return the departure of variable k that stands for a value in units, (sample, time, row, column) or less.

        The way to units rises, so what is above it here is above the value there.
        """
        own = transformed(torch.as_tensor(value, dtype=torch.float64), self.transforms[k]).to(self.offset)
        offset, scale = (x.expand(*x.shape[:2], len(self.transforms), *x.shape[3:]) for x in (self.offset, self.scale))
        return (own - offset[:, :, k]) / scale[:, :, k]


@dataclass(frozen=True)
class Scene:
    """What belongs to predicted departures of shape (sample, time, variable, row, column).

    Attributes:
        units: Of them.
        weight: Area of every cell that holds a prediction, 0 elsewhere; same shape or broadcast.
        asked: Cells that the decoder made, where others are observed ones; None for all.
        truth: What was observed, departures, 0 where missing; None where it is not known.
        seen: Where it was observed.
        start: Values in units of the last step that the encoder saw, (sample, 1, variable, row, column), and the area
            of the cells that it held; None where there is no such step.
    """

    units: Units
    weight: Tensor
    asked: Tensor | None = None
    truth: Tensor | None = None
    seen: Tensor | None = None
    start: tuple[Tensor, Tensor] | None = None

    def of_truth(self) -> Scene:
        """Return the scene of the truth itself: the cells that were observed."""
        assert self.seen is not None
        return replace(self, weight=self.weight * self.seen, asked=None)


def transformed(x: Tensor, scale: float) -> Tensor:
    """Return sign(x) log(1 + |x| / scale); x for scale 0."""
    return torch.sign(x) * torch.log1p(x.abs() / scale) if scale else x


def restored(y: Tensor, scale: float) -> Tensor:
    """Return what `transformed` was given."""
    return torch.sign(y) * scale * torch.expm1(y.abs().clamp(max=LARGEST)) if scale else y


def area_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Return means over the cells (last two axes) of fields, in double precision; 0 where nothing has a weight."""
    weight = weight.expand(x.shape).double()
    total = weight.sum((-1, -2))
    return (x.double() * weight).sum((-1, -2)) / torch.where(total > 0, total, torch.ones_like(total))


def mean_where(x: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of numbers (sample, time) over those whose fields have a weight, (…, row, column)."""
    there = (weight.sum((-1, -2)) > 0).expand(x.shape)
    return (x * there).sum() / there.sum().clamp(min=1)
