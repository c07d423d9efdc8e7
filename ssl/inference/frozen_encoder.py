"""FrozenEncoder: a checkpoint in use, xarray in and xarray out."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
import xarray as xr
from dask.system import CPU_COUNT
from dask.utils import SerializableLock
from torch import Tensor

from ..checkpoint.record import Record
from ..common.errors import EarthSSLError
from ..common.progress import dask_progress
from ..fields.batch import Batch, from_fields
from ..fields.month_stamps import stamped
from ..fields.normalisation import Statistics
from ..fields.plausible import check_possible
from ..fields.splits import unbroken_starts
from ..fields.variables import lookup
from ..model.encoder import Encoder, float32
from ..model.tokens import Patches, patchify, token_places
from ..sources.regrid import LEAST_VALID
from .screening import Screened, possible, screen

POOLINGS = ("mean", "last", "tokens")

CHUNK_BYTES = 16 * 2**20  # fields read at once, where a batch does not need more

READERS = min(4, CPU_COUNT)  # threads that read ahead of the encoder, which takes one batch at a time

TASK = "embed-windows"


class FrozenEncoder:
    """An encoder in evaluation mode without gradients, and the record it was saved with.

    Attributes:
        encoder: The network.
        record: Variables, units, grid, statistics, splits, …
    """

    def __init__(self, encoder: Encoder, record: Record) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.record = record
        self._one_at_a_time = SerializableLock()  # torch shares its threads out; one batch's memory, not one a thread's

    def embed(
        self,
        data: xr.Dataset | xr.DataArray,
        pooling: str = "mean",
        layer: int | Sequence[int] = -1,
        batch_size: int = 64,
        *,
        lazy: bool | None = None,
        check_range: bool = True,
        units: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        missing: Mapping[str, Any] | None = None,
        least_valid: float = LEAST_VALID,
        base: tuple[str, str] | None = None,
    ) -> xr.DataArray:
        """Return features of every window of unbroken steps in the data.

        Fields are read, normalised and encoded some batches at a time, each step once per chunk (with the overlap of
        its windows); beside the result, nothing of the length of the series is held in memory. Missing variables
        are allowed, since the encoder takes any subset; they count as nowhere observed. A warning and the attribute
        `missing_variables` name them; so do a warning and `unused_variables` with those it has no weights for.

        Args:
            data: Fields in any spelling that `open_source` understands (names, units, orientation), on the grid of the
                checkpoint or on a finer or shifted one, from which they are averaged (`regridded` among the attributes
                says how); months may be stamped on any of their days. A DataArray is one variable under its name, or
                several along a dimension `variable`. `ssta` may stand for `sst` and the other way round where the
                climatology allows it (attribute `anomalies`).
            pooling: "mean" (over all tokens), "last" (over the tokens of the last step) or "tokens" (none).
            layer: Block whose output is taken, counted from 0, or from the end if negative; or several.
            batch_size: Windows at once.
            lazy: Return dask chunks that are computed when they are asked for (`compute`, `to_netcdf`, `to_zarr`; by
                threads or by processes). None does where the data themselves are made of dask chunks.
            check_range: Refuse values far from the climatology of training (8 standard deviations, root mean square;
                from 3 on a warning), most often wrong units, and what no place on Earth has. False where such values
                are meant. A wrong factor below about 3 is not seen.
            units: Units by variable, where the data do not say or misstate them.
            rename: Canonical names by the data's own, where a name is not understood.
            missing: Value or values by variable, in the data's units, that mean missing.
            least_valid: Share of the area of a cell that must hold values where fields come from another grid; else
                the cell is missing.
            base: First and last date of the years whose monthly means are subtracted, where `ssta` must stand for `sst`
                or the other way round and the data do not reach into the training block.

        Returns:
            (time, feature), or (time, token, feature) with the latitude and longitude of each token and its
            step; `time` is the last step of each window; `layer` is a coordinate, and a dimension after time where
            several were asked for.

        Raises:
            EarthSSLError: If the data do not fit the record; every difference is listed.
        """
        view = self.view(pooling, layer, batch_size, check_range)
        screened = screen(
            data, self.record, units=units, rename=rename, missing=missing, check_range=check_range,
            least_valid=least_valid, base=base,
        )  # fmt: skip
        for text in screened.said:
            warnings.warn(text, stacklevel=2)
        series = Series.of(screened, self.record.encoder.window)
        features = self._label(self._chunks(series, view), series, view)
        features.attrs |= screened.attributes
        if lazy or (lazy is None and _is_lazy(data)):
            return features
        with dask_progress(TASK, features.data.npartitions, "embed"):
            return features.compute(scheduler="threads", num_workers=READERS)

    @cached_property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the lowest and highest possible value by variable, where these are not the Earth's."""
        found = possible(self.record, check_range=True)
        return found if isinstance(found, dict) else {}

    def encode(self, batch: Batch, view: View) -> np.ndarray:
        """Return features of a batch of normalised windows, (batch, layer, [token,] feature), float32."""
        with self._one_at_a_time, torch.no_grad():
            patches = patchify(batch, self.encoder.config.patch)
            outputs = self.encoder.layers(patches)
            return torch.stack([pool(outputs[k], patches, view.pooling) for k in view.layers], 1).numpy()

    def of_windows(self, fields: np.ndarray, times: np.ndarray, variables: Sequence[str], view: View) -> np.ndarray:
        """Return features of raw windows, float32 (window, layer, [token,] feature).

        Args:
            fields: (window, step, variable, row, column) in the units and on the grid of the record, NaN where missing.
            times: Of every step, datetime64, (window, step).
            variables: Canonical names, some of the record's.
            view: What is wanted.
        """
        names = tuple(variables)
        statistics = self.record.statistics.select([self.record.variables.index(name) for name in names])
        work = _Work(self, statistics, names, view)
        parts = []
        for k in range(0, len(fields), view.batch_size):
            part, when = fields[k : k + view.batch_size], times[k : k + view.batch_size]
            places = np.arange(when.size).reshape(when.shape)
            flat = [part[:, :, n].reshape(-1, *part.shape[3:]) for n in range(len(names))]
            parts.append(work.features(flat, when.reshape(-1), places))
        return np.concatenate(parts)

    def of_series(self, series: Series, view: View) -> np.ndarray:
        """Return features of every window of a series, in memory; shape as for `of_windows`."""
        chunks = self._chunks(series, view)
        with dask_progress(TASK, chunks.npartitions, "embed"):
            return np.asarray(chunks.compute(scheduler="threads", num_workers=READERS))

    def patches(self, variables: Sequence[str]) -> Patches:
        """Return the patches of one empty window of the variables: how many there are, and where."""
        record, length = self.record, self.record.encoder.window
        fields = np.zeros((length, len(variables), *record.grid.shape), np.float32)
        times = np.zeros(length, "datetime64[s]")
        batch = _batch(fields, times, np.arange(length)[None], tuple(variables), record)
        return patchify(batch, self.encoder.config.patch)

    def view(self, pooling: str, layer: int | Sequence[int], batch_size: int, check_range: bool = True) -> View:
        """Return what is wanted, checked.

        Raises:
            EarthSSLError: If the encoder has no such block, or there is no such pooling.
        """
        if pooling not in POOLINGS:
            raise EarthSSLError(f"pooling: expected {', '.join(POOLINGS)}, got '{pooling}'")
        if batch_size < 1:
            raise EarthSSLError(f"batch_size: expected at least 1 window, got {batch_size}")
        return View(pooling, self._layers(layer), isinstance(layer, (int, np.integer)), batch_size, check_range)

    def _layers(self, layer: int | Sequence[int]) -> tuple[int, ...]:
        depth = self.encoder.depth
        asked = [layer] if isinstance(layer, (int, np.integer)) else list(layer)
        wrong = [k for k in asked if not -depth <= k < depth]
        if wrong or not asked:
            raise EarthSSLError(f"layer: expected {-depth} to {depth - 1}, got {', '.join(map(str, wrong)) or 'none'}")
        layers = tuple(int(k) % depth for k in asked)
        if len(set(layers)) < len(layers):
            raise EarthSSLError(f"layer: expected every block once, got {', '.join(map(str, asked))}")
        return layers

    def _chunks(self, series: Series, view: View) -> da.Array:
        """Return the features of all windows, (time, layer, [token,] feature), still to be computed."""
        tokens = (self.patches(series.variables).count,) if view.pooling == "tokens" else ()
        rest = (len(view.layers), *tokens, self.encoder.width)
        # One graph of arrays throughout: dask would read what two delayed calls share once for each.
        token = uuid.uuid4().hex
        work = dask.delayed(_Work(self, series.statistics, series.variables, view), name=f"encoder-{token}",
                            traverse=False)  # fmt: skip
        sources = [da.asarray(series.data[name].data) for name in series.variables]
        size = series.windows_per_chunk(view.batch_size)
        axes = "wlkf" if tokens else "wlf"
        blocks = []
        for number, first in enumerate(range(0, len(series.starts), size)):
            steps, windows = series.block(first, size)
            whole = [source[steps].rechunk(-1) for source in sources]
            lengths = dict(zip(axes, (len(windows), *rest), strict=True))
            blocks.append(
                da.blockwise(
                    _features,
                    axes,
                    *(part for fields in whole for part in (fields, "tyx")),
                    new_axes=lengths,
                    name=f"{TASK}-{token}-{number}",
                    concatenate=True,
                    align_arrays=False,
                    dtype=np.float32,
                    meta=np.empty((0,) * len(axes), np.float32),
                    work=work,
                    times=series.data["time"].values[steps],
                    windows=windows,
                )
            )
        return da.concatenate(blocks)

    def _label(self, values: da.Array, series: Series, view: View) -> xr.DataArray:
        attrs = {"fingerprint": self.record.fingerprint, "pooling": view.pooling,
                 "variables": ", ".join(series.variables), "long_name": "frozen encoder features"}  # fmt: skip
        coords: dict[str, Any] = {"time": series.times}
        dims = ["time", "layer", "feature"]
        if view.pooling == "tokens":
            patches = self.patches(series.variables)
            lat, lon = token_places(patches)
            coords |= {
                "lat": ("token", lat, {"units": "degrees_north"}),
                "lon": ("token", lon, {"units": "degrees_east"}),
                "step": ("token", patches.step.numpy()),
            }
            dims.insert(2, "token")
        if view.single:
            dims.remove("layer")
            values = values[:, 0]
        coords["layer"] = view.layers[0] if view.single else ("layer", list(view.layers))
        return xr.DataArray(values, coords, dims, "features", attrs)


@dataclass(frozen=True)
class View:
    """What is taken of the encoder: pooling, blocks, whether one was named and not a list, windows at once; whether
    values that no place on Earth has are refused."""

    pooling: str
    layers: tuple[int, ...]
    single: bool
    batch_size: int
    check_range: bool = True


@dataclass(frozen=True)
class Series:
    """Every window of unbroken steps of screened data.

    Attributes:
        data: Canonical dataset; may be lazy.
        statistics: Of its variables.
        variables: Their names.
        starts: First step of every window, (window,).
        length: Steps of a window.
    """

    data: xr.Dataset
    statistics: Statistics
    variables: tuple[str, ...]
    starts: np.ndarray
    length: int

    @classmethod
    def of(cls, screened: Screened, length: int) -> Series:
        """Return the windows of the data.

        Raises:
            EarthSSLError: If not one fits between the gaps in time.
        """
        times = screened.data["time"].values
        starts = unbroken_starts(times, length)
        if not len(starts):
            raise EarthSSLError(
                f"expected at least {length} unbroken time steps (the encoder's window), got {len(times)} steps"
            )
        return cls(screened.data, screened.statistics, screened.variables, starts, length)

    @property
    def times(self) -> np.ndarray:
        """Last step of every window, datetime64, (window,)."""
        return self.data["time"].values[self.starts + self.length - 1]

    def windows_per_chunk(self, batch_size: int) -> int:
        """Return how many windows are worked on together: whole batches, within `CHUNK_BYTES` of fields if they can."""
        step_bytes = 4 * len(self.variables) * self.data.sizes["lat"] * self.data.sizes["lon"]
        return batch_size * max(1, CHUNK_BYTES // (step_bytes * batch_size))

    def block(self, first: int, size: int) -> tuple[Any, np.ndarray]:
        """Return the steps that `size` windows from the first on need, and each window's places among them."""
        wanted = self.starts[first : first + size][:, None] + np.arange(self.length)
        steps, places = np.unique(wanted, return_inverse=True)
        places = places.reshape(wanted.shape)
        if steps[-1] - steps[0] + 1 == len(steps):
            return slice(int(steps[0]), int(steps[-1]) + 1), places
        return steps, places


@dataclass(frozen=True)
class _Work:
    """What every chunk of a series needs besides its own fields."""

    frozen: FrozenEncoder
    statistics: Statistics
    variables: tuple[str, ...]
    view: View

    def features(self, fields: list[np.ndarray], times: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Return features, (window, layer, [token,] feature).

        Args:
            fields: Of each variable, in its units, (step, row, column).
            times: Of the steps.
            windows: Which steps each window holds, (window, step).
        """
        with float32():
            return self._features(fields, times, windows)

    def _features(self, fields: list[np.ndarray], times: np.ndarray, windows: np.ndarray) -> np.ndarray:
        self.frozen.encoder.eval()  # a caller may have switched it to training
        size, parts = self.view.batch_size, []
        for k in range(0, len(windows), size):  # batch by batch, normalising too: its temporary fields are many
            steps, places = np.unique(windows[k : k + size], return_inverse=True)
            raw = np.stack([field[steps] for field in fields], 1)
            normal = self.statistics.normalise(raw, times[steps])
            if self.view.check_range:
                self.refuse_impossible(raw, times[steps])
            places = places.reshape(-1, windows.shape[1])
            batch = _batch(normal, times[steps], places, self.variables, self.frozen.record)
            parts.append(self.frozen.encode(batch, self.view))
        return np.concatenate(parts)

    def refuse_impossible(self, raw: np.ndarray, times: np.ndarray) -> None:
        """Refuse values that no place on Earth has, in any window: (step, variable, row, column).

        Nor a synthetic planet that the encoder was trained on.
        """
        grid = self.frozen.record.grid
        for k, name in enumerate(self.variables):
            check_possible(
                raw[:, k], lookup(name), times, (grid.lat, grid.lon), "the data for embedding",
                within=self.frozen.limits.get(name),
            )  # fmt: skip


def _features(*fields: np.ndarray, work: _Work, times: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return `work.features`: what dask calls."""
    return work.features(list(fields), times, windows)


def _batch(
    normal: np.ndarray,
    times: np.ndarray,
    windows: np.ndarray,
    variables: tuple[str, ...],
    record: Record,
) -> Batch:
    seconds = stamped(times.astype("datetime64[s]").astype(np.int64), record.stamp_s)
    keys = torch.zeros(len(windows), dtype=torch.int64)
    fields = torch.from_numpy(normal[windows])
    known = known_to(record, len(variables))
    return from_fields(fields, torch.from_numpy(seconds[windows]), keys, known, variables, record.grid)


def known_to(record: Record, count: int) -> Tensor:
    """Return `Batch.known` for some of a record's variables, so that a window has the tokens it had in training.

    A cell is known if any variable of the record is known there: without one that alone is known on land, land's
    tokens stay, unobserved.

    Returns:
        bool (variable, row, column) for `count` variables.
    """
    every = torch.from_numpy(record.statistics.known.any(0))
    return every.repeat(count, 1, 1)


def _is_lazy(data: xr.Dataset | xr.DataArray) -> bool:
    arrays = data.data_vars.values() if isinstance(data, xr.Dataset) else [data]
    return any(array.chunks is not None for array in arrays)


def pool(features: Tensor, patches: Patches, pooling: str) -> Tensor:
    """Return features pooled over all tokens ("mean"), over those of the last step ("last"), or as they are."""
    if pooling == "mean":
        return features.mean(1)
    if pooling == "last":
        return features[:, patches.step == patches.shape[0] - 1].mean(1)
    return features
