"""prepare: from any source to a training store; continues where it was interrupted."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .budget import SMALLER_STORE, MemoryPlan, largest_chunk, plan, store_bytes
from .encoding import DTYPES
from .errors import EarthSSLError
from .files import MIB, check_disk, digest, disk_full_is_clear, read_json, refuse_filled, write_json
from .fitted import fitted_statistics
from .grid import LatLonGrid
from .job import Job, source_steps, write_task
from .layout import Contents, Template
from .memory import peak_rss, ram, reset_peak, rss
from .progress import Counted, track
from .sources import open_source
from .sources.files import matched
from .splits import SplitsConfig
from .statistics import Calendar, StatisticsConfig
from .store import Store, close, create
from .tasks import LOCAL, Workers, default_workers

RECIPE = "recipe.json"
FREE = ("out", "append", "workers", "scheduler", "memory_mb", "allow_gap")  # the bytes do not depend on these


@dataclass(frozen=True)
class PrepareConfig:
    """From a source to a training store.

    Attributes:
        source: planet, files, ersst, weatherbench2 or arco-era5.
        out: Folder of the store; must be new or empty.
        splits: Blocks of time and the embargo between them.
        options: What the source takes: path, variables, levels, time, …
        statistics: How anomalies are made.
        dtype: float32, float16 or int16 (half the size; errors in `encoding`).
        chunk_mb: Size of a chunk's file, MiB.
        workers: Tasks at once on this machine; none takes one for each core, at most 8.
        scheduler: "threads", "processes" (for sources that one process reads slowly, such as compressed NetCDF), or
            the address of a dask.distributed scheduler, tcp://…, whose workers see the same files.
        memory_mb: Memory that a process may take, MiB: what runs at once follows from it. None is half of the
            machine's.
        append: A finished store to append the source's later times to, in place; `out` is then not used.
        allow_gap: Whether appended times may begin more than a step after the store's last.
    """

    source: str
    out: str
    splits: SplitsConfig
    options: dict[str, Any] = field(default_factory=dict)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    dtype: str = "float32"
    chunk_mb: float = 32.0
    workers: int | None = None
    scheduler: str = "threads"
    memory_mb: float | None = None
    append: str | None = None
    allow_gap: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise EarthSSLError(f"prepare.{name}: expected more than 0, got {value}")
        if self.scheduler not in LOCAL and "://" not in self.scheduler:
            raise EarthSSLError(
                f"prepare.scheduler: expected {', '.join(LOCAL)} or an address such as tcp://host:8786, got "
                f"'{self.scheduler}'"
            )
        if self.dtype not in DTYPES:
            raise EarthSSLError(f"prepare.dtype: expected {', '.join(DTYPES)}, got '{self.dtype}'")
        if not self.chunk_mb > 0:
            raise EarthSSLError(f"prepare.chunk_mb: expected a positive size, got {self.chunk_mb}")


def prepare(config: PrepareConfig) -> Path:
    """Write the training store that the config describes and return its folder; or append to one.

    Work goes on in `<out>.partial`, which is renamed to `out` when everything is whole. A run that was
    killed continues there: variables fitted and chunks written are kept. Memory is bounded by `memory_mb`; the bytes
    do not depend on it, nor on how many workers there are or where.

    Raises:
        EarthSSLError: If the source, the splits, the output folder, the memory or the disk do not fit.
    """
    if config.append is not None:
        from .append import append  # it needs this module

        return append(config)
    out, run = Path(config.out), Run(config)
    refuse_filled(out, "the store")
    data = open_source(config.source, **config.options)
    template = template_of(data, config)
    times = template.times.astype("datetime64[ns]")
    proof = template.splits.proof(times)
    calendar = Calendar.chosen(times[template.splits.inside(times, "train")], config.statistics)
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
        written = write_chunks(job, name, workers, planned)
    record = {
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


class Run:
    """One run of `prepare`: its memory, its workers, and what the manifest says of it."""

    def __init__(self, config: PrepareConfig) -> None:
        """Start counting time and memory."""
        reset_peak()
        self.config, self.begun = config, time.perf_counter()
        self.memory_mb = config.memory_mb or ram() / MIB / 2

    def workers(self) -> Workers:
        """Return the workers, to be entered."""
        return Workers(self.config.scheduler, self.config.workers or default_workers())

    def plan(self, workers: Workers, job: Job, calendar: Calendar) -> MemoryPlan:
        """Return what runs at once; see `budget.plan`."""
        own = (workers.count, workers.share)
        return plan(job.template, calendar, job.piece, source_steps(job.data), own, self.memory_mb, rss() / MIB)

    def record(self, workers: Workers, planned: MemoryPlan, template: Template) -> dict[str, Any]:
        """Return when, where and with what the store was made, and print what it took."""
        seconds, peak = time.perf_counter() - self.begun, max(peak_rss() / MIB, workers.peak_mb)
        size = len(template.chunks()) * template.chunk_bytes / MIB
        print(
            f"prepare: {size:.0f} MiB in {seconds:.0f} s; {workers.count} workers ({workers.scheduler}); peak memory "
            f"{peak:.0f} MiB a process, planned {planned.needed_mb:.0f} of {self.memory_mb:.0f} MiB",
            file=sys.stderr,
        )
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("numpy", "xarray", "zarr", "dask")}
            | {"python": platform.python_version()},
            "run": {
                "seconds": round(seconds, 1),
                "scheduler": workers.scheduler,
                "workers": workers.count,
                "memory_mb": {
                    "allowed": round(self.memory_mb),
                    "planned": round(planned.needed_mb),
                    "peak": round(peak),
                    "arithmetic": planned.words,
                },
            },
        }


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


def write_chunks(job: Job, name: str, workers: Workers, planned: MemoryPlan) -> list[Contents]:
    """Write the chunks that are not there yet; return what the manifest says of each from the job's first on."""
    first = job.skip // job.template.chunk_steps
    numbers = range(first, len(job.template.chunks()))
    groups = [numbers[k : k + planned.chunks_together] for k in range(0, len(numbers), planned.chunks_together)]
    done = workers.in_order(write_task, [(name, group) for group in groups], planned.writes)
    found: list[Contents] = []
    for part in track(Counted(done, len(groups)), "store"):
        found += part
    return found


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


def source_stamps(config: PrepareConfig) -> dict[str, list[int]]:
    """Return the size (bytes) and the time of the last change (ns) of the local files or folders read."""
    given = config.options.get("path", config.options.get("url"))
    if given is None or "://" in str(given):
        return {}
    stamps = {}
    for item in matched(given):
        inside = [file.stat() for file in ([item] if item.is_file() else item.rglob("*"))]
        stamps[str(item)] = [sum(s.st_size for s in inside), max((s.st_mtime_ns for s in inside), default=0)]
    return stamps


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


def describe(path: str | Path) -> str:
    """Return what a store holds, in lines to be read."""
    store = Store(path)
    m = store.manifest
    lines = [
        f"training store {store.address}",
        f"  source       {m['source']}",
        f"  variables    {', '.join(f'{n} [{u}]' for n, u in zip(m['variables'], m['units'], strict=True))}",
        f"  grid         {store.grid}",
        f"  times        {store.times[0]} … {store.times[-1]}, {len(store.times)} steps (UTC)",
        f"  valid cells  {', '.join(f'{n} {100 * s:.1f} %' for n, s in m['valid_share'].items())}",
        f"  statistics   {store.statistics.groups} climatology, {store.statistics.harmonics} harmonics, "
        "fitted on training times only",
    ]
    for part, block in m["split_proof"]["blocks"].items():
        lines.append(f"  {part:<12} {block['first'][:10]} … {block['last'][:10]}, {block['steps']} steps")
    gaps = ", ".join(f"{pair} {days:.0f} days" for pair, days in m["split_proof"]["gaps_days"].items())
    lines.append(f"  gaps         {gaps} (embargo {m['split_proof']['embargo_days']:g} days)")
    if store.mirror:
        lines.append(f"  cached in    {store.path}, at most {store.mirror.cache.gb:g} GB of all stores")
    size = sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    lines.append(f"  size         {size / 2**20:.1f} MiB, {m['dtype']}, {len(m['chunks_sha256'])} chunks")
    for added in m.get("appended", []):
        lines.append(f"  appended     {added['first']} … {added['last']}, {added['steps']} steps, statistics kept")
    if "run" in m:
        took = m["run"]
        lines.append(f"  made in      {took['seconds']:.0f} s, peak memory {took['memory_mb']['peak']} MiB a process")
    lines.append(f"  fingerprint  {store.fingerprint}")
    return "\n".join(lines)
