"""Batch -> patches -> tokens, and patches back to fields.

A token is one patch of (time steps × rows × columns) with every variable in it. Each variable name owns a
block of weights; the blocks of the variables at hand are laid under one another and applied as one matrix,
so a token is the sum over the variables present and any subset works at the cost of one product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from ..common.errors import EarthSSLError, nearest
from ..fields.batch import Batch
from ..fields.grid import LatLonGrid

PLACE_FEATURES = 24

LAYOUT_FEATURES = 20

SLOT_FEATURES = 14

SEASON_FEATURES = 6

YEAR_S = 365.2425 * 86400.0

PLACE = "place"

LAYOUT = "layout"

SEASON = "season"


@dataclass(frozen=True)
class Patches:
    """The patches of a batch that can ever hold a value, in the order (step, row, column).

    Attributes:
        values: Cells of each patch, 0 where missing, (batch, token, variable, cell).
        valid: Whether each cell was observed, same shape; False in padding.
        area: Share of the sphere of each cell, 0 in padding, (token, cell).
        place: Features of true latitude, longitude and area, (token, feature), or (batch, token, feature) where the
            samples lie in different places.
        layout: Features of the position within the grid at hand, for tasks that hide the place.
        slot: Features of the step within the window, counted back from the last, (token, feature).
        season: Features of the time of year and of day, (batch, token, feature).
        step: Patch index in time, (token,).
        cell: Patch index in space, row × columns + column, (token,).
        variables: Canonical names.
        shape: Patches in time, rows, columns of the padded grid.
        size: Steps, rows and columns of a patch.
        grid: The cells they were cut from.
    """

    values: Float[Tensor, "batch token variable cell"]
    valid: Bool[Tensor, "batch token variable cell"]
    area: Float[Tensor, "token cell"]
    place: Float[Tensor, "*own token place_feature"]
    layout: Float[Tensor, "token layout_feature"]
    slot: Float[Tensor, "token slot_feature"]
    season: Float[Tensor, "batch token season_feature"]
    step: Int[Tensor, " token"]
    cell: Int[Tensor, " token"]
    variables: tuple[str, ...]
    shape: tuple[int, int, int]
    size: tuple[int, int, int]
    grid: LatLonGrid

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.values.shape[1]

    def without(self, hidden: Bool[Tensor, "batch variable"]) -> Patches:
        """Return the patches as if the hidden variables had not been observed."""
        shown = ~hidden[:, None, :, None]
        return replace(self, values=self.values * shown, valid=self.valid & shown)


def padded(size: int, patch: int) -> int:
    """Return the size rounded up to whole patches: the rule for grids that patches do not divide.

    The cells added at the southern and eastern edge are never valid, have no area and count nowhere.
    """
    return -(-size // patch) * patch


def patchify(batch: Batch, patch: tuple[int, int, int]) -> Patches:
    """Cut a batch into patches, without gradients; patches that never hold a value (land) are left out.

    Args:
        batch: Windows whose length is a multiple of the patch's steps.
        patch: Steps, rows and columns of a patch.

    Raises:
        EarthSSLError: If the window does not divide into patches, or no patch holds a value.
    """
    steps, rows, columns = patch
    length = batch.values.shape[1]
    if length % steps:
        raise EarthSSLError(f"expected a window of a multiple of {steps} steps (patch), got {length}; change either")
    geometry = _geometry(batch.grid, length, patch, batch.known.any(0).cpu().numpy().tobytes())
    tokens = geometry.kept.to(batch.values.device)
    pad = (
        0,
        geometry.columns * columns - batch.values.shape[-1],
        0,
        geometry.rows * rows - batch.values.shape[-2],
    )
    form = "b (t p) v (r q) (c s) -> b (t r c) v (p q s)"

    def cut(x: Tensor) -> Tensor:
        x = nn.functional.pad(x, pad)
        return rearrange(x, form, p=steps, q=rows, s=columns)[:, tokens]

    seasons = season_features(batch.times[:, steps - 1 :: steps])
    step = geometry.step.to(tokens.device)
    return Patches(
        values=cut(batch.values),
        valid=cut(batch.valid),
        area=geometry.area.to(tokens.device),
        place=geometry.place.to(tokens.device),
        layout=geometry.layout.to(tokens.device),
        slot=geometry.slot.to(tokens.device),
        season=seasons[:, step],
        step=step,
        cell=geometry.cell.to(tokens.device),
        variables=batch.variables,
        shape=(length // steps, geometry.rows, geometry.columns),
        size=(steps, rows, columns),
        grid=batch.grid,
    )


def unpatchify(
    values: Float[Tensor, "batch token variable cell"], patches: Patches, patch: tuple[int, int, int]
) -> Float[Tensor, "batch time variable row column"]:
    """Return patch values as fields on the grid, NaN where no token stood."""
    steps, rows, columns = patch
    t, r, c = patches.shape
    full = values.new_full((values.shape[0], t * r * c, *values.shape[2:]), math.nan)
    full[:, patches.step * (r * c) + patches.cell] = values
    fields = rearrange(full, "b (t r c) v (p q s) -> b (t p) v (r q) (c s)", t=t, r=r, c=c, p=steps, q=rows, s=columns)
    height, width = patches.grid.shape
    return fields[..., :height, :width]


@dataclass(frozen=True)
class _Geometry:
    kept: Tensor
    step: Tensor
    cell: Tensor
    area: Tensor
    place: Tensor
    layout: Tensor
    slot: Tensor
    rows: int
    columns: int


@lru_cache(maxsize=32)
def _geometry(grid: LatLonGrid, length: int, patch: tuple[int, int, int], known: bytes) -> _Geometry:
    """Return what depends on grid, window and land alone; `known` is a mask of cells as bytes."""
    steps, rows, columns = patch
    height, width = padded(grid.shape[0], rows), padded(grid.shape[1], columns)
    shape = (length // steps, height // rows, width // columns)

    def cut(field: np.ndarray) -> np.ndarray:
        full = np.zeros((height, width), field.dtype)
        full[: grid.shape[0], : grid.shape[1]] = field
        return rearrange(full, "(r q) (c s) -> (r c) (q s)", q=rows, s=columns)

    area = cut(grid.area)
    seen = cut(np.frombuffer(known, bool).reshape(grid.shape)).any(1)
    if not seen.any():
        raise EarthSSLError("expected some cell with values, but every variable is missing everywhere")
    cells = np.flatnonzero(seen)
    row, column = np.divmod(cells, shape[2])
    place = place_features(_centres(grid.lat, rows, height)[row], _centres(grid.lon, columns, width)[column])
    logarithm = np.log(np.maximum(area[cells].sum(1, keepdims=True), 1e-12))
    layout = _fourier(np.stack([(row + 0.5) / shape[1] - 0.5, (column + 0.5) / shape[2] - 0.5], 1), 5)
    slots = _fourier((np.arange(shape[0]) - shape[0] + 1)[:, None] / 64.0, 7)

    def over_time(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.tile(x, (shape[0], *(1,) * (x.ndim - 1)))).float()

    per_step = len(cells)
    return _Geometry(
        kept=torch.from_numpy((np.arange(shape[0])[:, None] * shape[1] * shape[2] + cells).ravel()),
        step=torch.arange(shape[0]).repeat_interleave(per_step),
        cell=torch.from_numpy(cells).repeat(shape[0]),
        area=over_time(np.repeat(area[cells], steps, 0).reshape(per_step, -1)),
        place=over_time(np.concatenate([place, logarithm / 10], 1)),
        layout=over_time(layout),
        slot=torch.from_numpy(slots).float().repeat_interleave(per_step, 0),
        rows=shape[1],
        columns=shape[2],
    )


def _centres(axis: np.ndarray, patch: int, size: int) -> np.ndarray:
    """Return the centre of each patch along an axis, degrees, from its true cells: padding lies nowhere."""
    extra = np.full(size - len(axis), np.nan)
    return np.nanmean(np.concatenate([axis, extra]).reshape(-1, patch), 1)


def place_features(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return the point on the unit sphere (first three) and waves of latitude and longitude, (place, 23)."""
    y, x = np.deg2rad(lat), np.deg2rad(lon)
    sphere = [np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)]
    waves = [f(k * angle) for angle in (y, x) for k in (1, 2, 4, 8, 16) for f in (np.sin, np.cos)]
    return np.stack(sphere + waves, 1)


def _fourier(x: np.ndarray, octaves: int) -> np.ndarray:
    """Return sin and cos of 2π 2^k x for the first octaves, (row, columns × 2 × octaves)."""
    angles = 2 * np.pi * x[:, :, None] * 2.0 ** np.arange(octaves)
    return np.concatenate([np.sin(angles), np.cos(angles)], 2).reshape(len(x), -1)


def season_features(times: Int[Tensor, "batch step"]) -> Float[Tensor, "batch step season_feature"]:
    """Return two harmonics of the year and one of the day, from UTC seconds."""
    year = (times.double() % YEAR_S) * (2 * math.pi / YEAR_S)
    day = (times.double() % 86400.0) * (2 * math.pi / 86400.0)
    waves = [f(angle) for angle in (year, 2 * year, day) for f in (torch.sin, torch.cos)]
    return torch.stack(waves, -1).float()


def gather(
    x: Shaped[Tensor, "batch token *rest"], ids: Int[Tensor, "batch kept"]
) -> Shaped[Tensor, "batch kept *rest"]:
    """Return the tokens at the ids of each sample: one flat index_select (the fastest way, measured)."""
    batch, tokens = x.shape[:2]
    flat = (ids + torch.arange(batch, device=ids.device)[:, None] * tokens).flatten()
    return x.flatten(0, 1).index_select(0, flat).unflatten(0, ids.shape)


def gather_rows(x: Float[Tensor, "token dim"], ids: Int[Tensor, "batch kept"]) -> Float[Tensor, "batch kept dim"]:
    """Return the rows that all samples share at the ids of each sample."""
    return x.index_select(0, ids.flatten()).unflatten(0, ids.shape)


class Encodings(nn.Module):
    """Where and when a token is, as a vector to be added to it."""

    def __init__(self, width: int, balanced: bool = True) -> None:
        """Make the weights.

        Args:
            width: Width of a token.
            balanced: Whether the sum of place, slot and season starts with mean square 1, as the values do; else each
                of the three does.
        """
        super().__init__()
        self.place = nn.Linear(PLACE_FEATURES, width)
        self.layout = nn.Linear(LAYOUT_FEATURES, width)
        self.slot = nn.Linear(SLOT_FEATURES, width, bias=False)
        self.season = nn.Linear(SEASON_FEATURES, width, bias=False)
        for layer in (self.place, self.layout, self.slot, self.season):
            # sin² and cos² are a half on average; a token is the sum of three encodings.
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features / (3 if balanced else 1)))

    def forward(
        self, patches: Patches, ids: Int[Tensor, "batch kept"] | None, hide: frozenset[str] = frozenset()
    ) -> Float[Tensor, "batch kept width"]:
        """Return the encodings of the tokens at `ids` (all where None).

        `hide` may name "place" (the position within the grid at hand is given instead of latitude and
        longitude), with it "layout" (no position in space at all) and "season" (no time of year or day), for
        tasks that they would give away.
        """
        shared = self.slot(patches.slot)
        if PLACE not in hide:
            shared = self.place(patches.place) + shared
        elif LAYOUT not in hide:
            shared = self.layout(patches.layout) + shared
        if ids is not None:
            out = gather(shared, ids) if shared.ndim == 3 else gather_rows(shared, ids)
        else:
            out = shared.expand(patches.values.shape[0], -1, -1)
        if SEASON not in hide:
            # The season is the same all over a step: project one token a step, then hand it out.
            first = torch.searchsorted(patches.step, torch.arange(patches.shape[0], device=patches.step.device))
            steps = self.season(patches.season[:, first])
            if ids is None:
                out = out + steps[:, patches.step]
            else:
                out = out + gather(steps, patches.step[ids.flatten()].unflatten(0, ids.shape))
        return out


class Embedding(nn.Module):
    """Patches -> tokens: the sum over the variables present of a block of weights each."""

    def __init__(self, variables: Sequence[str], cells: int, width: int, balanced: bool = True) -> None:
        """Make one block a variable.

        Args:
            variables: Canonical names.
            cells: Cells of a patch (steps × rows × columns).
            width: Width of a token.
            balanced: Whether cells of unit variance start with mean square 1 in a token; else with that of Xavier's
                rule, between 0 and 2 as the inputs are fewer or more than the width.
        """
        super().__init__()
        # Over all blocks together, as one Linear would have it; each block has the cells and their valid share.
        inputs = len(variables) * (cells + 1)
        bound = math.sqrt(3.0 / inputs if balanced else 6.0 / (len(variables) * cells + width))
        self.blocks = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(cells + 1, width).uniform_(-bound, bound)) for name in variables}
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, patches: Patches, ids: Int[Tensor, "batch kept"] | None) -> Float[Tensor, "batch kept width"]:
        """Return the embedded patches at `ids` (all where None).

        Raises:
            EarthSSLError: If the patches hold a variable without weights.
        """
        unknown = [name for name in patches.variables if name not in self.blocks]
        if unknown:
            raise EarthSSLError(
                f"the encoder knows {', '.join(self.blocks)}, got {', '.join(unknown)}; leave it out."
                + nearest(unknown[0], self.blocks)
            )
        values, valid = patches.values, patches.valid
        if ids is not None:
            values, valid = gather(values, ids), gather(valid, ids)
        share = valid.to(values.dtype).mean(-1, keepdim=True)
        inputs = torch.cat([values, share], -1).flatten(2)
        weights = torch.cat([self.blocks[name] for name in patches.variables], 0)
        return inputs @ weights.to(inputs.dtype) + self.bias


def token_places(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    """Return the latitude and longitude of each token's centre, degrees, longitude in [0, 360)."""
    x, y, z = patches.place[:, :3].numpy().astype(np.float64).T
    return np.rad2deg(np.arcsin(np.clip(z, -1, 1))), np.rad2deg(np.arctan2(y, x)) % 360
