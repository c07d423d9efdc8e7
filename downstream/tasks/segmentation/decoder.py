"""Decoders from frozen tokens and raw fields to a class for each cell, and the U-Net beside them.

One network in five forms, trained by one loop: tokens become features of the cells of their patch, the raw fields of
the window join them (the skip), and two convolutions read both. Convolutions go round the globe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ....ssl.fields.grid import LatLonGrid
from ....ssl.model.tokens import padded, season_features
from ...training.from_scratch import ScratchConfig, learn
from .scores import best_factors

FORMS = DECODER, LINEAR, UNET = "decoder", "linear", "U-Net"
LOSSES = ("cross_entropy", "weighted", "jaccard")
SKIPPED = 16  # features a cell has from its token


@dataclass(frozen=True, eq=False)
class Inputs:
    """What decoders read at the steps of the samples.

    Attributes:
        steps: Of the store, ascending, (step,).
        raw: Fields of the window, position and season, float32 (step, channel, row, column).
        grid: Cells.
        patch: Rows and columns of a token.
        tiles: Number of each token's patch, row × columns + column of the padded grid, (token,).
    """

    steps: np.ndarray
    raw: Tensor
    grid: LatLonGrid
    patch: tuple[int, int]
    tiles: np.ndarray

    def at(self, steps: np.ndarray) -> Tensor:
        """Return the places of steps among `steps`."""
        return torch.from_numpy(np.searchsorted(self.steps, steps))

    @property
    def tiled(self) -> tuple[int, int]:
        """Patches in a column and in a row of the padded grid."""
        (high, wide), (rows, columns) = self.grid.shape, self.patch
        return padded(high, rows) // rows, padded(wide, columns) // columns


def surroundings(grid: LatLonGrid, times: np.ndarray) -> np.ndarray:
    """Return the point on the unit sphere and the first harmonic of the year, float32 (time, 5, row, column)."""
    y, x = np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)[None, :]
    place = np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.broadcast_to(np.sin(y), grid.shape)])
    seconds = torch.from_numpy(times.astype("datetime64[s]").astype(np.int64))[None]
    year = season_features(seconds)[0, :, :2].numpy()
    made = np.empty((len(times), 5, *grid.shape), np.float32)
    made[:, :3], made[:, 3:] = place, year[:, :, None, None]
    return made


class Decoder(nn.Module):
    """Logits of classes, (sample, class, row, column): log frequencies of the row of cells, and what is learnt.

    Forms: decoder with or without tokens; linear (of the token, or of the raw values of the patch and the eight around
    it); U-Net, whose tokens are learnt by strided convolutions.
    """

    def __init__(
        self, form: str, inputs: Inputs, tokens: int, log_frequency: np.ndarray, width: int, hidden: int
    ) -> None:
        """Make a network that says the frequencies.

        Args:
            form: decoder, linear or U-Net.
            inputs: Whose geometry it has.
            tokens: Features of a token; 0 for none.
            log_frequency: Of each class by row of cells, (class, row).
            width: Features of the U-Net's own tokens.
            hidden: Channels of the convolutions on cells.
        """
        super().__init__()
        self.form, self.inputs, self.read = form, inputs, bool(tokens)
        channels, classes = inputs.raw.shape[1], len(log_frequency)
        rows, columns = inputs.patch
        self.offset: Tensor
        self.register_buffer("offset", torch.from_numpy(log_frequency).float()[None, :, :, None])
        if form == LINEAR:
            outputs = classes * rows * columns
            self.line: nn.Module = (
                nn.Linear(tokens, outputs)
                if tokens
                else nn.Conv2d(channels, outputs, (3 * rows, 3 * columns), (rows, columns))
            )
            _zero(self.line)
            return
        if form == UNET:
            self.down = nn.Conv2d(channels, width, inputs.patch, inputs.patch)
            self.coarse = nn.ModuleList(nn.Conv2d(width, width, 3) for _ in range(2))
        tokens = width if form == UNET else tokens
        self.up = nn.Linear(tokens, SKIPPED * rows * columns) if tokens else None
        self.fine = nn.ModuleList(
            nn.Conv2d(have, hidden, 3) for have in (channels + (SKIPPED if tokens else 0), hidden)
        )
        self.out = nn.Conv2d(hidden, classes, 1)
        _zero(self.out)

    def forward(self, raw: Tensor, tokens: Tensor | None) -> Tensor:
        """Return the logits of raw fields (sample, channel, row, column) and tokens (sample, token, feature)."""
        if self.form == LINEAR:
            return self.offset + self._linear(raw, tokens)
        if self.form == UNET:
            x = nn.functional.gelu(self.down(self._whole(raw, 0, len(self.coarse) if self.inputs.grid.periodic else 0)))
            for layer in self.coarse:
                x = self._coarse(layer, x)
            lattice: Tensor | None = rearrange(x, "b f r c -> b r c f")
        else:
            lattice = None if tokens is None else self._lattice(tokens)
        x = raw if lattice is None or self.up is None else torch.cat([raw, self._cells(self.up(lattice))], 1)
        for layer in self.fine:
            x = nn.functional.gelu(layer(self._around(x, 1, 1)))
        return self.offset + self.out(x)

    def _linear(self, raw: Tensor, tokens: Tensor | None) -> Tensor:
        if tokens is not None:
            return self._cells(self.line(self._lattice(tokens)))
        found = self.line(self._whole(raw, 1, 1))
        return self._cells(rearrange(found, "b f r c -> b r c f"))

    def _lattice(self, tokens: Tensor) -> Tensor:
        """Return tokens in their places, 0 where there is none, (sample, row, column, feature)."""
        high, wide = self.inputs.tiled
        full = tokens.new_zeros(len(tokens), high * wide, tokens.shape[-1])
        full[:, torch.from_numpy(self.inputs.tiles)] = tokens
        return full.unflatten(1, (high, wide))

    def _cells(self, lattice: Tensor) -> Tensor:
        """Return what patches say of their cells as fields (sample, channel, row, column)."""
        (p, q), (high, wide) = self.inputs.patch, self.inputs.grid.shape
        return rearrange(lattice, "b r c (f p q) -> b f (r p) (c q)", p=p, q=q)[:, :, :high, :wide]

    def _coarse(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return tokens and what a convolution adds; round the globe each takes one column of them off either side."""
        if not self.inputs.grid.periodic:
            return x + nn.functional.gelu(layer(self._around(x, 1, 1)))
        return x[..., 1:-1] + nn.functional.gelu(layer(nn.functional.pad(x, (0, 0, 1, 1), mode="replicate")))

    def _whole(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return fields of whole patches and of so many patches more on each side.

        What a grid lacks of the last patch is what follows round the globe, else the outermost cells again: zeros would
        be a seam.
        """
        (high, wide), patch, tiled = self.inputs.grid.shape, self.inputs.patch, self.inputs.tiled
        down, across = (
            torch.arange(-more * size, (count + more) * size)
            for more, size, count in zip((rows, columns), patch, tiled, strict=True)
        )
        across = across % wide if self.inputs.grid.periodic else across.clamp(0, wide - 1)
        return x[:, :, down.clamp(0, high - 1)][..., across]

    def _around(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return fields with so many rows and columns more on each side: round the globe, else the outermost again."""
        round_ = "circular" if self.inputs.grid.periodic else "replicate"
        x = nn.functional.pad(x, (columns, columns, 0, 0), mode=round_)
        return nn.functional.pad(x, (0, 0, rows, rows), mode="replicate")


def _zero(layer: nn.Module) -> None:
    for values in layer.parameters():
        nn.init.zeros_(values)


def loss_of(name: str, logits: Tensor, truth: Tensor, area: Tensor, frequency: Tensor) -> Tensor:
    """Return a loss, averaged by area over the samples.

    Args:
        name: cross_entropy; weighted, the same with classes weighed by one over the root of their frequency; jaccard, 1
            less the mean over the classes beside the background of intersection over union, with chances for calls.
        logits: (sample, class, row, column).
        truth: (sample, row, column).
        area: Mean 1, (row, column).
        frequency: Of each class in training, (class,).
    """
    if name != "jaccard":
        weight = frequency.clamp(min=1e-6) ** -0.5 if name == "weighted" else torch.ones_like(frequency)
        each = nn.functional.cross_entropy(logits, truth, weight=weight, reduction="none")
        return (each * area).sum() / (weight[truth] * area).sum()
    chances, occurred = logits.softmax(1), nn.functional.one_hot(truth, logits.shape[1]).movedim(-1, 1)
    both = (chances * occurred * area).sum((0, 2, 3))
    either = ((chances + occurred) * area).sum((0, 2, 3)) - both
    return 1 - (both / either.clamp(min=1e-6))[1:].mean()


@dataclass(frozen=True, eq=False)
class Sampled:
    """Samples with labels.

    Attributes:
        steps: Last input step of each, (n,).
        masks: Class of each cell, int8 (n, row, column).
        train, val, test: Places of the samples of each block.
    """

    steps: np.ndarray
    masks: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Fitted:
    """A decoder that validation has stopped.

    Attributes:
        chances: Of the test samples, float32 (sample, class, row, column).
        factors: Chosen on validation, logarithms, (class,).
        steps: Of the training.
        iou: On validation.
    """

    chances: np.ndarray
    factors: np.ndarray
    steps: int
    iou: float


def fit(
    form: str, inputs: Inputs, tokens: np.ndarray | None, samples: Sampled, log_frequency: np.ndarray,
    loss: str, config: ScratchConfig, hidden: int, seed: int, width: int,
) -> Fitted:  # fmt: skip
    """Return a decoder trained on the training samples; steps and factors are those of the best IoU on validation.

    Args:
        form: decoder, linear or U-Net.
        inputs: Raw fields.
        tokens: Frozen, standardised, (step, token, feature); None for none.
        samples: Labels; `train` may be some of the training samples.
        log_frequency: Of each class by row of cells, (class, row).
        loss: See `loss_of`.
        config: How to train.
        hidden: Channels on cells.
        seed: Of the weights and of the order.
        width: Of the U-Net's tokens.
    """
    area = inputs.grid.area / inputs.grid.area.mean()
    weight = torch.from_numpy(area).float()
    masks = torch.from_numpy(samples.masks.astype(np.int64))
    share = np.bincount(samples.masks[samples.train].ravel(), minlength=len(log_frequency)) / max(1, masks[0].numel())
    frequency = torch.from_numpy(share / max(1, len(samples.train))).float()
    given = None if tokens is None else torch.from_numpy(tokens)
    best = (-1.0, np.zeros(len(log_frequency)))

    def make() -> Decoder:
        features = 0 if tokens is None else tokens.shape[-1]
        return Decoder(form, inputs, features, log_frequency, width, hidden)

    def logits(network: Decoder, chosen: np.ndarray) -> Tensor:
        at = inputs.at(samples.steps[chosen])
        return network(inputs.raw[at], None if given is None else given[at].float())

    def chances(network: Decoder, chosen: np.ndarray) -> np.ndarray:
        parts = np.array_split(chosen, max(1, len(chosen) // 64))
        with torch.no_grad():
            return np.concatenate([logits(network, part).softmax(1).numpy() for part in parts])

    def score(network: Decoder) -> float:
        nonlocal best
        factors, found = best_factors(chances(network, samples.val), samples.masks[samples.val], area)
        if found > best[0]:
            best = (found, factors)
        return 1 - found

    def cost(network: Decoder, chosen: np.ndarray) -> Tensor:
        return loss_of(loss, logits(network, chosen), masks[torch.from_numpy(chosen)], weight, frequency)

    learnt = learn(make, cost, score, samples.train, None, config, seed)
    return Fitted(chances(learnt.network, samples.test), best[1], learnt.steps, 1 - learnt.score)


def best_of(fits: Sequence[tuple[dict[str, str], Fitted]]) -> tuple[dict[str, str], Fitted]:
    """Return the settings and the fit of the largest IoU on validation; of equal ones the first."""
    return max(fits, key=lambda one: one[1].iou)
