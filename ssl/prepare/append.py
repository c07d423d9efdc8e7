"""Append later times of the same source to a finished store, in place; its statistics stay as they are.

New chunks lie beside the old ones, and the chunk that was not full is replaced by one that begins with the same
steps; only the manifest, renamed into place last, makes them part of the store. Killed before, the store is what
it was, and appending again goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError
from ..common.files import check_disk, digest, locked, read_json, write_json
from ..fields.normalisation import Calendar
from ..fields.splits import PARTS, Splits, follows, is_monthly
from ..sources import open_source
from ..store.chunks import Template
from ..store.store import Store
from ..store.writing import close, grow
from .config import FREE, PrepareConfig
from .memory_budget import SMALLER_STORE
from .run import Run, source_stamps, told, write_chunks
from .tasks import Job

RECIPE = "append.json"


def append(config: PrepareConfig) -> Path:
    """Append the source's times after the store's last, and return the store's folder.

    Raises:
        EarthSSLError: If the source differs from what the store holds, has no later times or leaves a gap, if a new
            time lies in the training or validation block, or whatever `prepare` refuses.
    """
    assert config.append is not None
    path, run = Path(config.append), Run(config)
    if Store(config.append).mirror:
        raise EarthSSLError(
            f"prepare.append: expected a plain local store, got {path}, which is compressed, sharded or behind a URL; "
            "append to the plain store it was made of, and pack that again"
        )
    with locked(path):
        store = Store(path)
        m = store.manifest
        if m["format_version"] == 1:
            raise EarthSSLError(f"{path}: a store of format 1 cannot be appended to; prepare it again")
        data = open_source(config.source, **config.options)
        _check_same(store, data, config)
        _check_unrevised(store, data)
        new = data.isel(time=_later(store, data, config.allow_gap))
        times = np.concatenate([store.times, new["time"].values.astype("datetime64[s]")])
        splits = _splits(store, config, times)
        template = Template(store.variables, store.grid, times, splits, m["dtype"], int(m["chunk_steps"]))
        proof = splits.proof(times.astype("datetime64[ns]"))
        job = Job(path / "append-job.json", path, new, template, skip=len(store.times))
        recipe = _recipe(config, store, times)
        _continue_or_start(job, recipe)
        numbers = range(job.skip // template.chunk_steps, len(template.chunks()))
        there = sum(job.is_whole(number) for number in numbers) * template.chunk_bytes
        check_disk(path, (len(numbers) + 1) * template.chunk_bytes - there, "what is appended", SMALLER_STORE)
        kind = store.statistics
        with run.workers() as workers:
            planned = run.plan(workers, job, Calendar(kind.groups, kind.keys, kind.harmonics))
            name = job.announce(config.source, config.options)
            written = write_chunks(job, name, workers, planned)
        made = {
            "recipe": recipe,
            "quality": told(job.quality(), str(job.data.attrs.get("remarks", ""))),
            **run.record(workers, planned, template),
        }
        job.close()
        grow(path, template)
        record = {
            key: m[key]
            for key in ("source", "attributes", "recipe", "valid_share", "created", "versions", "run", "quality")
            if key in m
        }
        record |= {"split_proof": proof, "appends": [*m.get("appends", []), made]}
        close(path, template, record, written, m)
        (path / RECIPE).unlink()
        shutil.rmtree(path / "quality", ignore_errors=True)
    return path


def _check_same(store: Store, data: xr.Dataset, config: PrepareConfig) -> None:
    """Refuse a source that differs from the store in name, variables, grid or dtype; units are canonical in both."""
    m = store.manifest
    grid = (data["lat"].values, data["lon"].values)
    same_grid = len(grid[0]) == len(store.grid.lat) and len(grid[1]) == len(store.grid.lon)
    pairs = [
        ("source", m["recipe"]["config"]["source"], config.source),
        ("dtype", m["dtype"], config.dtype),
        ("variables", sorted(store.variables), sorted(str(name) for name in data.data_vars)),
    ]
    for what, expected, found in pairs:
        if expected != found:
            raise EarthSSLError(
                f"prepare.append: {store.path} was made with {what} {expected}, got {found}; take its config"
            )
    if not same_grid or not (np.allclose(grid[0], store.grid.lat) and np.allclose(grid[1], store.grid.lon)):
        raise EarthSSLError(
            f"prepare.append: expected the grid of {store.path}, {store.grid}, got {len(grid[0])}×{len(grid[1])} cells "
            f"from {grid[0][0]:g}°, {grid[1][0]:g}° on; take the region and resolution of the store's config"
        )


def _check_unrevised(store: Store, data: xr.Dataset) -> None:
    """Refuse a source whose values at the store's last time are not the store's any more."""
    last = np.flatnonzero(data["time"].values.astype("datetime64[s]") == store.times[-1])
    if not len(last):
        return
    step = data[list(store.variables)].isel(time=last).compute(scheduler="synchronous")
    values = np.stack([step[name].values for name in store.variables], axis=1)
    again = store.statistics.normalise(values, store.times[-1:].astype("datetime64[ns]"))
    held = store.read([len(store.times) - 1])
    if not np.allclose(again, held, rtol=0.01, atol=0.01, equal_nan=True):
        raise EarthSSLError(
            f"prepare.append: at {store.times[-1]}, the last time of {store.path}, the source holds other values than "
            "the store: it was revised, or is another one; prepare the store again"
        )


def _later(store: Store, data: xr.Dataset, allow_gap: bool) -> np.ndarray:
    """Return a mask of the source's times after the store's last, checked to go on in its steps."""
    times, held = data["time"].values.astype("datetime64[s]"), store.times
    inside = times[(times >= held[0]) & (times <= held[-1])]
    strange = inside[~np.isin(inside, held)]
    if len(strange):
        raise EarthSSLError(
            f"prepare.append: the source holds {strange[0]}, which lies between times of {store.path} and is none of "
            "them; overlapping times must be the same"
        )
    later = times > held[-1]
    if not later.any():
        raise EarthSSLError(
            f"prepare.append: the source ends {times[-1]}, expected times after {held[-1]}, the last of {store.path}; "
            "nothing to append"
        )
    joined = np.concatenate([held, times[later]])
    unbroken = follows(joined)[len(held) - 1 :]
    if not is_monthly(held):
        step = np.median(np.diff(held).astype(np.int64)).astype(np.int64)
        between = np.diff(joined[len(held) - 1 :]).astype(np.int64)
        own = np.median(between[1:]) if len(between) > 1 else step
        if own != step or (between % step).any():
            raise EarthSSLError(
                f"prepare.append: expected the steps of {store.path}, {step / 3600:g} h, got {own / 3600:g} h; "
                "take the option every of the store's config"
            )
    elif len(joined) - len(held) > 1 and not is_monthly(times[later]):
        raise EarthSSLError(f"prepare.append: expected months, the steps of {store.path}; got {times[later][:3]}")
    if not unbroken.all() and not allow_gap:
        at = int(np.argmin(unbroken)) + len(held) - 1
        raise EarthSSLError(
            f"prepare.append: a gap between {joined[at]} and {joined[at + 1]}; windows will not cross it: allow "
            "it with allow_gap, or add what is missing"
        )
    return later


def _splits(store: Store, config: PrepareConfig, times: np.ndarray) -> Splits:
    """Return the blocks: those of the store, the test block perhaps with a later end."""
    found, held = config.splits.build(), store.splits
    same = all(found.blocks(part) == held.blocks(part) for part in ("train", "val"))
    if not same or found.test[0] != held.test[0] or found.test[1] < held.test[1]:
        raise EarthSSLError(
            f"prepare.append: expected the splits of {store.path}, the test block perhaps with a later end; the blocks "
            f"are {', '.join(f'{part} {_days(held, part)}' for part in PARTS)}"
        )
    if found.embargo_days != held.embargo_days:
        raise EarthSSLError(f"prepare.append: expected embargo_days {held.embargo_days:g}, got {found.embargo_days:g}")
    for part in ("train", "val"):
        if found.inside(times[len(store.times) :].astype("datetime64[ns]"), part).any():
            raise EarthSSLError(
                f"prepare.append: new times lie in splits.{part} ({_days(held, part)}); the statistics and the "
                "selection have not seen them: prepare a new store"
            )
    return found


def _days(splits: Splits, part: str) -> str:
    return ", ".join("{} … {}".format(*np.datetime_as_string(block, "D")) for block in splits.blocks(part))


def _recipe(config: PrepareConfig, store: Store, times: np.ndarray) -> dict[str, Any]:
    """Return all that the appended bytes depend on."""
    record = {
        "config": {key: value for key, value in asdict(config).items() if key not in FREE},
        "parent": store.fingerprint,
        "times": digest(times.astype(np.int64).tolist()),
        "files": source_stamps(config),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


def _continue_or_start(job: Job, recipe: dict[str, Any]) -> None:
    """Note what is appended; chunks that another unfinished append has left are removed."""
    marker = job.store / RECIPE
    if marker.is_file() and digest(read_json(marker, "an unfinished append")) == digest(recipe):
        return
    numbers = [int(folder.name) for folder in (job.store / "fields" / "c").iterdir() if folder.name.isdigit()]
    for number in numbers:
        if number * job.template.chunk_steps >= job.skip:
            shutil.rmtree(job.store / "fields" / "c" / str(number))
    write_json(marker, recipe)
