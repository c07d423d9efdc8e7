"""FrozenEncoder: a checkpoint in use, xarray in and xarray out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .batch import Batch, from_fields
from .checkpoint import Record, differences
from .encoder import Encoder
from .errors import EarthSSLError
from .grid import LatLonGrid
from .progress import track
from .sources.canonical import canonicalise
from .splits import unbroken_starts
from .tokens import Patches, patchify

POOLINGS = ("mean", "last", "tokens")


class FrozenEncoder:
    """An encoder in evaluation mode without gradients, and the record it was saved with.

    Attributes:
        encoder: The network.
        record: Variables, units, grid, statistics, splits, …
    """

    def __init__(self, encoder: Encoder, record: Record) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.record = record

    def embed(self, data: xr.Dataset, pooling: str = "mean", layer: int = -1, batch_size: int = 64) -> xr.DataArray:
        """Return features of every window of unbroken steps in the data.

        Args:
            data: Fields in any spelling that `open_source` understands (names, units, orientation), on the
                grid of the checkpoint. Variables may be missing: the encoder takes any subset, and warns.
            pooling: "mean" (over all tokens), "last" (over the tokens of the last step) or "tokens" (none).
            layer: Block whose output is taken, counted from 0, or from the end if negative.
            batch_size: Windows at once.

        Returns:
            (time, feature), or (time, token, feature) with the latitude and longitude of each token and its
            step; `time` is the last step of each window.

        Raises:
            EarthSSLError: If the data do not fit the record; every difference is listed.
        """
        if pooling not in POOLINGS:
            raise EarthSSLError(f"pooling: expected {', '.join(POOLINGS)}, got '{pooling}'")
        depth = self.encoder.depth
        if not -depth <= layer < depth:
            raise EarthSSLError(f"layer: expected {-depth} to {depth - 1}, got {layer}")
        windows = self._windows(canonicalise(data, where="the dataset to embed"))
        outputs, patches = [], None
        for batch in track(list(windows.batches(batch_size)), "embed"):
            patches = patchify(batch, self.encoder.config.patch)
            with torch.no_grad():
                features = self.encoder.layers(patches)[layer]
            outputs.append(pool(features, patches, pooling).numpy())
        assert patches is not None
        return self._label(np.concatenate(outputs), windows.times, patches, pooling)

    def _windows(self, data: xr.Dataset) -> _Windows:
        record = self.record
        grid = LatLonGrid(data["lat"].values, data["lon"].values)
        times = data["time"].values
        step_days = float(np.median(np.diff(times)) / np.timedelta64(1, "D")) if len(times) > 1 else record.step_days
        names = [str(name) for name in data.data_vars]
        said = differences(record, names, grid, step_days)
        if said:
            raise EarthSSLError(f"the data do not fit the checkpoint: {'; '.join(said)}; regrid or choose other data")
        present = [name for name in record.variables if name in names]
        missing = [name for name in record.variables if name not in names]
        if missing:
            warnings.warn(
                f"embedding without {', '.join(missing)}: the encoder was trained on {', '.join(record.variables)}",
                stacklevel=3,
            )
        positions = [record.variables.index(name) for name in present]
        statistics = record.statistics.select(positions)
        raw = np.stack([data[name].values for name in present], 1)
        fields = torch.from_numpy(statistics.normalise(raw, times))
        known = torch.from_numpy(statistics.known)
        return _Windows(fields, times, known, tuple(present), grid, record.encoder.window)

    def _label(self, values: np.ndarray, times: np.ndarray, patches: Patches, pooling: str) -> xr.DataArray:
        attrs = {"fingerprint": self.record.fingerprint, "pooling": pooling, "long_name": "frozen encoder features"}
        if pooling != "tokens":
            return xr.DataArray(values, {"time": times}, ("time", "feature"), "features", attrs)
        lat, lon = token_places(patches)
        coords = {
            "time": times,
            "lat": ("token", lat, {"units": "degrees_north"}),
            "lon": ("token", lon, {"units": "degrees_east"}),
            "step": ("token", patches.step.numpy()),
        }
        return xr.DataArray(values, coords, ("time", "token", "feature"), "features", attrs)


class _Windows:
    """Every window of unbroken steps of a canonical dataset, normalised."""

    def __init__(
        self,
        fields: Tensor,
        times: np.ndarray,
        known: Tensor,
        variables: tuple[str, ...],
        grid: LatLonGrid,
        length: int,
    ) -> None:
        self.fields, self.known, self.variables, self.grid, self.length = fields, known, variables, grid, length
        starts = unbroken_starts(times, length)
        if not len(starts):
            raise EarthSSLError(
                f"expected at least {length} unbroken time steps (the encoder's window), got {len(times)} steps"
            )
        self.starts, self.times = starts, times[starts + length - 1]
        self.seconds = torch.from_numpy(times.astype("datetime64[s]").astype(np.int64))

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the windows in order."""
        for begin in range(0, len(self.starts), size):
            steps = torch.from_numpy(self.starts[begin : begin + size])[:, None] + torch.arange(self.length)
            keys = torch.zeros(len(steps), dtype=torch.int64)
            yield from_fields(self.fields[steps], self.seconds[steps], keys, self.known, self.variables, self.grid)


def pool(features: Tensor, patches: Patches, pooling: str) -> Tensor:
    """Return features pooled over all tokens ("mean"), over those of the last step ("last"), or as they are."""
    if pooling == "mean":
        return features.mean(1)
    if pooling == "last":
        return features[:, patches.step == patches.shape[0] - 1].mean(1)
    return features


def token_places(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    """Return the latitude and longitude of each token's centre, degrees, longitude in [0, 360)."""
    x, y, z = patches.place[:, :3].numpy().astype(np.float64).T
    return np.rad2deg(np.arcsin(np.clip(z, -1, 1))), np.rad2deg(np.arctan2(y, x)) % 360
