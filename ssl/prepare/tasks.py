"""What the tasks of `prepare` do, in whatever process they run: sum a stretch of time, write chunks.

A job is a small file beside the store, so that tasks carry only its path: another process opens the source
itself, once, and makes sure that it sees the same one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..common.errors import EarthSSLError
from ..common.files import digest, disk_full_is_clear, read_json, write_json
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Calendar, Statistics
from ..fields.quality import COLUMNS, gaps, quality, summary
from ..fields.splits import Splits
from ..fields.variables import lookup
from ..sources import open_source
from ..sources.canonical import reading
from ..store.chunks import Contents, Template, chunk_file, contents, contents_of_file, write_chunk
from ..store.encoding import encode
from ..store.writing import read_statistics
from .fit_statistics import SEGMENT, Reader, Stretches, shaped, sum_segment
from .moments import Sums

PIECE_BYTES = 128 * 2**20  # of one variable, read at once, where the source leaves the choice
_OPEN: dict[str, Job] = {}


@dataclass
class Job:
    """A source, opened, and the store that is made of it.

    Attributes:
        file: Where the job is written for other processes.
        store: Folder of the Zarr group.
        data: The source; its first step is step `skip` of the store.
        template: What the store will hold.
        skip: Steps that the store holds already.
        piece: Steps of one variable read at once.
    """

    file: Path
    store: Path
    data: xr.Dataset = field(repr=False)
    template: Template
    skip: int = 0

    def __post_init__(self) -> None:
        self.times = self.template.times.astype("datetime64[ns]")
        self.piece = piece_steps(self.data, int(np.prod(self.template.grid.shape)))

    def announce(self, source: str, options: dict[str, Any]) -> str:
        """Write the job's file for other processes, keep it open in this one, and return its name."""
        t = self.template
        record = {
            "source": source,
            "options": _absolute(options),
            "store": str(self.store.absolute()),
            "variables": list(t.variables),
            "grid": t.grid.to_json(),
            "splits": t.splits.to_json(),
            "dtype": t.dtype,
            "chunk_steps": t.chunk_steps,
            "times": t.times.astype(np.int64).tolist(),
            "skip": self.skip,
            "seen": seen(self.data),
        }
        write_json(self.file, json.loads(json.dumps(record, default=str)))
        self.remember()
        return self.name

    @property
    def name(self) -> str:
        """What tasks know the job by."""
        return str(self.file.absolute())

    def remember(self) -> None:
        """Keep the job open in this process, and no other: a worker may outlive many."""
        _OPEN.clear()
        _OPEN[self.name] = self

    def forget(self) -> None:
        """Let this process open it anew."""
        _OPEN.pop(self.name, None)

    def read(self, first: int, last: int, variable: int) -> np.ndarray:
        """Return steps [first, last) of a variable, (steps, rows, columns), NaN where missing."""
        name = self.template.variables[variable]
        values = read_variable(self.data, name, first - self.skip, last - self.skip)
        return values

    def pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return [first, last) in pieces that end where the source's do."""
        offset = self.skip
        cuts = [first, *range(first - (first - offset) % self.piece + self.piece, last, self.piece), last]
        return list(pairwise(cuts))

    @property
    def transforms(self) -> tuple[float, ...]:
        """Scale of each variable's transform; 0 for none."""
        return tuple(lookup(name).transform_scale for name in self.template.variables)

    @cached_property
    def shaped(self) -> Reader:
        """Reads as `read` does, transformed: what statistics are fitted to."""
        return shaped(self.read, self.transforms)

    @cached_property
    def stretches(self) -> Stretches:
        """How the training times are cut."""
        return Stretches(self.times, self.template.splits.inside(self.times, "train"), self.piece)

    @cached_property
    def statistics(self) -> list[Statistics]:
        """The store's statistics, mapped from its files, by variable."""
        whole = read_statistics(self.store)
        return [whole.select([k]) for k in range(len(self.template.variables))]

    @cached_property
    def known(self) -> np.ndarray:
        """Cells that training saw a value in, (variables, rows, columns)."""
        return np.concatenate([statistics.known for statistics in self.statistics])

    def is_whole(self, number: int) -> bool:
        """Whether a chunk needs no writing; the one that holds steps there were before is always written again."""
        file = chunk_file(self.store, number)
        begins = self.template.chunks()[number][0]
        whole = file.is_file() and file.stat().st_size == self.template.chunk_bytes
        return begins >= self.skip and whole and self.looked_at(number).is_file()

    def looked_at(self, number: int) -> Path:
        """Return the file that holds the `summary` of a chunk's steps until the manifest is written."""
        return self.file.with_name("quality") / f"{number}.npy"

    def quality(self) -> dict[str, dict[str, Any]]:
        """Return what the manifest says of the values of the job's own steps, from the summaries of its chunks."""
        numbers = range(self.skip // self.template.chunk_steps, len(self.template.chunks()))
        steps = np.concatenate([np.load(self.looked_at(number)) for number in numbers])
        times, names = self.times[self.skip :], self.template.variables
        found = quality(steps, times, [lookup(name) for name in names])
        found[names[0]]["findings"] += gaps(times)
        return found

    def close(self) -> None:
        """Forget the job in this process, and its file."""
        self.forget()
        self.file.unlink(missing_ok=True)


def read_variable(data: xr.Dataset, name: str, first: int, last: int) -> np.ndarray:
    """Return steps [first, last) of a variable, read in the calling thread alone: tasks are what runs side by side."""
    with reading(str(data.attrs.get("source", "the source"))):
        values: np.ndarray = data[name].isel(time=slice(first, last)).compute(scheduler="synchronous").values
    return values


def piece_steps(data: xr.Dataset, cells: int) -> int:
    """Return how many steps of a variable to read at once: whole chunks of a lazy source, PIECE_BYTES or one chunk."""
    together = source_steps(data)
    fit = min(PIECE_BYTES // (4 * cells), SEGMENT) // together
    return together * max(1, fit)


def source_steps(data: xr.Dataset) -> int:
    """Return how many steps of a variable a lazy source reads together; 1 where it lies in memory."""
    lengths = [var.chunks[var.dims.index("time")][0] for var in data.data_vars.values() if var.chunks]
    return max(lengths, default=1)


def seen(data: xr.Dataset) -> str:
    """Return a digest of what a source holds, without its values: to tell whether two processes see the same."""
    axes = [data[name].values.astype("int64" if name == "time" else "float64").tolist() for name in ("time", "lat")]
    return digest([axes, data["lon"].values.astype(float).tolist(), [str(name) for name in data.data_vars]])


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with local paths as they are from any folder."""
    if isinstance(options.get("parts"), list):
        options = {**options, "parts": [_absolute(dict(part)) for part in options["parts"]]}
    if options.get("grid") is not None:
        options = {**options, "grid": str(Path(options["grid"]).expanduser().absolute())}

    def absolute(item: Any) -> str:
        return str(item) if "://" in str(item) else str(Path(item).expanduser().absolute())

    given = {name: options[name] for name in ("path", "unlabelled") if options.get(name)}
    return options | {
        name: absolute(one) if isinstance(one, (str, Path)) else [absolute(item) for item in one]
        for name, one in given.items()
    }


def opened(name: str) -> Job:
    """Return the job whose file has this name, opened once a process.

    Raises:
        EarthSSLError: If this process does not see the file, or sees another source.
    """
    known = _OPEN.get(name)
    if known is not None:
        return known
    m = read_json(Path(name), "the job of `prepare` (workers need the folder of the store on a shared file system)")
    data = open_source(m["source"], **m["options"])
    times = np.asarray(m["times"]).astype("datetime64[s]")
    if m["skip"]:
        data = data.isel(time=data["time"].values.astype("datetime64[s]") > times[m["skip"] - 1])
    if seen(data) != m["seen"]:
        raise EarthSSLError(
            f"a worker sees another source '{m['source']}' than the process that prepares: mend its path"
        )
    grid, splits = LatLonGrid.from_json(m["grid"]), Splits.from_json(m["splits"])
    template = Template(tuple(m["variables"]), grid, times, splits, m["dtype"], m["chunk_steps"])
    job = Job(Path(name), Path(m["store"]), data, template, m["skip"])
    Job.remember(job)
    return job


def sum_task(
    name: str, calendar: Calendar, variable: int, shift: np.ndarray, segment: tuple[int, int], band: tuple[int, int]
) -> Sums:
    """Return the sums of one segment, variable and band of cells of a job."""
    job = opened(name)
    return sum_segment(job.shaped, job.stretches, calendar, shift, variable, segment, band)


def write_task(name: str, numbers: Sequence[int]) -> list[Contents]:
    """Write the chunks (consecutive numbers) that are not whole, and return what the manifest says of each."""
    job = opened(name)
    template, chunks = job.template, job.template.chunks()
    missing = [number for number in numbers if not job.is_whole(number)]
    found: dict[int, Contents] = {}
    if missing:
        first, last = chunks[missing[0]][0], chunks[missing[-1]][1]
        values = np.empty((last - first, *template.shape[1:]), template.dtype)
        if first < job.skip:
            mapped = np.memmap(chunk_file(job.store, missing[0]), values.dtype, "r").reshape(-1, *template.shape[1:])
            values[: job.skip - first] = mapped[: job.skip - first]
        looked = np.full((last - first, len(template.variables), len(COLUMNS)), np.nan)
        for a, b in job.pieces(max(first, job.skip), last):
            for k, statistics in enumerate(job.statistics):
                raw = job.read(a, b, k)
                looked[a - first : b - first, k] = summary(raw)
                normal = statistics.normalise(raw[:, None], job.times[a:b])
                values[a - first : b - first, k] = encode(normal, template.dtype, template.variables[k : k + 1])[:, 0]
        job.looked_at(0).parent.mkdir(exist_ok=True)
        for number in missing:
            begins, ends = chunks[number]
            own = values[begins - first : ends - first]
            with disk_full_is_clear(job.store):
                np.save(job.looked_at(number), looked[max(begins, job.skip) - first : ends - first])
                write_chunk(job.store, template, number, own)
            found[number] = contents(own, job.known)
    return [found.get(number) or contents_of_file(job.store, template, number, job.known) for number in numbers]
