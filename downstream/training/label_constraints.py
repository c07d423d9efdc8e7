"""LabelConstraints: constraints on what a network says of labels, numbers or fields, in the labels' units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...ssl.common.errors import EarthSSLError
from ...ssl.constraints.config import ConstraintConfig
from ...ssl.constraints.constraints import Constraints
from ...ssl.constraints.scene import Scene, Units
from ...ssl.fields.grid import LatLonGrid


class LabelConstraints:
    """Constraints beside the scale that gives a head's departures their units; the climatology comes with the samples.

    Args:
        settings: The constraints.
        kind: Of the labels: regression or field.
        names, units: Of the targets.
        scale: Standard deviation of the departures, of each target.
        grid: Of the fields.
        known: Cells ever observed, (row, column); None: all.

    Raises:
        EarthSSLError: If constraints and labels do not fit together.
    """

    def __init__(
        self,
        settings: Sequence[ConstraintConfig],
        kind: str,
        names: Sequence[str],
        units: Sequence[str],
        scale: np.ndarray,
        grid: LatLonGrid,
        known: np.ndarray | None = None,
    ) -> None:
        if kind == "classification":
            raise EarthSSLError(
                "finetune.constraints: expected labels that are numbers or fields, got classes, whose chances lie "
                "between 0 and 1 as it is; leave them out"
            )
        self.fields, self.scale = kind == "field", np.asarray(scale, np.float64)
        self.constraints = Constraints(settings, names, units, grid if self.fields else None)
        if self.constraints.needs_start:
            raise EarthSSLError("finetune.constraints, integral: expected total, the area mean to be kept, got none")
        seen = np.ones(grid.shape, bool) if known is None else known
        self.area = torch.from_numpy(grid.area * seen if self.fields else np.ones((1, 1)))

    @property
    def trained(self) -> bool:
        """Whether they change what is trained: not where all are but measured."""
        return self.constraints.trained

    def hold(self, out: Tensor, base: Tensor, truth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return departures behind the layers, and the penalty.

        Args:
            out: Standardised departures, (sample, target) or (sample, row, column).
            base: Climatology of each sample, of the same shape, in units.
            truth: Observed departures, NaN where missing; None where they are not known.
        """
        scene = self._scene(out, base, truth)
        x = self._wide(out)
        made = self.constraints.layers(x, scene)
        return made.reshape(out.shape), self.constraints.penalty(made, scene)

    def violations(self, values: np.ndarray, truth: np.ndarray | None = None) -> dict[str, float]:
        """Return by how much values violate each constraint.

        Args:
            values: In units, (sample, target) or (sample, row, column); NaN where there is none.
            truth: Observed, likewise.
        """
        x, base = torch.from_numpy(values / self._own), torch.zeros(values.shape, dtype=torch.float64)
        known = None if truth is None else torch.from_numpy(truth / self._own)
        scene = self._scene(torch.nan_to_num(x), base, known)
        there = self._wide(torch.isfinite(x))
        scene = Scene(scene.units, scene.weight * there, None, scene.truth, scene.seen)
        found = self.constraints.violations(self._wide(torch.nan_to_num(x)), scene)
        return {name: float(value) for name, value in found.items()}

    def shape(self, values: np.ndarray) -> tuple[int, ...]:
        """Return the shape of one sample of predictions: of the last axis, or of the last two."""
        return values.shape[-2:] if self.fields else values.shape[-1:]

    def rows(self, found: Mapping[str, float]) -> list[dict[str, str | float]]:
        """Return a row for each violation: constraint, how, unit, violation."""
        return self.constraints.describe(dict(found))

    @property
    def _own(self) -> np.ndarray | float:
        return float(self.scale[0]) if self.fields else self.scale

    def _wide(self, x: Tensor) -> Tensor:
        """Return numbers or fields as (sample, 1, variable, row, column)."""
        return x[:, None, None] if self.fields else x[:, None, :, None, None]

    def _scene(self, out: Tensor, base: Tensor, truth: Tensor | None) -> Scene:
        scale = torch.from_numpy(self.scale).to(out)[None, None, :, None, None]
        spread = tuple(self.scale.tolist())
        units = Units(self._wide(base.to(out)), scale, (0.0,) * len(spread), spread)
        weight = self.area.to(out)[None, None, None]
        if truth is None:
            return Scene(units, weight)
        seen = torch.isfinite(truth)
        return Scene(units, weight, None, self._wide(torch.nan_to_num(truth).to(out)), self._wide(seen))
