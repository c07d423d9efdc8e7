"""Predicted fields: a head for each variable, and scores: squared error by area, skill over the climatology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ssl.runtime.distributed import averaged


def every_head(
    heads: nn.ModuleDict, x: Float[Tensor, "batch token width"], variables: Sequence[str]
) -> Float[Tensor, "batch token variable cell"]:
    """Return the cells of every variable: its linear heads laid under one another and applied as one product."""
    chosen: list[Any] = [heads[name] for name in variables]
    weight = torch.cat([head.weight for head in chosen])
    bias = torch.cat([head.bias for head in chosen])
    return nn.functional.linear(x, weight, bias).unflatten(2, (len(chosen), -1))


@dataclass(frozen=True)
class FieldScore:
    """What is left of anomalies when a prediction is taken off them, variable by variable.

    Attributes:
        error: Weighted mean of (prediction - truth)², 0 where a variable was not asked for.
        power: Weighted mean of truth²: the error of the climatology, which is 0 everywhere.
        weight: Sum of the weights.
    """

    error: Float[Tensor, " variable"]
    power: Float[Tensor, " variable"]
    weight: Float[Tensor, " variable"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Mean of the error over the variables that were asked for."""
        return mean_over(self.error, self.weight > 0)

    @property
    def skills(self) -> Float[Tensor, " variable"]:
        """1 - error / power: 1 for the truth, 0 for the climatology; also 0 where there was nothing to gain."""
        some = self.power > 0
        return torch.where(some, 1 - self.error / torch.where(some, self.power, torch.ones_like(self.power)), 0.0)

    @property
    def skill(self) -> Float[Tensor, ""]:
        """Mean of the skills over the variables that there was something to gain of."""
        return mean_over(self.skills, self.power > 0)

    def terms(self, variables: Sequence[str]) -> dict[str, Tensor]:
        """Return the skill and that of each variable, detached."""
        skills = self.skills.detach()
        return {"skill": self.skill.detach(), **{f"skill_{name}": skills[k] for k, name in enumerate(variables)}}


def score(guess: Tensor, truth: Tensor, weight: Tensor, joined: bool = False) -> FieldScore:
    """Return the score of fields or patches whose third axis is the variable; weights broadcast.

    Args:
        guess: Predicted.
        truth: Observed.
        weight: Of each cell; 0 where nothing is observed.
        joined: Whether to share weights and power with the other ranks, all of which then call it: the mean of the
            ranks' errors, and of their gradients, is then that of the joined batch.
    """
    axes = [axis for axis in range(truth.ndim) if axis != 2]
    weight = weight.expand(truth.shape)
    sums = torch.stack([weight.sum(axes), (weight * truth**2).sum(axes)])
    total, power = averaged(sums) if joined else sums
    safe = torch.where(total > 0, total, torch.ones_like(total))
    error = (guess - truth).square().mul_(weight).sum(axes)  # in place: fields this large set the peak of memory
    return FieldScore(error / safe, power / safe, total)


def by_variable(x: Tensor, weight: Tensor, joined: bool = False) -> Float[Tensor, " variable"]:
    """Return the weighted mean of each variable (third axis), 0 where it has no weight; `joined` as in `score`."""
    axes = [axis for axis in range(x.ndim) if axis != 2]
    total = weight.expand(x.shape).sum(axes)
    total = averaged(total) if joined else total
    return (weight * x).sum(axes) / torch.where(total > 0, total, torch.ones_like(total))


def mean_over(x: Float[Tensor, " number"], chosen: Tensor) -> Float[Tensor, ""]:
    """Return the mean of the chosen numbers, 0 of none."""
    return (x * chosen).sum() / chosen.sum().clamp(min=1)
