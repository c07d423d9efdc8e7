"""Crops of any store around storms, and their features through a frozen encoder.

A crop is a box of whole cells of the grid, as many degrees from south to north as from west to east, the storm in
the cell at its middle (half a cell off at most); near the edge of the grid the box is moved inside. It may cross
0° E. Its patches keep their true latitudes and longitudes. Storms of the south are mirrored, so that all cyclones
turn the same way: latitude and northward wind change their sign, and the time of year moves by half a year.

With `rotated`, the fields are interpolated to a square in degrees of arc around the storm whose upper edge lies
ahead of its motion, winds turned along; no patch has a true place then, and the encoder is given the position
within the square instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from ...ssl.common.errors import EarthSSLError, check_known, check_settings
from ...ssl.fields.batch import Batch, from_fields
from ...ssl.fields.grid import LatLonGrid
from ...ssl.fields.reflections import turn, turn_cells
from ...ssl.fields.splits import unbroken_starts
from ...ssl.fields.variables import vector_partner
from ...ssl.inference.frozen_encoder import pool
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import PLACE, Patches, patchify, place_features, token_places
from ...ssl.store.store import Store
from ..features.eof import Eof
from .crop_geometry import around, interpolate, turn_wind

POOLINGS = ("mean", "last", "nearby")
HALF_YEAR = 183 * 86400  # seconds, whole days: the hour of the day stays


@dataclass(frozen=True)
class CropConfig:
    """What a crop shows.

    Attributes:
        radius_deg: Half the side, degrees; the side is rounded up to whole patches.
        mirrored: Whether storms of the south are mirrored.
        rotated: Whether the motion of the storm points up; needs a column `heading` (see crop_geometry.headings).
    """

    radius_deg: float = 15.0
    mirrored: bool = True
    rotated: bool = False

    def __post_init__(self) -> None:
        check_settings("crops", self, {"radius_deg": "(0, 60]"})


@dataclass(frozen=True, eq=False)
class Crop:
    """Crops of one box, or of one shape if rotated.

    Attributes:
        batch: The crops; the longitudes of its grid count from the box's western edge on. Rotated ones have
            degrees of arc from the storm as latitudes.
        samples: Their rows in the table of the samples.
        west: What to add to the longitudes for the true ones, degrees; None where the crops are rotated.
    """

    batch: Batch
    samples: np.ndarray
    west: float | None


class StormCrops:
    """Crops around samples, made when they are asked for.

    Attributes:
        kept: Rows of the table that have a crop, in its order.
        dropped: How many have none, by reason.
        moved: How many of the kept boxes had to be moved inside the grid.
        shape: Rows and columns of a crop.
    """

    def __init__(
        self,
        store: Store,
        samples: pd.DataFrame,
        window: int,
        config: CropConfig | None = None,
        multiple: tuple[int, int] = (1, 1),
        batch_size: int = 128,
    ) -> None:
        """Choose the samples that can be shown.

        Args:
            store: The fields.
            samples: Columns `storm`, `time`, `lat`, `lon` (degrees), and `heading` (degrees clockwise from
                north) for rotated crops.
            window: Steps of a crop; the last is at the sample's time, exactly.
            config: Size and orientation.
            multiple: Rows and columns of a patch: the crop holds whole ones.
            batch_size: Crops at once.

        Raises:
            EarthSSLError: If a column is missing, the crop is larger than the grid, a wind to be turned lacks
                its other component, or no sample can be shown.
        """
        self.store, self.config, self.window, self.batch_size = store, config or CropConfig(), window, batch_size
        needed = ["storm", "time", "lat", "lon", *(["heading"] if self.config.rotated else [])]
        absent = [name for name in needed if name not in samples]
        if absent:
            raise EarthSSLError(
                f"crops: expected samples with the columns {', '.join(needed)}, got {', '.join(map(str, samples))}; "
                f"add {', '.join(absent)}"
            )
        if self.config.rotated:
            self._pairs = _pairs(store.variables)
        self._lat, self._lon = (samples[name].to_numpy(np.float64) for name in ("lat", "lon"))
        self._heading = samples["heading"].to_numpy(np.float64) if self.config.rotated else None
        grid = store.grid
        self._spacing = abs(grid.lat[-1] - grid.lat[0]) / (len(grid.lat) - 1)
        across = self._spacing if self.config.rotated else (grid.lon[-1] - grid.lon[0]) / (len(grid.lon) - 1)
        # 1e-9: a side that is a whole number of patches to rounding is that number
        self.shape = tuple(
            int(np.ceil(2 * self.config.radius_deg / (degrees * cells) - 1e-9)) * cells
            for degrees, cells in zip((self._spacing, across), multiple, strict=True)
        )
        if not self.config.rotated and (self.shape[0] > grid.shape[0] or self.shape[1] > grid.shape[1]):
            raise EarthSSLError(
                f"crops.radius_deg: expected crops within the grid ({grid}), got {self.config.radius_deg}° in "
                f"patches of {multiple[0]}×{multiple[1]} cells: {self.shape[0]}×{self.shape[1]}; take a smaller radius"
            )
        self._choose(samples["time"].to_numpy("datetime64[s]"))

    def _choose(self, times: np.ndarray) -> None:
        """Find out which samples have a whole window and lie on the grid, and why the others do not."""
        store, grid = self.store, self.store.grid
        last = np.minimum(np.searchsorted(store.times, times), len(store.times) - 1)
        whole = np.zeros(len(store.times), bool)
        whole[unbroken_starts(store.times.astype("datetime64[ns]"), self.window) + self.window - 1] = True
        inside = (self._lat <= grid.lat_bounds[0]) & (self._lat >= grid.lat_bounds[-1])
        if not grid.periodic:
            inside &= (self._lon - grid.lon_bounds[0]) % 360 <= grid.lon_bounds[-1] - grid.lon_bounds[0]
        reasons = {
            "time not in the store": store.times[last] != times,
            "window with a gap or before the store's first step": ~whole[last],
            "outside the grid": ~inside,
        }
        if self._heading is not None:
            reasons["no motion known"] = ~np.isfinite(self._heading)
        kept = np.ones(len(times), bool)
        self.dropped: dict[str, int] = {}
        for reason, bad in reasons.items():
            self.dropped[reason] = int((kept & bad).sum())
            kept &= ~bad
        if not kept.any():
            said = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise EarthSSLError(
                f"crops: expected samples within {store.path} ({store.times[0]} to {store.times[-1]}, {grid}), got "
                f"none of {len(times)}: {said}; choose the storms of its times and region"
            )
        self.kept = np.flatnonzero(kept)
        self._last = last
        self._mirror = (self._lat < 0) & self.config.mirrored
        self.moved = 0
        if not self.config.rotated:
            self._place_boxes()

    def _place_boxes(self) -> None:
        """Set the first row and column of every box."""
        grid, (rows, columns) = self.store.grid, self.shape
        row = np.interp(-self._lat, -grid.lat, np.arange(len(grid.lat)))
        middle = row - (rows - 1) / 2
        # a storm right between two cells: the mirror of a southern box is the northern one
        top = np.where(self._lat < 0, np.ceil(middle - 0.5), np.floor(middle + 0.5)).astype(int)
        self._top = np.clip(top, 0, grid.shape[0] - rows)
        step = (grid.lon[-1] - grid.lon[0]) / (len(grid.lon) - 1)
        column = ((self._lon - grid.lon_bounds[0]) % 360) / step - 0.5
        left = np.floor(column - (columns - 1) / 2 + 0.5).astype(int)
        self._left = left % grid.shape[1] if grid.periodic else np.clip(left, 0, grid.shape[1] - columns)
        moved = (self._top != top) | (self._left % grid.shape[1] != left % grid.shape[1])
        self.moved = int(moved[self.kept].sum())

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Crop]:
        """Yield the crops, those of one box together; `Crop.samples` tells which they are."""
        if self.config.rotated:
            for begin in range(0, len(self.kept), self.batch_size):
                yield self._rotated(self.kept[begin : begin + self.batch_size])
            return
        box = np.stack([self._mirror, self._top, self._left], axis=1)[self.kept]
        _, group = np.unique(box, axis=0, return_inverse=True)
        order = np.argsort(group.ravel(), kind="stable")
        grids: dict[tuple[int, bool], LatLonGrid] = {}
        for same in np.split(self.kept[order], np.flatnonzero(np.diff(group.ravel()[order])) + 1):
            for begin in range(0, len(same), self.batch_size):
                yield self._aligned(same[begin : begin + self.batch_size], grids)

    def fields(self) -> np.ndarray:
        """Return all crops in the order of `kept`, float32 (kept, time, variable, row, column), NaN = missing."""
        out = np.empty((len(self.kept), self.window, len(self.store.variables), *self.shape), np.float32)
        for crop in self:
            values, valid = crop.batch.values.numpy(), crop.batch.valid.numpy()
            out[np.searchsorted(self.kept, crop.samples)] = np.where(valid, values, np.nan)
        return out

    def read(self, last: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """Return windows of whole maps by their last steps, (window, time, …), and their times in seconds."""
        steps = last[:, None] + np.arange(1 - self.window, 1)
        found, at = np.unique(steps, return_inverse=True)
        times = torch.from_numpy(self.store.times[steps].astype(np.int64))
        return self.store.read(found)[at.reshape(steps.shape)], times

    def _aligned(self, samples: np.ndarray, grids: dict[tuple[int, bool], LatLonGrid]) -> Crop:
        """Return the crops of samples that share a box."""
        grid, variables, (rows, columns) = self.store.grid, self.store.variables, self.shape
        top, left, mirror = int(self._top[samples[0]]), int(self._left[samples[0]]), bool(self._mirror[samples[0]])
        across = (left + np.arange(columns)) % grid.shape[1]
        maps, times = self.read(self._last[samples])
        values = torch.from_numpy(maps[..., top : top + rows, :][..., across])
        known = torch.from_numpy(self.store.statistics.known[:, top : top + rows][..., across])
        if (top, mirror) not in grids:  # one object, so that the geometry of its patches is computed once
            lat = grid.lat[top : top + rows]
            width = np.diff(grid.lon_bounds)[across]
            lon = np.cumsum(width) - width / 2
            grids[top, mirror] = LatLonGrid(-lat[::-1] if mirror else lat, lon)
        if mirror:
            values, known = turn(values, variables, "north-south"), turn_cells(known, "north-south")
        west = float(grid.lon_bounds[left])
        return Crop(self.batch(values, times + HALF_YEAR * mirror, known, grids[top, mirror]), samples, west)

    def _rotated(self, samples: np.ndarray) -> Crop:
        """Return the crops of samples on squares turned into their motion."""
        grid, (rows, columns) = self.store.grid, self.shape
        x = (np.arange(columns) - (columns - 1) / 2) * self._spacing
        y = ((rows - 1) / 2 - np.arange(rows)) * self._spacing
        assert self._heading is not None
        lat, lon, angle = around(self._lat[samples], self._lon[samples], self._heading[samples], x, y)
        maps, times = self.read(self._last[samples])
        scale = np.broadcast_to(self.store.statistics.scale, (len(samples), 1, *maps.shape[2:]))
        out = interpolate(maps, grid, lat, lon)
        for u, v in self._pairs:
            # components have scales of their own: they are turned in m/s, and share one scale afterwards
            pair = interpolate(maps[:, :, [u, v]] * scale[:, :, [u, v]], grid, lat, lon)
            common = np.sqrt((interpolate(scale[:, :, [u, v]], grid, lat, lon) ** 2).mean(2))
            east, north = turn_wind(pair[:, :, 0], pair[:, :, 1], angle[:, None])
            out[:, :, u], out[:, :, v] = east / common, north / common
        values = torch.from_numpy(out.astype(np.float32))
        mirror = torch.from_numpy(self._mirror[samples])
        values = torch.where(mirror[:, None, None, None, None], turn(values, self.store.variables, "east-west"), values)
        ever = torch.from_numpy(self.store.statistics.known.any((1, 2)))
        known = ever[:, None, None].expand(-1, rows, columns)
        return Crop(
            self.batch(values, times + HALF_YEAR * mirror[:, None], known, LatLonGrid(y, x - x[0])), samples, None
        )

    def batch(self, values: torch.Tensor, times: torch.Tensor, known: torch.Tensor, grid: LatLonGrid) -> Batch:
        """Return fields of the store's variables, NaN = missing, as a batch."""
        keys = torch.zeros(len(values), dtype=torch.int64)
        return from_fields(values, times, keys, known, self.store.variables, grid)


@dataclass(frozen=True, eq=False)
class CropFeatures:
    """Features of samples.

    Attributes:
        kept: Rows of the table that have features.
        dropped: How many have none, by reason.
        values: For each layer, float32 (kept, feature).
    """

    kept: np.ndarray
    dropped: dict[str, int]
    values: dict[int, np.ndarray]


def crop_features(
    encoder: Encoder,
    store: Store,
    samples: pd.DataFrame,
    layers: Sequence[int],
    config: CropConfig | None = None,
    pooling: str = "mean",
    batch_size: int = 128,
) -> CropFeatures:
    """Return features of samples through a frozen encoder, which is put in evaluation mode here.

    Args:
        encoder: Its window and patch decide those of the crops.
        store: Of variables the encoder knows.
        samples: As for `StormCrops`.
        layers: Blocks whose outputs are wanted, counted from 0.
        config: Of the crops.
        pooling: "mean" (over all tokens of the crop), "last" (over those of its last step) or "nearby": the
            encoder sees whole maps as in pretraining, nothing is mirrored, and the tokens of the last step
            whose centres lie within the radius (great circle; at least the nearest) are averaged.
        batch_size: Windows at once.

    Raises:
        EarthSSLError: If a layer or pooling does not exist, or as for `StormCrops`.
    """
    check_known("crops.pooling", [pooling], POOLINGS)
    wrong = [layer for layer in layers if not 0 <= layer < encoder.depth]
    if wrong or not layers:
        raise EarthSSLError(f"crops.layers: expected some of 0 to {encoder.depth - 1}, got {list(layers)}")
    config = config or CropConfig()
    if pooling == "nearby" and config.rotated:
        raise EarthSSLError(
            "crops.pooling: expected mean or last with rotated crops, got 'nearby'; set rotated to false"
        )
    encoder.eval()
    _, rows, columns = encoder.config.patch
    multiple = (1, 1) if pooling == "nearby" else (rows, columns)
    crops = StormCrops(store, samples, encoder.config.window, config, multiple, batch_size)
    values = {layer: np.empty((len(crops), encoder.width), np.float32) for layer in layers}
    parts = _nearby(encoder, crops, layers) if pooling == "nearby" else _cropped(encoder, crops, layers, pooling)
    for chosen, outputs in parts:
        for layer, output in zip(layers, outputs, strict=True):
            values[layer][np.searchsorted(crops.kept, chosen)] = output.numpy()
    return CropFeatures(crops.kept, crops.dropped, values)


Pooled = Iterator[tuple[np.ndarray, list[torch.Tensor]]]


def _cropped(encoder: Encoder, crops: StormCrops, layers: Sequence[int], pooling: str) -> Pooled:
    """Yield samples and their pooled features, layer by layer, from crops."""
    for crop in crops:
        patches = patchify(crop.batch, encoder.config.patch)
        if crop.west is not None:
            patches = at_true_places(patches, crop.west)
        hide = frozenset({PLACE}) if crop.west is None else frozenset()
        with torch.no_grad():
            every = encoder.layers(patches, hide=hide)
        yield crop.samples, [pool(every[layer], patches, pooling) for layer in layers]


def _nearby(encoder: Encoder, crops: StormCrops, layers: Sequence[int]) -> Pooled:
    """Yield samples and their pooled features, layer by layer, from whole maps: each map is encoded once."""
    store, kept = crops.store, crops.kept
    known = torch.from_numpy(store.statistics.known)
    ends, which = np.unique(crops._last[kept], return_inverse=True)
    near = np.cos(np.deg2rad(crops.config.radius_deg))
    for begin in range(0, len(ends), crops.batch_size):
        chosen = ends[begin : begin + crops.batch_size]
        maps, times = crops.read(chosen)
        patches = patchify(crops.batch(torch.from_numpy(maps), times, known, store.grid), encoder.config.patch)
        with torch.no_grad():
            every = encoder.layers(patches)
        final = patches.step == patches.shape[0] - 1
        tokens = patches.place[final, :3].numpy()
        mine = np.flatnonzero((which >= begin) & (which < begin + len(chosen)))
        cosine = _unit(crops._lat[kept[mine]], crops._lon[kept[mine]]) @ tokens.T
        weight = (cosine >= np.minimum(near, cosine.max(1, keepdims=True))).astype(np.float32)
        weights = torch.from_numpy(weight / weight.sum(1, keepdims=True))
        at = torch.from_numpy(which[mine] - begin)
        yield kept[mine], [torch.einsum("sn,snd->sd", weights, every[layer][:, final][at]) for layer in layers]


def at_true_places(patches: Patches, west: float) -> Patches:
    """Return the patches of a crop with the positions they have on the globe."""
    lat, lon = token_places(patches)
    true = torch.from_numpy(place_features(lat, lon + west)).float()
    return replace(patches, place=torch.cat([true.to(patches.place.device), patches.place[:, -1:]], 1))


def crop_pca(crops: StormCrops, train: np.ndarray, components: int) -> np.ndarray:
    """Return the leading principal components of the crops, (kept, components); every cell weighs the same.

    Args:
        crops: Around all samples.
        train: Mask of the samples (of the whole table) that the components are fitted on.
        components: Their number.

    Raises:
        EarthSSLError: If the training crops do not carry so many.
    """
    # a missing cell counts as no departure from the climatology: land lies elsewhere in every crop
    fields = np.nan_to_num(crops.fields().reshape(len(crops), -1))
    eof = Eof.fit(fields[train[crops.kept]], np.ones(fields.shape[1]), components)
    return eof.project(fields)


def _pairs(variables: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return the positions of the u and v of every wind.

    Raises:
        EarthSSLError: If one component is there without the other.
    """
    partners = {name: vector_partner(name) for name in variables}
    winds = {name: partner for name, partner in partners.items() if partner is not None}
    for name, (other, _) in winds.items():
        if other not in variables:
            raise EarthSSLError(
                f"crops: expected both components of a wind to be rotated, got {name} without {other}; prepare a "
                "store with both, or set rotated to false"
            )
    return [(variables.index(name), variables.index(other)) for name, (other, kind) in winds.items() if kind == "u"]


def _unit(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    y, x = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], axis=1)
