"""What to hide: tokens at random, blocks on the sphere, tubes in time, last steps, whole variables, single cells."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.model.tokens import Patches, gather

KINDS = ("random", "block", "tube", "last", "variable", "cells")
# Of the smooth random fields that shape gaps of cells: number of bumps, and their least and greatest size, radians
# (600 to 4000 km).
BUMPS = 24
BUMP_SIZE = (0.1, 0.63)


@dataclass(frozen=True)
class MaskConfig:
    """One kind of mask in the mixture.

    Attributes:
        kind: random (tokens anywhere), block (caps on the sphere, centred area-uniformly, through all steps),
            tube (places, through all steps), last (the last steps), variable (whole variables, and tokens),
            cells (gaps of any outline: tokens inside them, and single cells of the tokens at their edge).
        weight: Share of the batches, relative to the other kinds.
        ratio: Share of the tokens that is hidden.
        blocks: Number of caps, with "block".
        cells: With "cells": least and greatest share of the cells of visible tokens that is hidden; each sample
            draws its own in between. One cell of each visible token stays.
    """

    kind: str = "random"
    weight: float = 1.0
    ratio: float = 0.75
    blocks: int = 3
    cells: tuple[float, float] = (0.0, 0.7)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EarthSSLError(f"masks: expected {', '.join(KINDS)}, got '{self.kind}'." + nearest(self.kind, KINDS))
        if not 0 < self.ratio < 1:
            raise EarthSSLError(f"masks.{self.kind}.ratio: expected a share between 0 and 1, got {self.ratio}")
        if not self.weight >= 0 or self.blocks < 1:
            raise EarthSSLError(f"masks.{self.kind}: expected weight ≥ 0 and blocks ≥ 1, got {self}")
        if not 0 <= self.cells[0] <= self.cells[1] < 1:
            raise EarthSSLError(
                f"masks.{self.kind}.cells: expected a least and a greatest share within [0, 1), got {self.cells}"
            )


@dataclass(frozen=True)
class Mask:
    """Which tokens, and which of their cells, an encoder may see.

    Attributes:
        order: A permutation of the tokens of each sample, the visible ones first, (batch, token).
        visible: How many are visible: the same for all samples.
        hidden_variables: Variables hidden everywhere, (batch, variable); None where none can be.
        hidden_cells: Cells hidden in all variables, by token id; None where whole tokens are hidden only.
    """

    order: Int[Tensor, "batch token"]
    visible: int
    hidden_variables: Bool[Tensor, "batch variable"] | None = None
    hidden_cells: Bool[Tensor, "batch every_token cell"] | None = None

    @property
    def keep(self) -> Int[Tensor, "batch visible"]:
        """Ids of the visible tokens."""
        return self.order[:, : self.visible]

    @property
    def hidden(self) -> Int[Tensor, "batch hidden"]:
        """Ids of the hidden tokens."""
        return self.order[:, self.visible :]

    def shown(self, patches: Patches) -> Patches:
        """Return the patches without what is hidden inside the visible tokens."""
        if self.hidden_variables is not None:
            patches = patches.without(self.hidden_variables)
        if self.hidden_cells is None:
            return patches
        seen = ~self.hidden_cells[:, :, None]
        return replace(patches, values=patches.values * seen, valid=patches.valid & seen)

    def concealed(self) -> Bool[Tensor, "batch token variable _"]:
        """Return what is hidden, token by token in the order of `order`; one cell stands for all where all are."""
        place = torch.arange(self.order.shape[1], device=self.order.device) >= self.visible
        hidden = place[None, :, None, None].expand(len(self.order), -1, -1, -1)
        if self.hidden_variables is not None:
            hidden = hidden | self.hidden_variables[:, None, :, None]
        if self.hidden_cells is None:
            return hidden
        return hidden | gather(self.hidden_cells, self.order)[:, :, None]


def visible_count(tokens: int, ratio: float) -> int:
    """Return how many tokens stay visible.

    Raises:
        EarthSSLError: If the ratio leaves none visible, or none hidden.
    """
    visible = round(tokens * (1 - ratio))
    if not 0 < visible < tokens:
        raise EarthSSLError(
            f"mask ratio {ratio} leaves {visible} of {tokens} tokens visible, expected at least one visible and "
            "one hidden; change the ratio, or take smaller patches or a longer window"
        )
    return visible


def check(config: MaskConfig, patches: Patches) -> None:
    """Raise an EarthSSLError if the mask's ratio leaves nothing visible or nothing hidden of such patches."""
    by_place = config.kind in ("tube", "block")
    visible_count(patches.count // patches.shape[0] if by_place else patches.count, config.ratio)


def draw(config: MaskConfig, patches: Patches, keys: Int[Tensor, " batch"]) -> Mask:
    """Return a mask for every sample, a function of its key.

    Every kind gives each token a score (block and tube: each place, for all steps alike); the lowest scores
    stay visible, so that all samples keep equally many and no position is favoured beyond what the kind means.
    """
    steps = patches.shape[0]
    places = patches.count // steps
    keys = fold(keys, key(0, f"mask {config.kind}"))
    if config.kind in ("tube", "block"):
        if config.kind == "tube":
            scores = uniform(fold(keys, 1), patches.shape[1] * patches.shape[2])[:, patches.cell[:places]]
        else:
            scores = _closeness_to_centres(patches, places, uniform(fold(keys, 1), 2 * config.blocks))
        chosen = scores.argsort(dim=1, stable=True)
        # The tokens of a place lie `places` apart.
        order = (chosen[:, :, None] + places * torch.arange(steps, device=keys.device)).flatten(1)
        return Mask(order, steps * visible_count(places, config.ratio))
    if config.kind == "cells":
        return _draw_cells(config, patches, keys)
    scores = uniform(keys, patches.count)
    if config.kind == "last":
        scores = patches.step + scores
    hidden_variables = None
    if config.kind == "variable":
        hidden_variables = _draw_variables(uniform(fold(keys, 1), len(patches.variables) + 1))
    return Mask(scores.argsort(dim=1, stable=True), visible_count(patches.count, config.ratio), hidden_variables)


def thin(mask: Mask, share: float, keys: Int[Tensor, " batch"]) -> Mask:
    """Return the mask with a random share of its hidden tokens (at least one) left to be rebuilt.

    The others are hidden still, and simply not asked for: less work for the decoder at little loss
    (Wang et al. 2023, arXiv 2303.16727).
    """
    if share >= 1:
        return mask
    hidden = mask.hidden
    count = max(1, round(share * hidden.shape[1]))
    chosen = uniform(fold(keys, key(0, "mask thin")), hidden.shape[1]).argsort(1)[:, :count]
    return replace(mask, order=torch.cat([mask.keep, hidden.gather(1, chosen)], 1))


def _closeness_to_centres(
    patches: Patches, places: int, numbers: Float[Tensor, "batch twice_blocks"]
) -> Float[Tensor, "batch place"]:
    """Return the cosine of each place's great-circle distance to the nearest of the drawn centres.

    Centres are uniform in area over the grid's span: sin of latitude is uniform. Distances on the
    sphere wrap in longitude of themselves.
    """
    blocks = numbers.shape[1] // 2
    grid = patches.grid
    south, north = (math.sin(math.radians(edge)) for edge in (grid.lat_bounds[-1], grid.lat_bounds[0]))
    west, east = (math.radians(edge) for edge in (grid.lon_bounds[0], grid.lon_bounds[-1]))
    sine = south + (north - south) * numbers[:, :blocks]
    lon = west + (east - west) * numbers[:, blocks:]
    cosine = (1 - sine**2).sqrt()
    centres = torch.stack([cosine * lon.cos(), cosine * lon.sin(), sine], -1)
    # The first three place features are the point on the unit sphere (ssl/model/tokens.py).
    points = patches.place[:places, :3]
    return (centres @ points.T).amax(1)


def _draw_cells(config: MaskConfig, patches: Patches, keys: Int[Tensor, " batch"]) -> Mask:
    """Return a mask with gaps where a random field is high: in tokens where its mean is, and in cells of the others.

    The field is smooth bumps, the same at all steps of a window, and noise of a weight that each sample draws:
    from compact holes with clean edges to scattered cells.
    """
    numbers = uniform(fold(keys, 2), 2)
    smooth = _bumps(_cell_points(patches), uniform(fold(keys, 1), 3 * BUMPS + 1))
    noise = uniform(keys, patches.count * smooth.shape[-1]).unflatten(1, smooth.shape[1:]) - 0.5
    field = (1 - numbers[:, :1, None]) * smooth + 4 * numbers[:, :1, None] * noise
    order = field.mean(2).argsort(dim=1, stable=True)
    visible = visible_count(patches.count, config.ratio)
    seen = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    seen.scatter_(1, order[:, :visible], torch.ones_like(order[:, :visible], dtype=torch.bool))
    field = torch.where(seen[..., None] & (patches.area > 0), field, torch.full_like(field, math.inf))
    candidates = field.isfinite().sum((1, 2))
    share = config.cells[0] + (config.cells[1] - config.cells[0]) * numbers[:, 1]
    stay = candidates - (share * candidates).long()
    rank = field.flatten(1).argsort(dim=1, stable=True).argsort(1).unflatten(1, field.shape[1:])
    lowest = nn.functional.one_hot(field.argmin(2), field.shape[2]).bool()
    return Mask(order, visible, None, (rank >= stay[:, None, None]) & field.isfinite() & ~lowest)


def _cell_points(patches: Patches) -> Float[Tensor, "token cell 3"]:
    """Return every cell's point on the unit sphere; padding takes that of the nearest cell."""
    steps, rows, columns = patches.size
    height, width = patches.grid.shape
    row, column = patches.cell // patches.shape[2], patches.cell % patches.shape[2]
    device = patches.cell.device
    y = (row[:, None] * rows + torch.arange(rows, device=device)).clamp(max=height - 1)
    x = (column[:, None] * columns + torch.arange(columns, device=device)).clamp(max=width - 1)
    lat = torch.deg2rad(torch.from_numpy(patches.grid.lat).float().to(device))[y][:, None, :, None]
    lon = torch.deg2rad(torch.from_numpy(patches.grid.lon).float().to(device))[x][:, None, None, :]
    sphere = torch.broadcast_tensors(lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin())
    return torch.stack(sphere, -1).expand(-1, steps, -1, -1, -1).flatten(1, 3)


def _bumps(
    points: Float[Tensor, "token cell 3"], numbers: Float[Tensor, "batch number"]
) -> Float[Tensor, "batch token cell"]:
    """Return a sum of bumps of one size at random places of the sphere, about unit variance over the cells."""
    count = (numbers.shape[1] - 1) // 3
    sine, turn, sign = (2 * numbers[:, k * count : (k + 1) * count] - 1 for k in range(3))
    cosine, angle = (1 - sine**2).sqrt(), math.pi * turn
    centres = torch.stack([cosine * angle.cos(), cosine * angle.sin(), sine], -1)
    least, greatest = BUMP_SIZE
    size = least * (greatest / least) ** numbers[:, -1]
    out = torch.zeros(len(numbers), *points.shape[:2], device=points.device)
    for k in range(count):  # one at a time: the fields may be large
        near = torch.einsum("bx,tcx->btc", centres[:, k], points)
        out = out + sign[:, k, None, None] * ((near - 1) / size[:, None, None] ** 2).exp()
    return out / out.std((1, 2), keepdim=True).clamp(min=1e-6)


def _draw_variables(numbers: Float[Tensor, "batch variables_and_one"]) -> Bool[Tensor, "batch variable"]:
    """Return a random subset of the variables, 1 to all but one of them (none where there is one only)."""
    count = numbers.shape[1] - 1
    if count < 2:
        return torch.zeros(numbers.shape[0], count, dtype=torch.bool, device=numbers.device)
    how_many = 1 + (numbers[:, :1] * (count - 1)).long()
    ranks = numbers[:, 1:].argsort(1).argsort(1)
    return ranks < how_many
