"""What a store costs to write and to read: python benchmarks/prepare.py FOLDER [--years 10 20 40] [--workers N]

A synthetic source (Zarr, float32, uncompressed, 20 variables on 32×64, 6-hourly) is written inside FOLDER, and for
each length `prepare` makes a float16 store of it in a process of its own, through the `files` source, lazily. The
table has the seconds, MB/s of fields stored and peak memory of each, the exponent of the time against the size
(log–log), and the arithmetic for 0.25°. The longest length needs 15 GB of disk for 40 years; all is removed
afterwards. Source and store may lie in the system's page cache: rates of the processor, not of a cold disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Calendar
from earthssl.ssl.fields.plausible import limits
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.fields.variables import lookup
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.memory_budget import plan, store_bytes
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.runtime.workers import default_workers
from earthssl.ssl.store.chunks import Template
from earthssl.ssl.store.store import Store

VARIABLES = ["t2m", "msl", "u10", "v10", *(f"{name}{level}" for name in "ztuv" for level in (850, 700, 500, 250))]
GRID = (32, 64)
FIRST = 1980
CHUNK = 1461  # steps, a year
MB = 1e6
MEMORY_MB = 16_000  # for the arithmetic


def times_of(years: int) -> np.ndarray:
    """Return the 6-hourly times of so many years, datetime64[s]."""
    return np.arange(f"{FIRST}-01-01", f"{FIRST + years}-01-01", 6, dtype="datetime64[h]").astype("datetime64[s]")


def splits(years: int) -> SplitsConfig:
    """Return blocks: 70 % training, then validation and test."""
    train, val = FIRST + int(0.7 * years), FIRST + int(0.85 * years)
    return SplitsConfig(
        (str(FIRST), str(train - 1)), (f"{train}-02", str(val - 1)), (f"{val}-02", str(FIRST + years - 1)), 30
    )


def make_source(path: Path, years: int) -> None:
    """Write the source: a seasonal cycle by latitude and noise, within what each variable can be."""
    times = times_of(years)
    group = zarr.create_group(path, zarr_format=3)
    lat, lon = np.linspace(87, -87, GRID[0]), np.arange(GRID[1]) * 360 / GRID[1]
    axes = {"time": times.astype(np.int64), "lat": lat, "lon": lon}
    for name, values in axes.items():
        group.create_array(name, data=values, compressors=None, dimension_names=[name])
    group["time"].attrs.update({"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"})
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((CHUNK, *GRID), np.float32)
    phase = 2 * np.pi * np.arange(CHUNK, dtype=np.float32) / CHUNK
    season = np.cos(phase)[:, None, None] * np.sin(np.deg2rad(lat)).astype(np.float32)[:, None]
    for k, name in enumerate(VARIABLES):
        v = lookup(name)
        low, high = limits(v)
        middle, width = np.float32((low + high) / 2), np.float32((high - low) / 40)
        array = group.create_array(
            name, shape=(len(times), *GRID), chunks=(CHUNK, *GRID), dtype="float32", compressors=None,
            dimension_names=["time", "lat", "lon"], attributes={"units": v.units},
        )  # fmt: skip
        for number, first in enumerate(range(0, len(times), CHUNK)):
            values = middle + width * (season + np.roll(noise, 97 * number + 31 * k, axis=0))
            array[first : first + CHUNK] = values[: len(times) - first]


def work(source: str, out: str, years: int, workers: int) -> dict[str, Any]:
    """Write and read a store in this process, and return what it took."""
    options = {
        "path": source,
        "variables": VARIABLES,
        "eager_bytes": 0,
        "time": [str(FIRST), str(FIRST + years - 1)],
    }
    begun = time.perf_counter()
    prepare(PrepareConfig("files", out, splits(years), options, dtype="float16", workers=workers))
    wrote = time.perf_counter() - begun
    store = Store(out)
    begun = time.perf_counter()
    read = 0
    for first in range(0, len(store.times), 64):
        read += store.read(np.arange(first, min(first + 64, len(store.times)))).nbytes // 2
    took = time.perf_counter() - begun
    begun = time.perf_counter()
    store.verify()
    run = store.manifest["run"]
    return {
        "years": years,
        "bytes": read,
        "write_s": wrote,
        "read_s": took,
        "verify_s": time.perf_counter() - begun,
        "peak_mb": run["memory_mb"]["peak"],
        "planned_mb": run["memory_mb"]["planned"],
        "chunk_steps": store.manifest["chunk_steps"],
    }


def measured(folder: Path, years: list[int], workers: int) -> list[dict[str, Any]]:
    """Measure each length in a process of its own, shortest first; every store is removed once measured."""
    most = max(years)
    field = len(times_of(most)) * len(VARIABLES) * GRID[0] * GRID[1]
    needed, free = 6.3 * field, shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(f"{folder} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB")
    source = folder / "source.zarr"
    begun = time.perf_counter()
    make_source(source, most)
    print(f"source of {4 * field / 1e9:.1f} GB written in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    found = []
    for length in sorted(years):
        out = folder / f"store{length}"
        command = [sys.executable, __file__, "--child", json.dumps([str(source), str(out), length, workers])]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        shutil.rmtree(out)
    return found


def quarter_degree(write_rate: float, read_rate: float) -> str:
    """Return the arithmetic for 40 years of 20 variables at 0.25°, at the rates (bytes of float16 a second)."""
    times = times_of(40)
    grid = LatLonGrid(np.linspace(90, -90, 721), np.arange(0, 360, 0.25))
    template = Template(tuple(VARIABLES), grid, times, splits(40).build(), "float16", 1)
    calendar = Calendar("hour", (0, 6, 12, 18), 4)
    size = store_bytes(template, calendar)
    # A source in chunks of one step a variable is read in pieces of 32 steps.
    made = plan(template, calendar, 32, 1, (2, 2), MEMORY_MB, 500)
    return (
        f"0.25° (721×1440, 20 variables, {len(times)} steps, float16): {len(times)} × 20 × 721 × 1440 × 2 bytes = "
        f"{len(times) * template.chunk_bytes / 1e12:.2f} TB and {(size - len(times) * template.chunk_bytes) / 1e9:.1f} "
        f"GB of statistics and axes; one step a chunk, {template.chunk_bytes / MB:.1f} MB. At the rates of the longest "
        f"run: {size / write_rate / 3600:.1f} h to write with its statistics, {size / read_rate / 3600:.1f} h to read. "
        f"With memory_mb {MEMORY_MB}: {made.writes} tasks that write and {made.fits} that sum at once, {made.bands} "
        f"pass(es) over each variable, {made.needed_mb:.0f} MiB: {made.words}."
    )


def report(found: list[dict[str, Any]], workers: int) -> None:
    """Print the table."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    print(
        f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; {workers} workers (threads); "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "xarray", "zarr", "dask"))
        + f", Python {platform.python_version()}\n"
    )
    print("| years | fields stored | prepare | MB/s | read | MB/s | verify | peak memory | planned | steps a chunk |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for f in found:
        print(
            f"| {f['years']} | {f['bytes'] / 1e9:.2f} GB | "
            f"{f['write_s']:.0f} s | {f['bytes'] / MB / f['write_s']:.0f} | "
            f"{f['read_s']:.1f} s | {f['bytes'] / MB / f['read_s']:.0f} | {f['verify_s']:.1f} s | {f['peak_mb']} MiB | "
            f"{f['planned_mb']} MiB | {f['chunk_steps']} |"
        )
    if len(found) > 1:
        sizes = np.log([f["bytes"] for f in found])
        slopes = {what: np.polyfit(sizes, np.log([f[what] for f in found]), 1)[0] for what in ("write_s", "read_s")}
        print(f"\nTime grows with size to the power {slopes['write_s']:.2f} (prepare), {slopes['read_s']:.2f} (read).")
    last = found[-1]
    print("\n" + quarter_degree(last["bytes"] / last["write_s"], last["bytes"] / last["read_s"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="where to put the temporary folder")
    parser.add_argument("--years", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(work(*json.loads(args.child))))
        return
    if not args.folder:
        parser.error("expected a folder to write in, got none")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        found = measured(Path(name), args.years, args.workers)
    report(found, args.workers)


if __name__ == "__main__":
    main()
