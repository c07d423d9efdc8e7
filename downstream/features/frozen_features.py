"""Features of a frozen encoder for every month of a store: each layer and pooling from one pass, cached on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ...ssl.common.errors import EarthSSLError, check_known
from ...ssl.common.files import digest, disk_full_is_clear
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, token_places
from ...ssl.store.store import Store
from .eof import Eof
from .store_windows import StoreWindows, encoded

POOLINGS = ("mean", "last", "pacific", "pcs", "mean+pcs")
# Equatorial Pacific, where the equatorial waves of the recharge oscillator run; bins of longitude, degrees.
PACIFIC = (-12.5, 12.5, 120.0, 290.0)
PACIFIC_BIN = 20.0


@dataclass(frozen=True)
class RawFeatures:
    """Features of every window of a store, before anything is fitted.

    Attributes:
        rows: Index in the store of the last step of each window, (window,).
        mean: Over all tokens, (layer, window, feature).
        last: Over the tokens of the last step, (layer, window, feature).
        tokens: Of the last step, (layer, window, token, feature), float16.
        lat, lon: Of those tokens, degrees.
        area: Share of the sphere of each, valid or not.
    """

    rows: np.ndarray
    mean: Float[np.ndarray, "layer window feature"]
    last: Float[np.ndarray, "layer window feature"]
    tokens: Float[np.ndarray, "layer window token feature"]
    lat: np.ndarray
    lon: np.ndarray
    area: np.ndarray

    def of_layer(self, k: int) -> RawFeatures:
        """Return those of the k-th layer alone."""
        own = slice(k, k + 1)
        return replace(self, mean=self.mean[own], last=self.last[own], tokens=self.tokens[own])


def extract(encoder: Encoder, store: Store, layers: Sequence[int], label: str, batch_size: int = 128) -> RawFeatures:
    """Return the features of all windows of unbroken steps in a store, whatever block they lie in.

    Args:
        encoder: Frozen; put in evaluation mode here.
        store: Its variables and grid must be the encoder's.
        layers: Blocks whose outputs are wanted.
        label: For the progress bar.
        batch_size: Windows at once.
    """
    length = encoder.config.window
    windows = StoreWindows(store, length)
    rows = windows.ends()
    parts: dict[str, list[np.ndarray]] = {"mean": [], "last": [], "tokens": []}
    patches: Patches | None = None
    for patches, every in encoded(encoder, windows.patches(rows, encoder.config.patch, batch_size, label)):
        outputs = torch.stack([every[layer] for layer in layers])
        final = patches.step == patches.shape[0] - 1
        parts["mean"].append(outputs.mean(2).numpy())
        parts["last"].append(outputs[:, :, final].mean(2).numpy())
        parts["tokens"].append(outputs[:, :, final].numpy().astype(np.float16))
    if patches is None:
        raise EarthSSLError(f"expected at least {length} unbroken steps in {store.path} (the encoder's window)")
    joined = {name: np.concatenate(values, axis=1) for name, values in parts.items()}
    lat, lon = token_places(patches)
    chosen = (patches.step == patches.shape[0] - 1).numpy()
    return RawFeatures(rows=rows, lat=lat[chosen], lon=lon[chosen], area=patches.area.sum(1).numpy()[chosen], **joined)


def cached(file: Path, encoder: Encoder, store: Store, layers: Sequence[int], label: str) -> RawFeatures:
    """Return `extract`'s features from a cache file, made if missing; the name must say what made them."""
    if file.is_file():
        try:
            return RawFeatures(**load_file(file))
        except (SafetensorError, TypeError):
            file.unlink()  # cut short by a kill of another version; made again below
    features = extract(encoder, store, layers, label)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with disk_full_is_clear(file):
        save_file({name: np.ascontiguousarray(value) for name, value in vars(features).items()}, temporary)
        os.replace(temporary, file)
    return features


def cache_name(features_key: str, store: Store, layers: Sequence[int]) -> str:
    """Return a file name that changes with the weights, the data and the layers."""
    return digest([features_key, store.fingerprint, list(layers), 1])[:24] + ".safetensors"


def candidates(
    raw: RawFeatures,
    steps: int,
    train: np.ndarray,
    layers: Sequence[int],
    poolings: Sequence[str],
    components: Sequence[int],
) -> dict[str, dict[str, Float[np.ndarray, "time feature"]]]:
    """Return, for each pooling, named feature sets on all steps of a store, NaN where no window ends.

    Args:
        raw: From `extract`.
        steps: Number of steps of the store.
        train: Mask of the training steps, (time,): principal components are fitted there only.
        layers: Names of the layers in `raw`, in order.
        poolings: Out of `POOLINGS`; "pacific" is the mean of the last step's tokens in bins of longitude
            along the equator, "pcs" the principal components of all tokens of the last step.
        components: Numbers of components for the poolings that need one.

    Raises:
        EarthSSLError: If a pooling is unknown, or no token lies in the equatorial Pacific.
    """
    check_known("poolings", poolings, POOLINGS)
    out: dict[str, dict[str, np.ndarray]] = {pooling: {} for pooling in poolings}
    for one in pooled(raw, train, layers, poolings, components):
        out[one.pooling][one.name] = full = np.full((steps, one.values.shape[1]), np.nan)
        full[raw.rows] = one.values
    return out


@dataclass(frozen=True, eq=False)
class Pooled:
    """Features of the windows of a store.

    Attributes:
        pooling: Out of `POOLINGS`.
        name: With the layer and the number of components.
        layer: As it was given.
        values: Shape (window, feature).
        eof: Of the tokens of the last step, where components of theirs are among the features.
    """

    pooling: str
    name: str
    layer: int
    values: np.ndarray
    eof: Eof | None = None


def pooled(
    raw: RawFeatures, train: np.ndarray, layers: Sequence[int], poolings: Sequence[str], components: Sequence[int]
) -> Iterator[Pooled]:
    """Yield the features of every layer and pooling; see `candidates`."""
    fitted = train[raw.rows]
    for k, layer in enumerate(layers):
        where = f"layer {layer + 1}"
        if "mean" in poolings:
            yield Pooled("mean", f"{where}, mean", layer, raw.mean[k])
        if "last" in poolings:
            yield Pooled("last", f"{where}, last step's mean", layer, raw.last[k])
        if "pacific" in poolings:
            for pcs, _ in _components(_along_equator(raw, k), fitted, components):
                yield Pooled("pacific", f"{where}, equatorial Pacific ({pcs.shape[1]} PCs)", layer, pcs)
        if "pcs" in poolings or "mean+pcs" in poolings:
            weight = np.repeat(raw.area, raw.tokens.shape[-1])
            flat = raw.tokens[k].reshape(len(raw.rows), -1).astype(np.float32)
            for pcs, eof in _components(flat, fitted, components, weight):
                name = f"{pcs.shape[1]} PCs of last step's tokens"
                if "pcs" in poolings:
                    yield Pooled("pcs", f"{where}, {name}", layer, pcs, eof)
                if "mean+pcs" in poolings:
                    both = np.concatenate([raw.mean[k], pcs], 1)
                    yield Pooled("mean+pcs", f"{where}, mean + {name}", layer, both, eof)


def _along_equator(raw: RawFeatures, layer: int) -> np.ndarray:
    south, north, west, east = PACIFIC
    inside = (raw.lat >= south) & (raw.lat <= north) & (raw.lon >= west) & (raw.lon <= east)
    if not inside.any():
        raise EarthSSLError("pooling pacific: no token lies in 12.5S–12.5N, 120–290E; leave it out of `poolings`")
    bins = ((raw.lon - west) // PACIFIC_BIN).astype(int)
    groups = [inside & (bins == b) for b in np.unique(bins[inside])]
    return np.concatenate([raw.tokens[layer][:, g].astype(np.float32).mean(1) for g in groups], 1)


def _components(
    values: np.ndarray, fitted: np.ndarray, counts: Sequence[int], weight: np.ndarray | None = None
) -> list[tuple[np.ndarray, Eof]]:
    """Return principal components fitted on some rows, for each number asked, and what they are of."""
    most = min(max(counts), int(fitted.sum()) - 1, values.shape[1])
    eof = Eof.fit(values[fitted], np.ones(values.shape[1]) if weight is None else weight, most)
    projected = eof.project(values)
    return [(projected[:, :count], eof) for count in counts if count <= most]
