"""Relative position: in which of eight directions does the second tile lie from the first?
(Doersch et al. 2015, arXiv 1505.05192, on the sphere.)

The two are neighbours in a tiling of 3×3, the first its centre: where it lies tells nothing of the class. In a
tiling of only 2 rows (or columns), for grids too low for three tiles and two gaps, the first tile lies at the
northern edge whenever the second is south of it: absolute latitude then tells part of the answer.

Trivial cues and how they are closed: see tiles.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.training.objective import Context, Cue, ObjectiveConfig
from ..cues import Statistics
from .tile_borders import KINDS, across
from .tiles import TileTask, Tiling

NAME = "relative_position"
# Steps southward and eastward from the first tile to the second; row k is class k.
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class RelativePositionConfig(ObjectiveConfig):
    """Settings of relative position.

    Attributes:
        weight: Weight of the loss.
        tiles: The tiling that both tiles are taken from; 3×3, or with 2 along an axis that lacks room.
        hidden: Width of the head's hidden layer.
    """

    weight: float = 1.0
    tiles: Tiling = field(default_factory=Tiling)
    hidden: int = 64

    def __post_init__(self) -> None:
        if not all(size in (2, 3) for size in self.tiles.shape):
            raise EarthSSLError(
                f"{NAME}.tiles.shape: expected 3×3 tiles, or 2 along an axis without room, got {self.tiles.shape}"
            )
        if self.hidden < 1:
            raise EarthSSLError(f"{NAME}.hidden: expected a width ≥ 1, got {self.hidden}")

    def build(self, context: Context) -> RelativePosition:
        """Return the objective.

        Raises:
            EarthSSLError: If the tiles with gaps of at least one tile do not fit the grid, patch or window.
        """
        self.tiles.check(context, f"{NAME}.tiles", strict=True)
        return RelativePosition(NAME, self.tiles, 2, len(DIRECTIONS), self.hidden, context)


class RelativePosition(TileTask):
    """Classify the direction from one tile to a neighbour."""

    def which(self, batch: Batch, picks: Int[Tensor, " batch"]) -> Int[Tensor, "batch shown"]:
        """Return the first tile and its neighbour in the picked direction."""
        ways = torch.tensor(DIRECTIONS, device=picks.device)[picks]
        middle = (uniform(fold(batch.keys, key(0, f"{NAME} first")), 2) * 2).long()
        first = []
        for axis, size in enumerate(self.tiling.shape):
            way = ways[:, axis]
            # With three the centre; with two the side away from the neighbour, any where it lies abreast.
            first.append(
                torch.where(way == 0, middle[:, axis], (way < 0).long()) if size == 2 else torch.ones_like(way)
            )
        start = torch.stack(first, 1)
        row, column = torch.stack([start, start + ways], 1).unbind(-1)
        return row * self.tiling.shape[1] + column

    def mismatch(self, shown: Batch) -> Float[Tensor, "sample class number"]:
        """Return the mismatch of the borders that face each other in every direction.

        Numbers of borders in a row, in a column and of corners stand apart, as they are not of one size.
        """
        values, valid = (x.unflatten(0, (-1, 2)) for x in (shown.values, shown.valid))
        pair = values[:, 0], valid[:, 0], values[:, 1], valid[:, 1]
        numbers = values.new_zeros(len(values), len(DIRECTIONS), 3, len(KINDS))
        for k, (south, east) in enumerate(DIRECTIONS):
            numbers[:, k, abs(south) + 2 * abs(east) - 1] = across(*pair, (south, east))
        return numbers.flatten(2)

    def cues(self) -> list[Cue]:
        """Return border matching, and a classifier that may read more from the same numbers."""
        return [*super().cues(), Statistics("borders, all ways together", self._numbers)]

    def _numbers(self, shown: Batch) -> np.ndarray:
        return (self.mismatch(shown).flatten(1) + 1e-3).log().cpu().numpy()
