"""A store and labels on a grid of their own: brought to that of the checkpoint, before anything is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ...ssl.checkpoint.read import read_record
from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import digest, sha256
from ...ssl.fields.grid import LatLonGrid
from ...ssl.fields.nesting import nesting
from ...ssl.fields.normalisation import StatisticsConfig
from ...ssl.fields.splits import SplitsConfig
from ...ssl.fields.variables import lookup
from ...ssl.hub.pull import load_folder
from ...ssl.inference.anomalies import Period, counterparts, period
from ...ssl.inference.screening import brought, lacking, sampled
from ...ssl.prepare.config import PrepareConfig
from ...ssl.prepare.prepare import prepare
from ...ssl.sources.regrid import onto
from ...ssl.store.store import Store
from .config import FinetuningConfig
from .labels import Labels

SUFFIX = ".store"  # added to the name of the results' folder


def on_grid_of_checkpoint(config: FinetuningConfig, store: Store) -> Store:
    """Return the store, or one made of it on the checkpoint's grid and of the variables that it knows.

    The new one lies beside the results (`OUT.store`) and is taken again by the same command. It has the blocks, the
    kind of statistics and the precision of the old one; its statistics are fitted anew, on training times.
    Its attributes `made_of` and `made_for` are the fingerprint of the old one and a digest of all that it depends on.

    Raises:
        EarthSSLError: If the store cannot be brought there, with the reason and what to do; if `OUT.store` is another.
    """
    checkpoint = load_folder(config.checkpoint)
    record = read_record(checkpoint)
    instead = counterparts(record.variables, store.variables)
    base = _base(config, store, instead)
    if config.grid == "store" or (store.grid.same_as(record.grid) and not instead):
        return store
    folder = Path(str(config.out).rstrip("/") + SUFFIX)
    # The climatology of training is added or subtracted, and its known cells decide what must be covered.
    hashes = [sha256(checkpoint / name) for name in ("record.json", "statistics.safetensors", "encoder.safetensors")]
    of = digest([store.fingerprint, hashes, sorted(instead.items()), config.least_valid, base and list(map(str, base))])
    if (folder / "manifest.json").is_file():
        made = Store(folder)
        if made.manifest["attributes"].get("made_for") == of:
            return made
        raise EarthSSLError(
            f"{folder}: expected {store.path} on the grid of {config.checkpoint}, got what was made of another "
            "store, or for another checkpoint, least_valid or base; remove it"
        )
    try:
        data, changes = brought(fields_of(store), record, instead, store.splits, config.least_valid, base)
    except EarthSSLError as error:
        raise EarthSSLError(
            f"{store.path} does not fit the checkpoint: {error}. Or tune on the store's own grid, where positions "
            "are as true: finetune.grid: store"
        ) from None
    if "regridded" in changes:
        known = [name for name in record.variables if name in data]
        some = data[known].isel(time=sampled(data.sizes["time"])).load()
        own = record.statistics.select([record.variables.index(name) for name in known])
        changes["regridded"] += f"; {lacking(some, own)}"
    data.attrs = {**store.manifest["attributes"], "source": store.manifest["source"], "made_of": store.fingerprint}
    data.attrs |= {"made_for": of, **changes}
    return Store(prepare(_recipe(store, folder), data))


def _base(config: FinetuningConfig, store: Store, instead: Mapping[str, str]) -> Period | None:
    """Return the base period; refuse one that nothing uses, or whose means hold times that are to be predicted."""
    base = period(config.base)
    if base is None:
        return None
    if config.grid == "store" or not instead:
        raise EarthSSLError(
            f"finetune.base: expected {store.path} to be made departures of, but it is tuned on as it is; leave it out"
        )
    for part in ("val", "test"):
        first, last = getattr(store.splits, part)
        if base[0] <= last and base[1] >= first:
            raise EarthSSLError(
                f"finetune.base: expected years outside of validation and test, got {base[0]!s:.10} … {base[1]!s:.10} "
                f"and {part} {first!s:.10} … {last!s:.10}; choose earlier ones"
            )
    return base


def _recipe(store: Store, folder: Path) -> PrepareConfig:
    own = store.manifest.get("recipe", {}).get("config", {})
    splits = SplitsConfig(**store.splits.to_json())
    statistics = StatisticsConfig(**own.get("statistics", {}))
    return PrepareConfig(
        "store", str(folder), splits, {"path": str(store.path)}, statistics, store.dtype, own.get("chunk_mb", 32.0)
    )


def fields_of(store: Store) -> xr.Dataset:
    """Return the fields of a store in their units, lazily: canonical, one chunk of steps after another."""
    ends = [*range(0, len(store.times), store.chunk_steps), len(store.times)]
    chunks = (tuple(b - a for a, b in pairwise(ends)), *((size,) for size in store.grid.shape))

    def piece(number: int, block_info: Any = None) -> np.ndarray:
        first, last = block_info[None]["array-location"][0]
        steps = np.arange(first, last)
        values = store.read(steps)[:, number : number + 1]
        return store.statistics.select([number]).denormalise(values, store.times[steps])[:, 0]

    arrays = {}
    for number, name in enumerate(store.variables):
        meta = np.empty((0, 0, 0), np.float32)
        values = da.map_blocks(partial(piece, number), chunks=chunks, dtype=np.float32, meta=meta)
        arrays[name] = (("time", "lat", "lon"), values, lookup(name).attributes)
    coords = {"time": store.times.astype("datetime64[ns]"), "lat": store.grid.lat, "lon": store.grid.lon}
    return xr.Dataset(arrays, coords)


def labels_onto(labels: Labels, grid: LatLonGrid, own: bool = False) -> Labels:
    """Return labels that are fields on the store's grid; cells that they do not reach, or hardly, are without a label.

    Args:
        labels: Of any kind; only fields change.
        grid: Of the store.
        own: Whether fields stay on their own cells, which must fill those of the store; those beyond are cut off.

    Raises:
        EarthSSLError: If their cells are larger, none is left with a value, or the grids do not nest (`own`).
    """
    if labels.grid is None or labels.grid.same_as(grid):
        return labels
    if own:
        nest = nesting(labels.grid, grid, labels.where)
        (rows, columns), (high, wide) = nest.factor, nest.fine.shape
        said = f"on their own {high}×{wide} cells, {rows}×{columns} in each of the store's"
        return replace(labels, values=nest.cut(labels.values), grid=nest.fine, regridded=said)
    coords = {"time": labels.times.astype("datetime64[ns]"), "lat": labels.grid.lat, "lon": labels.grid.lon}
    data = xr.Dataset({"label": (("time", "lat", "lon"), labels.values)}, coords)
    made, said = onto(data, grid, labels.where, needed=np.zeros(grid.shape, bool), of="the store")
    values = made["label"].values
    there = np.isfinite(values).any((1, 2))
    if not there.any():
        raise EarthSSLError(f"{labels.where}: expected fields that reach into the store's {grid}, got {labels.grid}")
    return replace(
        labels, times=labels.times[there], values=values[there], lines=labels.lines[there], grid=grid,
        dropped=labels.dropped + int((~there).sum()), regridded=said,
    )  # fmt: skip
