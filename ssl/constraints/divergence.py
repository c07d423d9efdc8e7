"""Divergence: that of a wind on the sphere is zero, as in flows that a stream function describes."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import ConstraintConfig
from .constraint import Constraint
from .scene import Scene
from .wind import WindHarmonics


class Divergence(Constraint):
    """No divergence of one wind; a cell without a value stands at the climatology."""

    unit = "s-1"

    def __init__(
        self, config: ConstraintConfig, harmonics: WindHarmonics, positions: tuple[int, int]
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.name = f"{config.kind}_{config.u}_{config.v}"
        self.harmonics, self.positions = harmonics, positions

    def _wind(self, x: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        values = scene.units.values(x)
        return values[:, :, self.positions[0]], values[:, :, self.positions[1]]

    def violation(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the root mean square of the divergence over area and samples, s-1."""
        return self.harmonics.root_mean_square_divergence(*self._wind(x, scene)).square().mean().sqrt()

    def penalty(self, x: Tensor, scene: Scene) -> Tensor:
        """Return the mean square of the wind's divergent part over that of usual departures of the wind."""
        usual = sum(scene.units.spread[k] ** 2 for k in self.positions)
        return self.harmonics.divergent_energy(*self._wind(x, scene)).mean() / usual

    def layer(self, x: Tensor, scene: Scene) -> Tensor:
        """Return x with the wind projected onto zero divergence, up to the truncation of the grid's harmonics."""
        values = scene.units.values(x)
        wind = self.harmonics.without_divergence(*(values[:, :, k] for k in self.positions))
        made = scene.units.departures(values.index_copy(2, torch.tensor(self.positions, device=x.device),
                                                        torch.stack(wind, 2)))  # fmt: skip
        return x.index_copy(2, torch.tensor(self.positions, device=x.device), made[:, :, list(self.positions)])
