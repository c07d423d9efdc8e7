"""prepare: from any source to a training store; continues where it was interrupted."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError
from ..common.files import MIB, check_disk, digest, disk_full_is_clear, read_json, refuse_filled, write_json
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Calendar
from ..fields.plausible import ImpossibleValueError
from ..runtime.memory import ram
from ..sources import open_source
from ..sources.local_files import with_file
from ..store.chunks import Template
from ..store.writing import close, create
from .append import append
from .config import FREE, PrepareConfig
from .memory_budget import SMALLER_STORE, largest_chunk, store_bytes
from .resumable_fit import fitted_statistics
from .run import Run, sawtooth, source_stamps, told, write_chunks
from .tasks import Job, source_steps

RECIPE = "recipe.json"


def prepare(config: PrepareConfig, data: xr.Dataset | None = None) -> Path:
    """Write the training store that the config describes and return its folder; or append to one.

    Work goes on in `<out>.partial`, which is renamed to `out` when everything is whole. A run that was
    killed continues there: variables fitted and chunks written are kept. Memory is bounded by `memory_mb`; the bytes
    do not depend on it, nor on how many workers there are or where.

    Args:
        config: What to write.
        data: The source, where it is open already: canonical, for threads of this process only. None opens it.

    Raises:
        EarthSSLError: If the source, the splits, the output folder, the memory or the disk do not fit.
    """
    try:
        return append(config) if config.append is not None else _prepare(config, data)
    except ImpossibleValueError as error:  # of data read piece by piece: those read at once are refused as they open
        if config.source != "files":
            raise
        how = {key: config.options[key] for key in ("engine", "group") if key in config.options}
        raise EarthSSLError(with_file(str(error), config.options["path"], error.time, **how)) from None


def _prepare(config: PrepareConfig, data: xr.Dataset | None) -> Path:
    """Write the training store that the config describes and return its folder."""
    out, run = Path(config.out), Run(config)
    refuse_filled(out, "the store")
    data = open_source(config.source, **config.options) if data is None else data
    template = template_of(data, config)
    times = template.times.astype("datetime64[ns]")
    proof = template.splits.proof(times)
    training = times[template.splits.inside(times, "train")]
    calendar = Calendar.chosen(training, config.statistics)
    if doubt := sawtooth(training, config.statistics):  # before hours are spent
        print(f"prepare: {doubt}", file=sys.stderr)
    partial = out.with_name(out.name + ".partial")
    recipe = _recipe(data, config, template)
    check_disk(out.parent, store_bytes(template, calendar) - _written(partial), "the store", SMALLER_STORE)
    job = Job(partial / "job.json", partial / "store", data, template)
    with run.workers() as workers:
        planned = run.plan(workers, job, calendar)
        _continue_or_start(partial, recipe)
        name = job.announce(config.source, config.options)
        if not job.store.exists():
            statistics = fitted_statistics(partial, job, name, calendar, config.statistics.scale, workers, planned)
            fresh = job.store.with_name("store.new")
            create(fresh, template, statistics)
            os.replace(fresh, job.store)
        _refuse_unseen(job)
        written = write_chunks(job, name, workers, planned)
    record = {
        "quality": told(job.quality(), str(job.data.attrs.get("remarks", ""))),
        "source": str(data.attrs.get("source", config.source)),
        "attributes": {key: str(value) for key, value in data.attrs.items()},
        "recipe": recipe,
        "split_proof": proof,
        "valid_share": {name: float(job.known[k].mean()) for k, name in enumerate(template.variables)},
        **run.record(workers, planned, template),
    }
    job.close()
    close(job.store, template, record, written)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rmdir()
    os.replace(job.store, out)
    shutil.rmtree(partial)
    return out


def _refuse_unseen(job: Job) -> None:
    """Refuse a variable that training would never see: without a climatology all its values would be dropped."""
    blocks = ["{} … {}".format(*np.datetime_as_string(b, "D")) for b in job.template.splits.train_blocks]
    unseen = [name for name, known in zip(job.template.variables, job.known, strict=True) if not known.any()]
    if unseen:
        raise EarthSSLError(
            f"expected values of {', '.join(unseen)} in the training block ({', '.join(blocks)}), got none; leave it "
            "out (option variables), or move splits.train"
        )


def template_of(data: xr.Dataset, config: PrepareConfig) -> Template:
    """Return what the store that `prepare` makes of a source will hold."""
    memory_mb = config.memory_mb or ram() / MIB / 2
    variables = tuple(str(name) for name in data.data_vars)
    grid = LatLonGrid(data["lat"].values, data["lon"].values)
    times = data["time"].values.astype("datetime64[s]")
    step_bytes = len(variables) * int(np.prod(grid.shape)) * np.dtype(config.dtype).itemsize
    most = min(largest_chunk(step_bytes, memory_mb), len(times))
    chunk_steps = int(np.clip(config.chunk_mb * 2**20 // step_bytes, 1, most))
    together = source_steps(data)
    if chunk_steps > together > 1:  # whole pieces of the source, or whole parts of one, so that none is read twice
        chunk_steps -= chunk_steps % together
    elif together > 1:
        chunk_steps = -(-together // -(-together // chunk_steps))
    return Template(variables, grid, times, config.splits.build(), config.dtype, min(chunk_steps, len(times)))


def _written(partial: Path) -> int:
    """Return the bytes that an unfinished store takes already."""
    return sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())


def _recipe(data: xr.Dataset, config: PrepareConfig, template: Template) -> dict[str, Any]:
    """Return all that the bytes of the store depend on, to tell whether unfinished work can go on."""
    record = {
        "config": {key: value for key, value in asdict(config).items() if key not in FREE},
        "chunk_steps": template.chunk_steps,
        "attributes": {key: str(value) for key, value in data.attrs.items()},
        "times": digest(template.times.astype(np.int64).tolist()),
        "files": source_stamps(config),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))  # paths and the like as text
    return plain


def _continue_or_start(partial: Path, recipe: dict[str, Any]) -> None:
    """Make the working folder, or check that the one at hand was made by the same recipe."""
    if (partial / RECIPE).is_file():
        found = read_json(partial / RECIPE, "the recipe of an unfinished store")
        if digest(found) != digest(recipe):
            raise EarthSSLError(
                f"{partial} is the unfinished store of another recipe or of a source that changed since; "
                "remove that folder, or choose another --out"
            )
        return
    if partial.exists():
        # A kill may leave the recipe's temporary file; anything else here is not ours to remove.
        if any(not entry.name.startswith(f".{RECIPE}") for entry in partial.iterdir()):
            refuse_filled(partial, "the unfinished store (it holds no recipe of one)")
        shutil.rmtree(partial)
    with disk_full_is_clear(partial):
        partial.mkdir(parents=True)
    write_json(partial / RECIPE, recipe)
