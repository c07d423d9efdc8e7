"""TaskHead: from an encoder's tokens to what the labels say, with all that a prediction in units takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, check_known
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches
from .samples import Base, climatology_group

GLOBAL = ("mean", "last", "mean+pcs")
LOCAL = ("near", "near+mean")
PATCH = ("patch",)
SEASON = 4  # two harmonics of the year at the window's last step


def poolings_of(kind: str, local: bool) -> tuple[str, ...]:
    """Return the poolings that labels of a kind, with places or without, can have."""
    return PATCH if kind == "field" else LOCAL if local else GLOBAL


def check_pooling(pooling: str, kind: str, local: bool) -> None:
    """Raise an EarthSSLError unless the pooling suits the labels."""
    what = "fields" if kind == "field" else "labels with a place" if local else "labels of the whole field"
    check_known(f"finetune.pooling, {what}", [pooling], ("auto", *poolings_of(kind, local)))


class TaskHead(nn.Module):
    """Pooled tokens and season, standardised -> a linear layer -> departures from the labels' climatology, or logits.

    mean: over all tokens. last: over those of the last step. mean+pcs: beside `mean`, principal components of all
    tokens of the last step, fitted on the training windows and kept. near: over the tokens of the last step whose
    patches' centres are nearest to the label's place (great circle). near+mean: beside it the mean over all tokens.
    patch: every token of the last step by itself, to the cells of its patch.
    """

    centre: Tensor
    spread: Tensor
    basis: Tensor
    offset: Tensor
    base: Tensor
    scale: Tensor
    known: Tensor

    def __init__(self, shape: Mapping[str, Any]) -> None:
        """Make a head.

        Args:
            shape: kind, pooling, outputs, features (inputs of the linear layer), near (number of patches), pcs
                (tokens × width, components; or none), base (shape), scale (number), monthly, lead, and known (true:
                keep which cells of fields were ever observed) where constraints need it.
        """
        super().__init__()
        self.shape = dict(shape)
        self.kind, self.pooling = str(shape["kind"]), str(shape["pooling"])
        features, outputs = int(shape["features"]), int(shape["outputs"])
        self.linear = nn.Linear(features, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        flat, count = shape["pcs"] or (0, 0)
        kept = {
            "centre": torch.zeros(features), "spread": torch.ones(features), "basis": torch.zeros(flat, count),
            "offset": torch.zeros(count), "base": torch.zeros(*shape["base"], dtype=torch.float64),
            "scale": torch.ones(int(shape["scale"]), dtype=torch.float64),
        }  # fmt: skip
        if shape.get("known"):  # heads without constraints, and older ones, have no such mask
            kept["known"] = torch.ones(*shape["base"][1:], dtype=torch.bool)
        for name, value in kept.items():
            self.register_buffer(name, value)

    def inputs(self, tokens: Tensor, patches: Patches, places: Tensor | None) -> Tensor:
        """Return what the linear layer sees before it is standardised, (batch, feature) or (batch, patch, feature).

        Args:
            tokens: Features of all tokens, (batch, token, width).
            patches: They stand for.
            places: Latitude and longitude of each sample, degrees, (batch, 2), for the local poolings.

        Raises:
            EarthSSLError: If a local pooling is given no places.
        """
        chosen = None
        if self.pooling in LOCAL:
            if places is None:
                raise EarthSSLError("expected the places to predict for, got none; give their latitude and longitude")
            chosen = near(patches, places, int(self.shape["near"]))
        last = tokens.unflatten(1, (patches.shape[0], -1))[:, -1]
        return pooled(self.pooling, tokens.mean(1), last, season_of(patches), chosen, self.basis, self.offset)

    def forward(self, tokens: Tensor, patches: Patches, places: Tensor | None = None) -> Tensor:
        """Return standardised departures or logits, (batch, output), or (batch, patch, cell) for fields."""
        x = (self.inputs(tokens, patches, places) - self.centre) / self.spread
        return self.linear(x)

    def set_base(self, base: Base) -> None:
        """Keep the climatology and scale of the labels; cells that were never observed are 0."""
        self.base.copy_(torch.from_numpy(np.nan_to_num(base.values)))
        self.scale.copy_(torch.from_numpy(base.scale))
        if self.shape.get("known"):
            self.known.copy_(torch.from_numpy(base.known))

    def observed(self) -> np.ndarray | None:
        """Return which cells of fields were ever observed, (row, column); None where that was not kept."""
        return self.known.numpy() if self.shape.get("known") else None

    def base_at(self, times: np.ndarray) -> Tensor:
        """Return the labels' climatology at times, (time, …)."""
        return self.base[torch.from_numpy(climatology_group(times, self.shape["monthly"]))]


def season_of(patches: Patches) -> Tensor:
    """Return two harmonics of the year at the last step of each window, (batch, 4)."""
    return patches.season[:, -1, :SEASON]


def pooled(
    pooling: str,
    mean: Tensor,
    last: Tensor,
    season: Tensor,
    chosen: Tensor | None,
    basis: Tensor,
    offset: Tensor,
) -> Tensor:
    """Return the inputs of a head.

    Args:
        pooling: See `TaskHead`.
        mean: Over all tokens, (batch, width).
        last: Tokens of the last step, (batch, patch, width).
        season: From `season_of`.
        chosen: From `near`, for the local poolings.
        basis, offset: Of the principal components, for `mean+pcs`.
    """
    if pooling == "patch":
        return last
    if pooling == "last":
        parts = [last.mean(1)]
    elif pooling in LOCAL:
        assert chosen is not None
        parts = [last[torch.arange(len(last))[:, None], chosen].mean(1), *([mean] if pooling == "near+mean" else [])]
    else:
        parts = [mean, *([last.flatten(1) @ basis - offset] if pooling == "mean+pcs" else [])]
    return torch.cat([*parts, season], 1)


def near(patches: Patches, places: Tensor, count: int) -> Tensor:
    """Return the patches of a step whose centres are nearest to each place, (batch, count), the nearest first."""
    points = patches.place[: patches.count // patches.shape[0], :3].double()
    lat, lon = torch.deg2rad(places.double()).unbind(1)
    own = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], 1)
    return (own @ points.T).topk(min(count, len(points)), 1).indices


class TaskNetwork(nn.Module):
    """An encoder and the head of a task."""

    def __init__(self, encoder: Encoder, head: TaskHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, patches: Patches, places: Tensor | None = None) -> Tensor:
        """Return what the head says of windows."""
        return self.head(self.encoder(patches), patches, places)


def cells_of(values: Tensor, patches: Patches, factor: tuple[int, int] = (1, 1)) -> Tensor:
    """Return patches of one variable, (batch, patch, cell), as fields (batch, row, column), NaN where no patch is.

    Args:
        values: Of the cells of patches.
        patches: Says where they lie.
        factor: Rows and columns of cells in one of the patches' grid: more than one of a finer grid.
    """
    rows, columns = (size * more for size, more in zip(patches.size[1:], factor, strict=True))
    _, down, across = patches.shape
    cell = patches.cell[-values.shape[1] :]
    full = values.new_full((len(values), down * across, rows * columns), float("nan"))
    full[:, cell] = values
    fields = full.unflatten(1, (down, across)).unflatten(3, (rows, columns)).permute(0, 1, 3, 2, 4)
    height, width = (size * more for size, more in zip(patches.grid.shape, factor, strict=True))
    return fields.reshape(len(values), down * rows, across * columns)[:, :height, :width]


def cut_fields(fields: Tensor, patches: Patches, factor: tuple[int, int] = (1, 1)) -> Tensor:
    """Return fields (batch, row, column) as patches (batch, patch, cell), NaN where missing or padded.

    Arguments: see `cells_of`.
    """
    rows, columns = (size * more for size, more in zip(patches.size[1:], factor, strict=True))
    _, down, across = patches.shape
    height, width = (size * more for size, more in zip(patches.grid.shape, factor, strict=True))
    pad = (0, across * columns - width, 0, down * rows - height)
    full = nn.functional.pad(fields, pad, value=float("nan"))
    full = full.unflatten(2, (across, columns)).unflatten(1, (down, rows)).permute(0, 1, 3, 2, 4)
    return full.reshape(len(fields), down * across, rows * columns)[
        :, patches.cell[: patches.count // patches.shape[0]]
    ]
