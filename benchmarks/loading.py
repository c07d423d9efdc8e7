"""What a window of a store costs to read: python benchmarks/loading.py [--folder DIR] [--peers DIR] [--rounds N]

Synthetic fields are written to a temporary folder inside --folder (5 GB; removed afterwards). Readers take random
windows of 3 steps in turn, and every round gives one ratio to the anchor, a float32 memory map copied window by
window into one reused buffer; the table shows medians. Ours are whole batches from `TrainLoader`: values, validity,
times and random keys. --peers names a folder that holds xbatcher, where the environment does not.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr
from earthssl.ssl.data.loaders import TrainLoader
from earthssl.ssl.data.loading import Loading
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.store.chunks import Template, chunk_file
from earthssl.ssl.store.encoding import encode
from earthssl.ssl.store.store import Store
from earthssl.ssl.store.writing import close, create

LENGTH = 3
ANCHOR = "memory map, float32, copied (anchor)"
CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Size:
    """What is read: grid, variables and steps; windows in a batch and a round, and in a round of slow readers."""

    rows: int
    columns: int
    variables: int
    steps: int
    batch: int
    windows: int
    few: int

    def __str__(self) -> str:
        return f"{self.rows}×{self.columns}×{self.variables}, {self.steps} steps"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Variables, rows, columns."""
        return self.variables, self.rows, self.columns


SIZES = (
    Size(32, 64, 20, 6000, 32, 320, 32),
    Size(121, 240, 20, 280, 32, 64, 16),
    Size(721, 1440, 10, 16, 4, 8, 4),
)
SERIES = (Size(32, 64, 20, 2000, 32, 320, 32), Size(32, 64, 20, 20_000, 32, 320, 32))


def block(size: Size) -> np.ndarray:
    """Return eight steps of noise, float32; every store repeats them."""
    return np.random.default_rng(0).standard_normal((8, *size.shape), np.float32)


def make_store(folder: Path, size: Size, dtype: str) -> Store:
    """Write a store of days, all of which but two are training."""
    times = np.datetime64("1900-01-01", "s") + np.arange(size.steps) * np.timedelta64(1, "D")
    day = [str(t)[:10] for t in times]
    splits = SplitsConfig((day[0], day[-5]), (day[-3], day[-3]), (day[-1], day[-1]), 1).build()
    names = tuple(f"z{100 + k}" for k in range(size.variables))
    step_bytes = int(np.prod(size.shape)) * np.dtype(dtype).itemsize
    grid = LatLonGrid(np.linspace(89, -89, size.rows), np.arange(size.columns) * 360 / size.columns)
    template = Template(names, grid, times, splits, dtype, max(1, CHUNK_BYTES // step_bytes))
    zeros = np.zeros((1, 1, *size.shape), np.float32)
    create(folder, template, Statistics("hour", (0,), 0, zeros, np.ones(size.shape, np.float32)))
    stored = encode(block(size), dtype, names)
    for number in range(len(template.chunks())):
        file = chunk_file(folder, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as out:
            for step in range(template.chunk_steps):
                out.write(stored[step % 8].data)
    close(folder, template, {"source": "noise"})
    return Store(folder)


def make_flat(file: Path, size: Size) -> np.ndarray:
    """Write the same numbers to one float32 file and return its memory map."""
    values = block(size)
    with open(file, "wb") as out:
        for step in range(size.steps):
            out.write(values[step % 8].data)
    return np.memmap(file, np.float32, "r", shape=(size.steps, *size.shape))


def make_peers(folder: Path, size: Size) -> xr.DataArray:
    """Write the same numbers as float16, uncompressed, one chunk a step: the layout in which peers are fastest."""
    dims = ("time", "variable", "lat", "lon")
    array = zarr.create_group(folder).create_array(
        "fields",
        shape=(size.steps, *size.shape),
        chunks=(1, *size.shape),
        dtype="float16",
        compressors=None,
        dimension_names=dims,
    )
    values = block(size).astype(np.float16)
    for first in range(0, size.steps, 8):
        array[first : first + 8] = values[: min(8, size.steps - first)]
    return xr.open_zarr(folder, consolidated=False, chunks=None)["fields"]


def sequential_rate(files: list[Path]) -> float:
    """Return the bytes a second of reading the files from the disk one after another."""
    drop(files)
    memory, size, begun = bytearray(8 * 2**20), 0, time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as handle:
            while count := handle.readinto(memory):
                size += count
    return size / (time.perf_counter() - begun)


def drop(files: list[Path]) -> None:
    """Let the kernel forget the files' pages."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def ours(store: Store, size: Size, mode: str, windows: int) -> Callable[[], float]:
    """Return a reader that takes so many windows in batches and returns the seconds of one."""
    loader = iter(TrainLoader(Windows(store, "train", LENGTH, 0, Loading(mode)), size.batch, 0))

    def read() -> float:
        begun = time.perf_counter()
        for _ in range(windows // size.batch):
            next(loader)
        return (time.perf_counter() - begun) / windows

    return read


def looped(size: Size, windows: int, take: Callable[[int, np.ndarray], None]) -> Callable[[], float]:
    """Return a reader that calls `take` with first steps and buffers, and returns the seconds of a window."""
    out, rng = np.empty((size.batch, LENGTH, *size.shape), np.float32), np.random.default_rng(1)

    def read() -> float:
        starts = rng.integers(0, size.steps - LENGTH - 4, windows).tolist()
        begun = time.perf_counter()
        for k, start in enumerate(starts):
            take(start, out[k % size.batch])
        return (time.perf_counter() - begun) / windows

    return read


def peers_of(fields: xr.DataArray, size: Size) -> dict[str, Callable[[int, np.ndarray], None]]:
    """Return the peers' ways to take one window."""

    def isel(start: int, out: np.ndarray) -> None:
        out[...] = fields.isel(time=slice(start, start + LENGTH)).load().values

    found = {"xarray isel().load()": isel}
    try:
        import xbatcher
    except ImportError:
        return found
    dims: dict = dict(zip(fields.dims, (LENGTH, *size.shape), strict=True))
    generator = xbatcher.BatchGenerator(fields, dims, input_overlap={"time": LENGTH - 1}, preload_batch=False)

    def lazy(start: int, out: np.ndarray) -> None:
        out[...] = generator[start].load().values

    return {**found, "xbatcher, lazy": lazy}


def compare(folder: Path, size: Size, rounds: int) -> dict[str, tuple[float, float]]:
    """Return, for every reader, the median of its speed over the anchor's, and its windows a second."""
    flat = make_flat(folder / "flat", size)

    def copy(start: int, out: np.ndarray) -> None:
        out[...] = flat[start : start + LENGTH]

    readers = {ANCHOR: looped(size, size.windows, copy)}
    for dtype, mode in (
        ("float16", "streaming"),
        ("float32", "streaming"),
        ("int16", "streaming"),
        ("float16", "resident"),
    ):
        where = folder / dtype
        store = Store(where) if where.exists() else make_store(where, size, dtype)
        readers[f"ours, {mode}, {dtype}"] = ours(store, size, mode, size.windows)
    gappy = Store(folder / "float16")
    gappy.steady[:] = False  # as if gaps came and went in every variable: they are looked for in every step
    readers["ours, streaming, float16, with gaps"] = ours(gappy, size, "streaming", size.windows)
    for name, take in peers_of(make_peers(folder / "peers", size), size).items():
        readers[name] = looped(size, size.few, take)
    for read in readers.values():  # fill caches, fault pages in
        for _ in range(3):
            read()
    took: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds):
        for name, read in readers.items():
            took[name].append(read())
        print(f"{size}: round {number + 1} of {rounds}", file=sys.stderr)
    anchor = took[ANCHOR]
    return {
        name: (statistics.median(a / v for a, v in zip(anchor, values, strict=True)), 1 / statistics.median(values))
        for name, values in took.items()
    }


def until(ahead: Callable[[int], None], batches: int, number: int) -> None:
    """Read ahead no batch that will not be taken: what is counted is what is read."""
    if number < batches:
        ahead(number)


def cold(store: Store, size: Size, rounds: int) -> tuple[float, float]:
    """Return the rate of cold batches over the disk's sequential rate (medians), and that rate, bytes a second."""
    files = [store.chunk_file(k) for k in range(-(-size.steps // store.chunk_steps))]
    ratios, rates = [], []
    for number in range(rounds):
        rate = sequential_rate(files)
        windows = Windows(store, "train", LENGTH, number, Loading("streaming"))
        loader, batches = TrainLoader(windows, size.batch, number), max(2, len(windows) // size.batch // 4)
        chosen = np.concatenate([loader._chosen(k)[0].numpy() for k in range(batches)])
        loader.ahead = partial(until, loader.ahead, batches)  # type: ignore[method-assign]
        shape = (
            size.batch,
            LENGTH,
            *size.shape,
        )  # the two buffers of a run that has begun: the kernel gave their pages
        held = [windows.fields._ring.take(shape, np.float32).fill_(0) for _ in range(2)]
        del held
        steps = np.unique(windows.starts[chosen][:, None] + np.arange(LENGTH))
        drop(files)
        reader, begun = iter(loader), time.perf_counter()
        for _ in range(batches):
            next(reader)
        ratios.append(len(steps) * store.step_bytes / (time.perf_counter() - begun) / rate)
        rates.append(rate)
    return statistics.median(ratios), statistics.median(rates)


def growth(folder: Path, rounds: int) -> float:
    """Return the cost of a window of 20 000 steps over that of 2 000, median of interleaved rounds."""
    readers = []
    for size in SERIES:
        store = make_store(folder / str(size.steps), size, "float16")
        readers.append(ours(store, size, "streaming", size.windows))
        for _ in range(2 * size.steps // size.windows):  # every page once, as in a second epoch
            readers[-1]()
    ratios = []
    for _ in range(3 * rounds):
        short, long = (read() for read in readers)
        ratios.append(long / short)
    return statistics.median(ratios)


def hardware() -> str:
    """Return the processor and the versions in words."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    made = [f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, 1 thread used"]
    made.append(f"python {platform.python_version()}")
    for name in ("torch", "numpy", "xarray", "zarr", "xbatcher"):
        try:
            made.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            made.append(f"{name} not installed")
    return ", ".join(made)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default=None, help="where to put the temporary folder")
    parser.add_argument("--peers", default=None, help="a folder with xbatcher in it")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.peers:
        sys.path.append(args.peers)
    torch.set_num_threads(1)
    results, chilled = {}, {}
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            results[size] = compare(Path(name), size, args.rounds)
            chilled[size] = cold(Store(Path(name) / "float16"), size, 3)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        grown = growth(Path(name), args.rounds)
    print(f"{hardware()}; windows of {LENGTH} steps, {args.rounds} rounds\n")
    print("| reader, warm | " + " | ".join(str(size) for size in SIZES) + " |")
    print("| --- |" + " --- |" * len(SIZES))
    for reader in results[SIZES[0]]:
        cells = [f"{ratio:.3g} ({rate:.0f}/s)" for ratio, rate in (results[size][reader] for size in SIZES)]
        print(f"| {reader} | " + " | ".join(cells) + " |")
    best = "ours, streaming, float16"
    for peer in ("xbatcher, lazy", "xarray isel().load()"):
        if peer in results[SIZES[0]]:
            cells = [f"{results[size][best][0] / results[size][peer][0]:.1f}×" for size in SIZES]
            print(f"| {best} / {peer} | " + " | ".join(cells) + " |")
    cells = [f"{100 * ratio:.0f} % of {rate / 1e9:.2f} GB/s" for ratio, rate in chilled.values()]
    print("| cold (guest's cache dropped), share of the sequential rate | " + " | ".join(cells) + " |")
    print(f"\nCost of a window of 32×64×20: 20 000 steps / 2 000 steps = {grown:.2f}")


if __name__ == "__main__":
    main()
