"""Constraints: all that a training holds its predictions to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..common.errors import EarthSSLError, check_known
from ..fields.grid import LatLonGrid
from .bounds import Bounds
from .config import DIVERGENCE, ENERGY, HARD, INTEGRAL, PENALTY, REPORT, ConstraintConfig
from .constraint import Constraint
from .divergence import Divergence
from .energy import Energy
from .integral import Integral
from .scene import Scene
from .wind import harmonics_of


class Constraints:
    """Constraints in the order in which they were written; layers are applied in that order.

    A later layer may undo what an earlier one did (a mean that is shifted leaves its bounds): the violation is measured
    behind the last one.
    """

    def __init__(
        self,
        settings: Iterable[ConstraintConfig],
        variables: Sequence[str],
        units: Sequence[str],
        grid: LatLonGrid | None,
        known: np.ndarray | None = None,
    ) -> None:
        """Make them.

        Args:
            settings: One by one.
            variables: Names of what is predicted.
            units: Of each.
            grid: Where fields lie; None for numbers.
            known: Cells that ever hold a value, (variable, row, column); None: all.

        Raises:
            EarthSSLError: If a name is none of the variables, the same is asked for twice, or the grid does not serve.
        """
        self.every: list[Constraint] = []
        for config in settings:
            self.every += made(config, list(variables), units, grid, known)
        names = [one.name for one in self.every]
        for name in names:
            if names.count(name) > 1:
                raise EarthSSLError(f"constraints: expected each once, got {name} twice; keep one")

    @property
    def trained(self) -> bool:
        """Whether they change what is trained: not where all are but measured."""
        return any(one.config.how != REPORT for one in self.every)

    @property
    def layered(self) -> bool:
        """Whether there is a layer among them."""
        return any(one.config.how == HARD for one in self.every)

    @property
    def needs_start(self) -> bool:
        """Whether one of them compares with the last step that the encoder saw."""
        return any(one.needs_start for one in self.every)

    def layers(self, x: Tensor, scene: Scene) -> Tensor:
        """Return departures, (sample, time, variable, row, column), behind all layers."""
        for one in self.every:
            if one.config.how == HARD:
                x = one.layer(x, scene)
        return x

    def penalty(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the weighted sum of the penalties that the scene can tell, in single precision; differentiable."""
        own = [one for one in self.every if one.config.how == PENALTY and one.known(scene)]
        parts = [one.config.weight * one.penalty(x, scene).float() for one in own]
        return torch.stack(parts).sum() if parts else torch.zeros((), device=x.device)

    @torch.no_grad()
    def violations(self, x: Tensor, scene: Scene) -> dict[str, Tensor]:
        """Return by how much the departures violate each, in its unit; without those that the scene cannot tell."""
        return {one.name: one.violation(x, scene).float() for one in self.every if one.known(scene)}

    def describe(self, found: dict[str, float]) -> list[dict[str, str | float]]:
        """Return a row for each violation found: name, how it is held to, unit, violation."""
        rows: list[dict[str, str | float]] = []
        for one in self.every:
            if one.name in found and math.isfinite(found[one.name]):
                how = one.config.layer or one.config.how
                rows.append({"constraint": one.name, "how": how, "unit": one.unit, "violation": found[one.name]})
        return rows


def made(
    config: ConstraintConfig,
    variables: Sequence[str],
    units: Sequence[str],
    grid: LatLonGrid | None,
    known: np.ndarray | None,
) -> list[Constraint]:
    """Return the constraints of one setting: one for each variable, wind or sum; see `Constraints`."""
    check_known(f"constraints, {config.kind}, predicted variables", config.names, variables)
    at = [variables.index(name) for name in config.names]
    if config.kind in (DIVERGENCE, ENERGY, INTEGRAL) and grid is None:
        raise EarthSSLError(
            f"constraints, {config.kind}: expected fields, got numbers, which have no area; leave it out"
        )
    if config.kind == DIVERGENCE:
        assert grid is not None
        if known is not None and not known[at].all():
            raise EarthSSLError(
                f"constraints, divergence: expected {config.u} and {config.v} at every cell, got some that are never "
                "known (land?); leave it out"
            )
        return [Divergence(config, harmonics_of(grid.lat.tobytes(), grid.lon.tobytes()), (at[0], at[1]))]
    if config.kind == ENERGY:
        if len({units[k] for k in at}) > 1:
            said = ", ".join(f"{name} in {units[k]}" for name, k in zip(config.names, at, strict=True))
            raise EarthSSLError(f"constraints, energy: expected variables of one unit, to be added up, got {said}")
        return [Energy(config, config.names, at)]
    kind = Integral if config.kind == INTEGRAL else Bounds
    return [kind(config, name, k, units[k]) for name, k in zip(config.names, at, strict=True)]
