"""Orientation: which way round is this map? (Gidaris et al. 2018, arXiv 1803.07728, on the sphere.)

Rectangles are shown in one of {identity, east-west, north-south, half turn}, square crops in one of the four
quarter turns; only reflections and turns of whole cells, so there is no border to be recognised. Vector
components turn along: what is left to see is physics (the Coriolis force, westward waves, the shape of ENSO).

Trivial cues and how they are closed: the mean gradient and the season (fields are anomalies, scaled cell by
cell); latitude and longitude (absolute positions hidden); the coastline and gaps (a cell is shown only if it
is valid under every turn, so the mask is the same for all classes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from einops import reduce
from jaxtyping import Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.fields.grid import LatLonGrid
from ...ssl.fields.reflections import FLIPS, TURNS, invariant, turn
from ...ssl.fields.variables import vector_partner
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import PLACE, SEASON, patchify
from ...ssl.training.objective import Context, Cue, Objective, ObjectiveConfig, Outcome, over_chance
from ..cues import Statistics, gradient_statistics

CROP_ATTEMPTS = 1000


@dataclass(frozen=True)
class OrientationConfig(ObjectiveConfig):
    """Settings of orientation.

    Attributes:
        weight: Weight of the loss.
        crop: Side of square crops in cells, for quarter turns; 0 takes the whole map and the flips.
        frames: Steps of the window shown, counted back from the last; 0 takes all.
        hidden: Width of the head's hidden layer.
    """

    weight: float = 1.0
    crop: int = 0
    frames: int = 1
    hidden: int = 64

    def build(self, context: Context) -> Orientation:
        """Return the objective.

        Raises:
            EarthSSLError: If the crop does not fit the grid or a wind component lacks its partner.
        """
        rows, columns = context.grid.shape
        if self.crop and not 2 <= self.crop <= min(rows, columns):
            raise EarthSSLError(
                f"orientation.crop: expected 2 to {min(rows, columns)} cells ({context.grid}), got {self.crop}"
            )
        window, steps = context.encoder.config.window, context.encoder.config.patch[0]
        if self.frames % steps or not 0 <= self.frames <= window:
            raise EarthSSLError(
                f"orientation.frames: expected 0 to {window}, a multiple of the patch's {steps} steps, "
                f"got {self.frames}"
            )
        partners = {name: vector_partner(name) for name in context.variables}
        alone = [n for n, p in partners.items() if p is not None and p[0] not in context.variables]
        if self.crop and alone:
            raise EarthSSLError(
                f"orientation: quarter turns need both wind components, {alone[0]} has no partner in "
                f"{', '.join(context.variables)}; add it or set crop to 0"
            )
        return Orientation(self, context)


class Orientation(Objective):
    """Classify how a map was turned."""

    bars: ClassVar[tuple[str, ...]] = ("mirror",)  # a mirrored planet is one of its classes

    def __init__(self, config: OrientationConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.kinds = TURNS if config.crop else FLIPS
        self.classes = len(self.kinds)
        self.head = nn.Sequential(
            nn.Linear(context.encoder.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, self.classes)
        )

    def forward(self, encoder: Encoder, batch: Batch) -> Outcome:
        """Return the cross-entropy of the turn, with accuracy and skill over chance."""
        shown, picks = self.pose(batch)
        patches = patchify(shown, encoder.config.patch)
        features = encoder(patches, hide=frozenset({PLACE, SEASON}))
        logits = self.head(reduce(features, "b n d -> b d", "mean")).float()
        loss = nn.functional.cross_entropy(logits, picks)
        accuracy = (logits.argmax(1) == picks).float().mean().detach()
        return Outcome(loss, {"accuracy": accuracy, "skill": over_chance(accuracy, self.classes)})

    def pose(self, batch: Batch) -> tuple[Batch, Int[Tensor, " batch"]]:
        """Return the maps turned by the samples' keys, and how each was turned."""
        drawn = uniform(fold(batch.keys, key(0, "orientation")), 1)[:, 0]
        picks = (drawn * self.classes).long()
        return self.show(batch, picks), picks

    def cues(self) -> list[Cue]:
        """Return the mean gradients of the map."""
        return [Statistics("mean gradients and variances by half", gradient_statistics)]

    def show(self, batch: Batch, picks: Int[Tensor, " batch"]) -> Batch:
        """Return the maps, each turned as picked, with a validity mask that is the same for every turn."""
        if self.config.frames:
            last = slice(-self.config.frames, None)
            batch = replace(batch, values=batch.values[:, last], valid=batch.valid[:, last], times=batch.times[:, last])
        if self.config.crop:
            batch = crop(batch, self.config.crop)
        valid = invariant(batch.valid, self.kinds)
        values = batch.values * valid
        turned = torch.stack([turn(values, batch.variables, kind) for kind in self.kinds])
        shown = turned[picks, torch.arange(len(batch), device=picks.device)]
        return replace(batch, values=shown, valid=valid, known=invariant(batch.known, self.kinds))


def crop(batch: Batch, side: int) -> Batch:
    """Return a square of `side` cells of the batch, its corner drawn once a batch from the batch's number.

    Where the grid goes round the globe, the crop may cross its edge. A square without a cell that can hold a
    value under every turn (land, for SST) is drawn again.

    Raises:
        EarthSSLError: If the squares drawn never hold such a cell.
    """
    rows, columns = batch.grid.shape
    for attempt in range(CROP_ATTEMPTS):
        draws = uniform(torch.tensor([key(0, "crop", batch.number, attempt)]), 2)[0]
        top = int(draws[0] * (rows - side + 1))
        left = int(draws[1] * (columns if batch.grid.periodic else columns - side + 1))
        index = torch.arange(left, left + side) % columns
        known = batch.known[..., top : top + side, :].index_select(-1, index)
        if invariant(known, TURNS).any():
            break
    else:
        raise EarthSSLError(
            f"orientation.crop: expected squares of {side} cells that hold values under every turn, found none in "
            f"{CROP_ATTEMPTS} draws; take a larger crop, or 0 for the whole map"
        )

    def cut(x: Tensor) -> Tensor:
        return x[..., top : top + side, :].index_select(-1, index.to(x.device))

    # The true longitudes may wrap inside the crop; only the spacing matters, as the place is hidden.
    spacing = np.diff(batch.grid.lon_bounds)[:side]
    lon = np.cumsum(spacing) - spacing / 2
    grid = LatLonGrid(batch.grid.lat[top : top + side], lon)
    return replace(batch, values=cut(batch.values), valid=cut(batch.valid), known=known, grid=grid)
