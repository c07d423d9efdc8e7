"""What embedding a long series costs: python benchmarks/embed.py [--years 10 20 40] [--steps 6h 1D] [--size nano]

Fields of 32×64 cells are made lazily (dask chunks of 100 days; noise about a climatology), so that what is measured is
the encoder's side and not a disk; --folder writes them to Zarr there first and reads them back. Features (mean over the
tokens) go to a Zarr folder chunk by chunk. Every length runs in a process of its own: memory is its peak resident set,
above that of a process which has loaded everything and embedded one batch. Lengths side by side show whether it grows.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import torch
import xarray as xr
from earthssl.ssl.checkpoint.record import Record
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.fields.variables import lookup
from earthssl.ssl.inference.embed_file import write
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.model.encoder import EncoderConfig

NAMES = ("t850", "u850", "v850", "z500", "q700", "msl")
MEAN, DEVIATION = (280.0, 0.0, 0.0, 5.4e4, 4e-3, 1.01e5), (8.0, 6.0, 5.0, 1.5e3, 2e-3, 8e2)
CHUNK_DAYS = 100


def grid() -> LatLonGrid:
    """Return 32×64 cells."""
    return LatLonGrid(np.linspace(87.1875, -87.1875, 32), np.arange(64) * 5.625)


def encoder(size: str, step: str) -> FrozenEncoder:
    """Return an untrained encoder of six variables with the statistics of the noise."""
    torch.manual_seed(0)
    shape = (len(NAMES), 32, 64)
    hours = (0, 6, 12, 18) if step == "6h" else (0,)
    coefficients = np.zeros((len(hours), 9, *shape), np.float32)
    coefficients[:, 0] = np.array(MEAN, np.float32)[:, None, None]
    scale = np.broadcast_to(np.array(DEVIATION, np.float32)[:, None, None], shape).copy()
    splits = SplitsConfig(("1950", "1960"), ("1962", "1963"), ("1965", "1966"), 30).build()
    config = EncoderConfig(size, 3, (1, 4, 4))
    units = tuple(lookup(name).units for name in NAMES)
    step_days = len(hours) ** -1.0
    statistics = Statistics("hour", hours, 4, coefficients, scale)
    record = Record(config, NAMES, units, step_days, grid(), statistics, splits, "benchmark", 0, 0, {}, "none", "noise",
                    {}, {})  # fmt: skip
    return FrozenEncoder(config.build(NAMES), record)


def series(years: float, step: str) -> xr.Dataset:
    """Return a lazy dataset."""
    per_day = 4 if step == "6h" else 1
    steps = round(years * 365.25 * per_day)
    times = np.datetime64("1980-01-01", "ns") + np.arange(steps) * np.timedelta64(24 // per_day, "h")
    draw = da.random.default_rng(0)
    size = (steps, 32, 64)
    chunks = (CHUNK_DAYS * per_day, 32, 64)
    arrays = {
        name: (
            ("time", "lat", "lon"),
            draw.standard_normal(size, dtype=np.float32, chunks=chunks) * np.float32(deviation) + np.float32(mean),
            {"units": lookup(name).units},
        )
        for name, mean, deviation in zip(NAMES, MEAN, DEVIATION, strict=True)
    }
    return xr.Dataset(arrays, {"time": times, "lat": grid().lat, "lon": grid().lon})


def peak_mb() -> float:
    """Return the peak resident set of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(years: float, step: str, size: str, folder: str) -> dict[str, Any]:
    """Return steps, megabytes, seconds and windows a second of one length."""
    frozen = encoder(size, step)
    frozen.embed(series(0.2, step).isel(time=slice(0, 66)), lazy=False)
    before = peak_mb()
    ds = series(years, step)
    if folder:
        path = Path(folder) / f"fields-{years:g}-{step}.zarr"
        if not path.exists():
            ds.to_zarr(path, consolidated=False)
            return measure_again(years, step, size, folder)  # memory of the writing must not count
        ds = xr.open_zarr(path, consolidated=False)
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        features = frozen.embed(ds, lazy=True)
        write(features, Path(out) / "features.zarr")
        seconds = time.perf_counter() - begin
    return {
        "steps": ds.sizes["time"], "fields_mb": ds.nbytes / 2**20, "before_mb": before, "peak_mb": peak_mb(),
        "seconds": seconds, "windows": features.sizes["time"],
    }  # fmt: skip


def measure_again(years: float, step: str, size: str, folder: str) -> dict[str, Any]:
    """Return the same, measured in a new process."""
    words = [sys.executable, __file__, "--one", "--years", str(years), "--steps", step, "--size", size]
    done = subprocess.run([*words, "--folder", folder], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=float, nargs="+", default=[10, 20, 40])
    parser.add_argument("--steps", nargs="+", choices=["6h", "1D"], default=["1D", "6h"])
    parser.add_argument("--size", default="nano")
    parser.add_argument("--folder", default="", help="keep the fields as Zarr here and read them")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.years[0], options.steps[0], options.size, options.folder)))
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} torch threads, torch {torch.__version__}, {options.size}")
    print(f"{'series':>12} {'fields MB':>10} {'peak MB':>8} {'above idle':>10} {'seconds':>8} {'windows/s':>9}")
    for step in options.steps:
        for years in options.years:
            found = measure_again(years, step, options.size, options.folder)
            print(
                f"{years:>6g} a {step:>3} {found['fields_mb']:>10.0f} {found['peak_mb']:>8.0f} "
                f"{found['peak_mb'] - found['before_mb']:>10.0f} {found['seconds']:>8.1f} "
                f"{found['windows'] / found['seconds']:>9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
