"""Features of every patch of the globe at every time: of a frozen encoder, or of the raw input by PCA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import eigh

from ...ssl.common.errors import EarthSSLError, check_known
from ...ssl.fields.batch import from_fields
from ...ssl.fields.splits import unbroken_starts
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, patchify, unpatchify
from ...ssl.store.store import Store
from .raw_window import block_means
from .store_windows import StoreWindows, encoded

POOLINGS = ("last", "mean+last")
MOST_VALUES = 600  # raw ones of a patch and those around it; cells are averaged beyond, or heads would take hours
SAMPLED = 400  # windows that the PCA of patches is fitted on, evenly spread over training


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Features of the patches of the last step of every window of unbroken steps.

    Attributes:
        rows: Index in the store of each window's last step, ascending, (window,).
        values: Shape (window, place, feature), float16 or float32.
    """

    rows: np.ndarray
    values: np.ndarray

    def at(self, steps: np.ndarray) -> np.ndarray:
        """Return the features of the windows that end at given steps, float32, (step, place, feature)."""
        found = np.searchsorted(self.rows, steps)
        if len(steps) and not (found.max() < len(self.rows) and np.array_equal(self.rows[found], steps)):
            raise EarthSSLError("expected steps where a whole window ends, got others; shorten the window")
        return np.asarray(self.values[found], np.float32)

    def at_all(self, steps: int) -> np.ndarray:
        """Return the features of all steps of a store, (step, place, feature), NaN where no window ends."""
        full = np.full((steps, *self.values.shape[1:]), np.nan, self.values.dtype)
        full[self.rows] = self.values
        return full

    def joined(self, other: PatchFeatures) -> PatchFeatures:
        """Return both side by side, at the windows that both have."""
        rows = np.intersect1d(self.rows, other.rows)
        return PatchFeatures(rows, np.concatenate([self.at(rows), other.at(rows)], -1))


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """One step of a store cut into patches, as the encoder cuts it, and put together again.

    Attributes:
        store: Says where cells lie and which are known.
        patch: Rows and columns of a patch.
    """

    store: Store
    patch: tuple[int, int]

    def cut(self, fields: np.ndarray) -> np.ndarray:
        """Return the patches of fields (n, variable, row, column): (n, place, variable × cell), NaN = missing."""
        patches = self._patches(fields)
        values = patches.values.masked_fill(~patches.valid, float("nan"))
        return np.asarray(values.flatten(2).numpy())

    def coarse(self, fields: np.ndarray, factor: int) -> np.ndarray:
        """Return the means over square blocks of each patch's cells, (n, place, variable × block), NaN = none known."""
        cells = self.cut(fields)
        if factor == 1:
            return cells
        means = block_means(cells.reshape(*cells.shape[:2], -1, *self.patch), factor)
        return means.reshape(*cells.shape[:2], -1)

    def around(self, fields: np.ndarray, factor: int) -> np.ndarray:
        """Return `coarse` of the eight patches round each place, (n, place, 8 × variable × block), NaN = none there."""
        height, width = self.patch
        moves = [(i * height, j * width) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        return np.concatenate([self.coarse(self._moved(fields, *move), factor) for move in moves], axis=-1)

    def factors(self, within: int, around: int) -> tuple[int, int]:
        """Return by which factors cells are averaged in a patch and around it, for at most `MOST_VALUES` values.

        Args:
            within: Fields read in each patch.
            around: Fields read in each of the eight around it.
        """
        whole = max(self.patch)
        choices = [(1, 1), *[(inner, whole) for inner in range(1, whole)]]
        counts = [within * self.blocks(inner) + 8 * around * self.blocks(outer) for inner, outer in choices]
        return next((one for one, count in zip(choices, counts, strict=True) if count <= MOST_VALUES), (whole, whole))

    def blocks(self, factor: int) -> int:
        """Return into how many square blocks of so many cells a side a patch falls."""
        return math.prod(-(-size // factor) for size in self.patch)

    def _moved(self, fields: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Return the fields with each cell's value replaced by that so many rows and columns further on."""
        high, wide = self.store.grid.shape
        y, x = np.arange(high) + rows, np.arange(wide) + columns
        here = (y >= 0) & (y < high)
        there = np.ones(wide, bool) if self.store.grid.periodic else (x >= 0) & (x < wide)
        found = fields[..., np.clip(y, 0, high - 1)[:, None], x % wide]
        return np.where(here[:, None] & there, found, np.float32(np.nan))

    def join(self, values: np.ndarray, variables: int) -> np.ndarray:
        """Return the fields (n, variable, row, column) of patches (n, place, variable × cell), NaN where none is."""
        like = self._patches(np.zeros((1, variables, *self.store.grid.shape), np.float32))
        cells = torch.from_numpy(np.ascontiguousarray(values, np.float32)).unflatten(2, (variables, -1))
        return np.asarray(unpatchify(cells, like, (1, *self.patch))[:, 0].numpy())

    def weight(self, positions: Sequence[int]) -> np.ndarray:
        """Return the area of each place where a cell of a variable is known, else 0, (place, variable × cell)."""
        known = np.nan_to_num(self.cut(self.store.statistics.known[list(positions)][None].astype(np.float32)))[0]
        return self.area[:, None] * (known > 0)

    @property
    def area(self) -> np.ndarray:
        """Share of the sphere of each place, (place,)."""
        return np.asarray(np.nan_to_num(self.cut(self.store.grid.area[None, None]))[0].sum(axis=1), np.float64)

    @cached_property
    def tiles(self) -> np.ndarray:
        """Number of each place, row × columns + column of the padded grid, in the order of an encoder's tokens."""
        return np.asarray(self._patches(np.zeros((1, 1, *self.store.grid.shape))).cell)

    def _patches(self, fields: np.ndarray) -> Patches:
        n, count = fields.shape[:2]
        zeros = torch.zeros(n, dtype=torch.int64)
        # Which patches there are depends on all of the store's variables, whichever are at hand.
        known = torch.from_numpy(self.store.statistics.known).any(0).expand(count, -1, -1)
        values = torch.from_numpy(np.asarray(fields, np.float32))[:, None]
        batch = from_fields(values, zeros[:, None], zeros, known, self.store.variables[:count], self.store.grid)
        return patchify(batch, (1, *self.patch))


def encoder_features(
    encoder: Encoder, store: Store, fields: np.ndarray, rows: np.ndarray, layers: Sequence[int],
    poolings: Sequence[str], label: str, batch_size: int = 64,
) -> dict[tuple[int, str], PatchFeatures]:  # fmt: skip
    """Return the features of windows by layer and pooling, from one pass.

    Args:
        encoder: Frozen; put in evaluation mode here.
        store: Its variables and grid must be the encoder's.
        fields: Of the store, (time, variable, row, column).
        rows: Last steps of the windows, ascending.
        layers: Blocks whose outputs are wanted, counted from 0.
        poolings: "last" (the token of the last step), "mean+last" (and the mean over the window's steps).
        label: For the progress bar.
        batch_size: Windows at once.

    Raises:
        EarthSSLError: If a pooling or a layer is unknown, or a window does not fit into unbroken steps.
    """
    check_known("poolings", poolings, POOLINGS)
    bad = [layer for layer in layers if not 0 <= layer < encoder.depth]
    if bad:
        raise EarthSSLError(f"layers: expected 0 to {encoder.depth - 1}, got {bad[0]}")
    length, last = encoder.config.window, np.asarray(rows)
    windows = StoreWindows(store, length, fields)
    if not len(last) or not np.isin(last, windows.ends()).all():
        raise EarthSSLError(f"expected windows of {length} unbroken steps (the encoder's) in {store.path}, got others")
    parts: dict[tuple[int, str], list[np.ndarray]] = {(layer, pooling): [] for layer in layers for pooling in poolings}
    for patches, every in encoded(encoder, windows.patches(last, encoder.config.patch, batch_size, label)):
        for layer, pooling in parts:
            # Every step holds the same places, in the same order.
            tokens = every[layer].unflatten(1, (patches.shape[0], -1))
            newest = tokens[:, -1]
            out = newest if pooling == "last" else torch.cat([tokens.mean(1), newest], -1)
            parts[layer, pooling].append(out.numpy().astype(np.float16))
    return {name: PatchFeatures(last, np.concatenate(values)) for name, values in parts.items()}


def raw_cells(
    fields: np.ndarray, grid: PatchGrid, steps: np.ndarray, window: int, most: int | None = None
) -> np.ndarray:
    """Return what an encoder sees of each patch over the window that ends at each step, (n, place, value); 0 = missing.

    Args:
        fields: Of the store, normalised, (time, variable, row, column).
        grid: How the globe is cut.
        steps: Last steps, (n,).
        window: Steps; the newest comes last.
        most: Values at most; of more, cells are averaged over square blocks within the patch.
    """
    factor = 1
    while most is not None and window * fields.shape[1] * grid.blocks(factor) > most and factor < max(grid.patch):
        factor += 1
    parts = [np.nan_to_num(grid.coarse(fields[steps - back], factor)) for back in range(window)[::-1]]
    return np.concatenate(parts, axis=-1)


def raw_features(fields: np.ndarray, grid: PatchGrid, window: int, times: np.ndarray) -> PatchFeatures:
    """Return `raw_cells` of all windows of unbroken steps."""
    last = unbroken_starts(times.astype("datetime64[ns]"), window) + window - 1
    return PatchFeatures(last, raw_cells(fields, grid, last, window))


def raw_patches(fields: np.ndarray, grid: PatchGrid, window: int, times: np.ndarray) -> PatchFeatures:
    """Return what a linear head may see of a window: its patch over all steps, and the eight around it at the last.

    Every variable, newest last; 0 where missing. Cells are averaged where they are too many, see `PatchGrid.factors`.
    """
    last = unbroken_starts(times.astype("datetime64[ns]"), window) + window - 1
    inner, outer = grid.factors(window * fields.shape[1], fields.shape[1])
    within, around = np.nan_to_num(grid.coarse(fields, inner)), np.nan_to_num(grid.around(fields, outer))
    return PatchFeatures(last, np.concatenate([*(within[last - k] for k in range(window)[::-1]), around[last]], -1))


def with_neighbours(values: np.ndarray, tiles: np.ndarray, columns: int, periodic: bool) -> np.ndarray:
    """Return each place's features beside those of its eight neighbours, 0 where there is none, (n, place, 9 feature).

    Args:
        values: Shape (n, place, feature).
        tiles: Number of each place's patch, row × columns + column.
        columns: Patches in a row.
        periodic: Whether the last column borders on the first.
    """
    row, column = np.divmod(tiles, columns)
    place = {int(tile): k for k, tile in enumerate(tiles)}
    padded = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)  # the last one: nobody
    parts = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            r, c = row + down, column + across
            c = c % columns if periodic else c
            inside = (r >= 0) & (c >= 0) & (c < columns)
            wanted = np.where(inside, r * columns + c, -1)
            parts.append(padded[:, [place.get(int(tile), len(tiles)) for tile in wanted]])
    return np.concatenate(parts, axis=-1)


def pca_features(raw: PatchFeatures, train: np.ndarray, weight: np.ndarray, count: int) -> PatchFeatures:
    """Return principal components of patches, the same ones for all places: a linear encoder of the same width.

    Args:
        raw: Values of each patch.
        train: Last steps of the training windows.
        weight: Of each place (its area), (place,).
        count: Components at most; as many as the data carry.
    """
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), SAMPLED)).astype(int))]
    x = raw.at(chosen).astype(np.float64)
    share = weight / weight.sum() / len(x)
    mean = np.einsum("npf,p->f", x, share)
    x -= mean
    covariance = np.einsum("npf,p,npg->fg", x, share, x, optimize=True)
    power, vectors = eigh(covariance)
    kept = np.arange(len(power))[::-1][:count]
    kept = kept[power[kept] > 1e-10 * max(power[-1], np.finfo(float).tiny)]
    projection = vectors[:, kept].astype(np.float32)
    return PatchFeatures(raw.rows, (raw.values - mean.astype(np.float32)) @ projection)
