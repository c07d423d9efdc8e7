"""prepare: from any source to a training store; continues where it was interrupted."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .encoding import DTYPES, encode
from .errors import EarthSSLError
from .files import digest, disk_full_is_clear, read_json, refuse_filled, write_json
from .grid import LatLonGrid
from .progress import track
from .sources import open_source
from .sources.canonical import reading
from .sources.files import matched
from .splits import SplitsConfig
from .statistics import Statistics, StatisticsConfig, fit_statistics
from .store import Store, Template, chunk_file, close, create, open_fields
from .variables import lookup

RECIPE = "recipe.json"
STATISTICS = "statistics.safetensors"


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
        chunk_mb: Size of a chunk, MiB: also what is read and written at once.
    """

    source: str
    out: str
    splits: SplitsConfig
    options: dict[str, Any] = field(default_factory=dict)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    dtype: str = "float32"
    chunk_mb: float = 32.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise EarthSSLError(f"prepare.dtype: expected {', '.join(DTYPES)}, got '{self.dtype}'")
        if not self.chunk_mb > 0:
            raise EarthSSLError(f"prepare.chunk_mb: expected a positive size, got {self.chunk_mb}")


def prepare(config: PrepareConfig) -> Path:
    """Write the training store that the config describes and return its folder.

    Work goes on in `<out>.partial`, which is renamed to `out` when everything is whole. A run that was
    killed continues there: chunks already written are kept. Memory is bounded by a chunk of steps.

    Raises:
        EarthSSLError: If the source, the splits or the output folder do not fit.
    """
    out = Path(config.out)
    refuse_filled(out, "the store")
    data = open_source(config.source, **config.options)
    template = _template(data, config)
    proof = template.splits.proof(template.times.astype("datetime64[ns]"))
    partial = out.with_name(out.name + ".partial")
    recipe = _recipe(data, config, template)
    _continue_or_start(partial, recipe)
    statistics = _statistics(partial, data, template, config.statistics)
    _write_chunks(partial / "store", data, template, statistics)
    ever_valid = statistics.known
    record = {
        "source": str(data.attrs.get("source", config.source)),
        "attributes": {key: str(value) for key, value in data.attrs.items()},
        "recipe": recipe,
        "split_proof": proof,
        "valid_share": {name: float(ever_valid[k].mean()) for k, name in enumerate(template.variables)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("numpy", "xarray", "zarr")}
        | {"python": platform.python_version()},
    }
    close(partial / "store", template, record)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rmdir()
    os.replace(partial / "store", out)
    shutil.rmtree(partial)
    return out


def _template(data: xr.Dataset, config: PrepareConfig) -> Template:
    variables = tuple(str(name) for name in data.data_vars)
    grid = LatLonGrid(data["lat"].values, data["lon"].values)
    times = data["time"].values.astype("datetime64[s]")
    step_bytes = len(variables) * int(np.prod(grid.shape)) * np.dtype(config.dtype).itemsize
    chunk_steps = int(np.clip(config.chunk_mb * 2**20 // step_bytes, 1, len(times)))
    return Template(variables, grid, times, config.splits.build(), config.dtype, chunk_steps)


def _recipe(data: xr.Dataset, config: PrepareConfig, template: Template) -> dict[str, Any]:
    """Return all that the bytes of the store depend on, to tell whether unfinished work can go on."""
    record = {
        "config": {key: value for key, value in asdict(config).items() if key != "out"},
        "attributes": {key: str(value) for key, value in data.attrs.items()},
        "times": digest(template.times.astype(np.int64).tolist()),
        "files": _stamps(config),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))  # paths and the like as text
    return plain


def _stamps(config: PrepareConfig) -> dict[str, list[int]]:
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


def _reader(data: xr.Dataset, variables: tuple[str, ...], first: int, last: int) -> np.ndarray:
    part = data.isel(time=slice(first, last))
    with reading(str(data.attrs.get("source", "the source"))):
        return np.stack([part[name].values for name in variables], axis=1)


def _statistics(partial: Path, data: xr.Dataset, template: Template, config: StatisticsConfig) -> Statistics:
    """Fit the statistics, or take those that an interrupted run had finished."""
    file = partial / STATISTICS
    if file.is_file():
        try:
            held = load_file(file)
            kind = read_json(partial / "statistics.json", "the kind of the statistics")
            return Statistics.from_json(kind, held["coefficients"], held["scale"])
        except (SafetensorError, KeyError):
            file.unlink()
    training = template.splits.inside(template.times.astype("datetime64[ns]"), "train")
    fitted = fit_statistics(
        lambda first, last: _reader(data, template.variables, first, last),
        template.times.astype("datetime64[ns]"),
        training,
        template.grid.area,
        template.shape[1:],
        template.chunk_steps,
        config,
        tuple(lookup(name).transform_scale for name in template.variables),
    )
    write_json(partial / "statistics.json", fitted.to_json())
    temporary = file.with_suffix(".new")
    with disk_full_is_clear(file):
        save_file({"coefficients": fitted.coefficients, "scale": fitted.scale}, temporary)
        os.replace(temporary, file)
    return fitted


def _write_chunks(zarr_folder: Path, data: xr.Dataset, template: Template, statistics: Statistics) -> None:
    """Write the chunks that are not there yet."""
    if not zarr_folder.exists():
        fresh = zarr_folder.with_name("store.new")
        create(fresh, template, statistics)
        os.replace(fresh, zarr_folder)
    fields = open_fields(zarr_folder)
    for number, (first, last) in enumerate(track(template.chunks(), "store")):
        # Zarr renames a chunk into place when it is whole; the size guards against releases that do not.
        file = chunk_file(zarr_folder, number)
        if not file.is_file() or file.stat().st_size != template.chunk_bytes:
            values = _reader(data, template.variables, first, last)
            normal = statistics.normalise(values, template.times[first:last].astype("datetime64[ns]"))
            with disk_full_is_clear(zarr_folder):
                fields[first:last] = encode(normal, template.dtype, template.variables)


def describe(path: str | Path) -> str:
    """Return what a store holds, in lines to be read."""
    store = Store(path)
    m = store.manifest
    lines = [
        f"training store {store.path}",
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
    size = sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    lines.append(f"  size         {size / 2**20:.1f} MiB, {m['dtype']}, {len(m['chunks_sha256'])} chunks")
    lines.append(f"  fingerprint  {store.fingerprint}")
    return "\n".join(lines)
