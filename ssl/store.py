"""The training store: normalised fields in ordinary Zarr 3, uncompressed, so that they can be memory-mapped.

A store is a Zarr group with `fields` (time, variable, lat, lon), normalised, NaN where missing; `time`,
`lat`, `lon`; the statistics that turn fields back into units; and `manifest.json`, written last. Chunks
hold whole time steps one after another, so a chunk file *is* the array of its steps.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from .encoding import CF, decode, fill_value
from .errors import EarthSSLError, nearest
from .files import digest, disk_full_is_clear, read_json, sha256, write_json
from .grid import LatLonGrid
from .layout import Contents, Template, chunk_file, contents_of_file
from .mirror import FETCHES, ChunkCache, local, mirror_of
from .splits import Splits
from .statistics import Statistics
from .variables import lookup

# 2: digests are by step, so that the fingerprint does not depend on the chunks, and a store can be appended to.
FORMAT_VERSION = 2
READABLE = (1, 2)
MANIFEST = "manifest.json"
TIME_UNITS = "seconds since 1970-01-01"
MEANING = ("format_version", "variables", "units", "grid", "splits", "dtype", "statistics", "appended")
MAPS = 256  # chunks mapped at once: each holds a file open, and processes often may have 1024


def create(path: Path, template: Template, statistics: Statistics) -> zarr.Group:
    """Write the template and the statistics to a new Zarr group and return it; `fields` is still empty."""
    with disk_full_is_clear(path):
        group = zarr.create_group(path, zarr_format=3, overwrite=True)
        plain: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
            "time": (template.times.astype("datetime64[s]").astype(np.int64), ("time",)),
            "lat": (template.grid.lat, ("lat",)),
            "lon": (template.grid.lon, ("lon",)),
            "climatology": (statistics.coefficients, ("key", "basis", "variable", "lat", "lon")),
            "scale": (statistics.scale, ("variable", "lat", "lon")),
        }
        for name, (values, dims) in plain.items():
            group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=values.shape,
                compressors=None,
                dimension_names=dims,
            )
            file = path / name / "c" / _SMALL[name]
            file.parent.mkdir(parents=True)
            with open(file, "wb") as handle:  # uncompressed: the bytes are the chunk; Zarr would copy them in memory
                handle.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
        group["time"].attrs.update({"units": TIME_UNITS, "calendar": "proleptic_gregorian"})
        group.create_array(
            "fields",
            shape=template.shape,
            chunks=(template.chunk_steps, *template.shape[1:]),
            dtype=template.dtype,
            compressors=None,
            fill_value=fill_value(template.dtype),
            dimension_names=("time", "variable", "lat", "lon"),
            config={"write_empty_chunks": True},
        )
        group["fields"].attrs.update({"variables": list(template.variables), "statistics": statistics.to_json()})
        if template.dtype == "int16":
            group["fields"].attrs.update(CF)
        with warnings.catch_warnings():
            # Zarr 3 warns that consolidated metadata are not in its specification; without them xarray warns.
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)
    return group


def open_fields(path: Path) -> zarr.Array:
    """Return the array `fields` of a group made by `create`, to be written to."""
    fields = zarr.open_group(path, mode="r+")["fields"]
    assert isinstance(fields, zarr.Array)
    return fields


def read_statistics(path: Path) -> Statistics:
    """Return the statistics of a store made by `create`, mapped from its files."""
    group: Any = zarr.open_group(path, mode="r")

    def mapped(name: str) -> np.ndarray:
        return np.memmap(path / name / "c" / _SMALL[name], "<f4", "r", shape=group[name].shape)

    return Statistics.from_json(group["fields"].attrs["statistics"], mapped("climatology"), mapped("scale"))


def close(
    path: Path,
    template: Template,
    record: dict[str, Any],
    written: Sequence[Contents] | None = None,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the manifest of a store whose chunks are whole, and return it.

    The fingerprint is a digest of every step and of all that gives the numbers their meaning; how steps are cut into
    chunks and provenance (paths, dates, versions) stay outside it, so that the same data prepared elsewhere have the
    same one.

    Args:
        path: The store.
        template: What it holds.
        record: Provenance.
        written: Of every chunk, where that is known; else the files are read. After an append, of the chunks from
            the one on that holds the last step there was.
        earlier: Manifest of the store before steps were appended to it.

    Raises:
        EarthSSLError: If a chunk is missing or cut short.
    """
    for leftover in path.rglob("*.partial"):  # of a chunk that a killed run was writing
        leftover.unlink()
    if written is None:
        known = read_statistics(path).known
        written = [contents_of_file(path, template, number, known) for number in range(len(template.chunks()))]
    group: Any = zarr.open_group(path, mode="r")
    meaning = {
        "format_version": FORMAT_VERSION,
        "variables": list(template.variables),
        "units": [lookup(name).units for name in template.variables],
        "grid": template.grid.to_json(),
        "splits": template.splits.to_json(),
        "dtype": template.dtype,
        "statistics": group["fields"].attrs["statistics"],
        "appended": _appended(template, earlier) if earlier else [],
    }
    steps, chunks = _joined([chunk.digests for chunk in written], earlier)
    parts = small_digests(path, len(template.times))
    manifest = {
        **meaning,
        "steps": len(template.times),
        "chunk_steps": template.chunk_steps,
        "steps_sha256": steps,
        "chunks_sha256": chunks,
        "small_sha256": parts,
        "steady": _steady(template.variables, written, earlier),
        "fingerprint": digest([meaning, steps, parts]),
        **record,
    }
    write_json(path / MANIFEST, manifest)
    return manifest


def _joined(digests: Sequence[Sequence[bytes]], earlier: dict[str, Any] | None = None) -> tuple[str, list[str]]:
    """Return the digest of all steps, and that of each chunk's.

    The former is a chain, a digest of the one before and the step's, so that appending goes on from its end.
    """
    last, kept, skipped = b"", [], 0
    if earlier:
        last = bytes.fromhex(earlier["steps_sha256"])
        number, skipped = divmod(earlier["steps"], earlier["chunk_steps"])
        kept = earlier["chunks_sha256"][:number]
    for step in list(chain.from_iterable(digests))[skipped:]:
        last = hashlib.sha256(last + step).digest()
    return last.hex(), kept + [hashlib.sha256(b"".join(chunk)).hexdigest() for chunk in digests]


def _steady(variables: Sequence[str], written: Sequence[Contents], earlier: dict[str, Any] | None = None) -> list[str]:
    """Return the variables whose valid cells are the known ones in every step: readers look for no gaps in these.

    It follows from the steps, so the fingerprint has no need of it; a store of before it was noted has none.
    """
    flags = np.all([chunk.steady for chunk in written], axis=0)
    before = earlier.get("steady", []) if earlier else variables
    return [name for name, flag in zip(variables, flags, strict=True) if flag and name in before]


def _appended(template: Template, earlier: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was appended so far: each time the fingerprint before, the steps, and what the statistics saw."""
    times = template.times[earlier["steps"] :]
    new = {
        "parent": earlier["fingerprint"],
        "first": str(times[0]),
        "last": str(times[-1]),
        "steps": len(times),
        "statistics": "those of the parent, not fitted again",
    }
    return [*earlier.get("appended", []), new]


def small_digests(path: Path, steps: int) -> dict[str, str]:
    """Return the digests of axes and statistics; of the times by value, because appending adds files of them."""
    group: Any = zarr.open_group(path, mode="r")
    parts = {name: sha256(path / name / "c" / zeros) for name, zeros in _SMALL.items() if name != "time"}
    times = np.ascontiguousarray(group["time"][:steps], np.int64)
    return {"time": hashlib.sha256(times.data).hexdigest(), **parts}


def grow(path: Path, template: Template) -> None:
    """Let the Zarr metadata and times of a store reach to the last step of a longer template.

    Only the manifest, written afterwards, makes the new steps part of the store.
    """
    with disk_full_is_clear(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata, see `create`
        group: Any = zarr.open_group(path, mode="r+", use_consolidated=False)
        times = template.times.astype("datetime64[s]").astype(np.int64)
        group["fields"].resize(template.shape)
        group["time"].resize(times.shape)
        group["time"][:] = times
        zarr.consolidate_metadata(path)


_SMALL = {"time": "0", "lat": "0", "lon": "0", "climatology": "0/0/0/0/0", "scale": "0/0/0"}


class Store:
    """A finished training store, opened to be read; fields are memory-mapped, nothing is loaded.

    One that cannot be mapped where it lies (behind a URL, compressed, sharded) is read through a twin in a local cache.

    Attributes:
        path: The folder: of the store, or of its twin in the cache.
        address: What was opened.
        mirror: Fetches chunks into the twin; None for a plain store.
        manifest: What `close` wrote.
        variables: Canonical names of the channels.
        grid, times, splits, statistics: As prepared; times are datetime64[s], UTC.
        dtype: Of the files, see `encoding`.
        chunk_steps: Time steps in a chunk.
    """

    def __init__(self, path: str | Path, cache: ChunkCache | None = None) -> None:
        """Open a store: a folder or a URL; `cache` is by default that of the environment.

        Raises:
            EarthSSLError: If there is none, it was not finished, cannot be reached, or has another format.
        """
        self.address = str(path)
        self.mirror = mirror_of(local(path), cache)
        self.path = self.mirror.path if self.mirror else Path(local(path))
        if not (self.path / MANIFEST).is_file():
            partial = self.path.with_name(self.path.name + ".partial")
            hint = f"{partial} was not finished: run its" if partial.exists() else "make one with"
            again = " again" if partial.exists() else ""
            raise EarthSSLError(
                f"expected a training store at {self.path}, found none; {hint} `earthssl prepare`{again}"
            )
        self.manifest = read_json(self.path / MANIFEST, "a store's manifest")
        if self.manifest.get("format_version") not in READABLE:
            raise EarthSSLError(
                f"{self.path}: expected store format {' or '.join(map(str, READABLE))}, got "
                f"{self.manifest.get('format_version')}; prepare it again with this version"
            )
        absent = [name for name, file in _SMALL.items() if not (self.path / name / "c" / file).is_file()]
        if absent:  # Zarr would read zeros
            raise EarthSSLError(f"{self.path}: the values of {', '.join(absent)} are missing; prepare the store again")
        try:
            group: Any = zarr.open_group(self.path, mode="r")
            fields = group["fields"]
        except (OSError, KeyError, ValueError) as error:
            raise EarthSSLError(f"{self.path}: not readable as Zarr ({error}); prepare the store again") from None
        self.variables: tuple[str, ...] = tuple(self.manifest["variables"])
        self.grid = LatLonGrid.from_json(self.manifest["grid"])
        # An append that was interrupted may have left more times than the manifest knows.
        self.times = np.asarray(group["time"][: self.manifest["steps"]]).astype("datetime64[s]")
        self.splits = Splits.from_json(self.manifest["splits"])
        kind: Any = fields.attrs["statistics"]
        coefficients, scale = np.asarray(group["climatology"][:]), np.asarray(group["scale"][:])
        self.statistics = Statistics.from_json(kind, coefficients, scale)
        self.chunk_steps = int(self.manifest["chunk_steps"])
        self.dtype = str(self.manifest["dtype"])

    @property
    def fingerprint(self) -> str:
        """A digest of all data and of what gives them meaning."""
        return str(self.manifest["fingerprint"])

    @cached_property
    def known(self) -> np.ndarray:
        """Mask of the cells that training saw a value in, (variables, rows, columns)."""
        return self.statistics.known

    @cached_property
    def steady(self) -> np.ndarray:
        """Of each variable, whether its valid cells are the known ones in every step: as `prepare` found."""
        return np.isin(self.variables, self.manifest.get("steady", []))

    @property
    def step_days(self) -> float:
        """Median spacing of the times, days."""
        return float(np.median(np.diff(self.times)) / np.timedelta64(1, "D"))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Steps, variables, rows, columns."""
        return (len(self.times), len(self.variables), *self.grid.shape)

    @property
    def step_bytes(self) -> int:
        """Size of a stored time step."""
        return int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize

    def chunk_file(self, number: int) -> Path:
        """Return the file of a chunk: its steps one after another, as stored; fetched if it lies elsewhere.

        Raises:
            EarthSSLError: If it cannot be fetched.
        """
        return self.mirror.chunk(number) if self.mirror else chunk_file(self.path, number)

    def open_chunk(self, number: int) -> int:
        """Return the descriptor of a chunk's file, open to be read; an OSError says why there is none."""
        for _ in range(5 if self.mirror else 0):
            with suppress(FileNotFoundError):  # gave way to others just after it was fetched
                return os.open(self.chunk_file(number), os.O_RDONLY)
        return os.open(self.chunk_file(number), os.O_RDONLY)

    def shown(self, first: int, last: int) -> np.ndarray | None:
        """Return the steps [first, last) as stored where showing them takes no memory: in a sketch only."""
        return None

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the steps [first, last) as stored, read one chunk after another: (from, to, values).

        Raises:
            EarthSSLError: If a chunk is missing or cut short.
        """
        per = int(np.prod(self.shape[1:]))
        for number in range(first // self.chunk_steps, (last - 1) // self.chunk_steps + 1):
            start = number * self.chunk_steps
            a, b = max(first, start), min(last, start + self.chunk_steps)
            if self.mirror:
                self.mirror.ahead(range(number + 1, min(number + FETCHES, (last - 1) // self.chunk_steps + 1)))
            try:
                with open(self.open_chunk(number), "rb", buffering=0) as file:
                    values = np.fromfile(file, self.dtype, (b - a) * per, offset=(a - start) * self.step_bytes)
                yield a, b, values.reshape(b - a, *self.shape[1:])
            except (OSError, ValueError) as error:
                raise _damaged(chunk_file(self.path, number), error) from None

    @cached_property
    def _chunk(self) -> Callable[[int], np.ndarray]:
        """Maps a chunk by its number, and keeps the maps last used."""
        return lru_cache(maxsize=MAPS)(self._map)

    def _map(self, number: int) -> np.ndarray:
        shape = (self.chunk_steps, *self.shape[1:])
        try:
            with open(self.open_chunk(number), "rb") as file:
                return np.memmap(file, np.dtype(self.dtype), "r", shape=shape)
        except (OSError, ValueError) as error:
            raise _damaged(chunk_file(self.path, number), error) from None

    def read(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return normalised fields at the steps, float32 (steps, variables, rows, columns), NaN = missing.

        Raises:
            IndexError: If a step is not one of the store's: chunks are padded, so it would read as missing.
        """
        chosen = np.asarray(steps, np.int64)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self.times)):
            raise IndexError(f"expected steps within 0…{len(self.times) - 1}, got {chosen.min()}…{chosen.max()}")
        out = np.empty((len(chosen), *self.shape[1:]), np.float32)
        for i, (number, position) in enumerate(zip(*np.divmod(chosen, self.chunk_steps), strict=True)):
            out[i] = decode(self._chunk(int(number))[position])
        return out

    def read_all(self) -> np.ndarray:
        """Return every step, as `read` does."""
        return self.read(np.arange(len(self.times)))

    def dataset(self, variables: Sequence[str] | None = None) -> xr.Dataset:
        """Return the fields in their units as a canonical dataset; the inverse of `prepare` to float rounding.

        Raises:
            EarthSSLError: If the store does not hold a variable.
        """
        names = list(variables or self.variables)
        for name in names:
            if name not in self.variables:
                raise EarthSSLError(
                    f"{self.path}: expected variables out of {', '.join(self.variables)}, got '{name}'."
                    + nearest(name, self.variables)
                )
        positions = [self.variables.index(name) for name in names]
        statistics = self.statistics.select(positions)
        values = np.concatenate(
            [
                statistics.denormalise(self.read(steps)[:, positions], self.times[steps])
                for steps in np.array_split(np.arange(len(self.times)), max(1, len(self.times) // 256))
            ]
        )
        coords = {"time": self.times.astype("datetime64[ns]"), "lat": self.grid.lat, "lon": self.grid.lon}
        arrays = {
            name: (("time", "lat", "lon"), values[:, k], {"units": lookup(name).units}) for k, name in enumerate(names)
        }
        return xr.Dataset(arrays, coords, attrs={"source": self.manifest["source"]})

    def verify(self) -> None:
        """Read every chunk, axis and statistic again and compare it with the manifest, and that with its fingerprint.

        Raises:
            EarthSSLError: Naming each file that is missing or differs.
        """
        m = self.manifest
        bad = []
        found: list[Contents] = []
        for number, value in enumerate(m["chunks_sha256"]):
            if m["format_version"] == 1:
                file = self.chunk_file(number)
                whole = file.is_file() and sha256(file) == value
            else:
                whole = self._whole(number, value, found)
            if not whole:
                bad.append(str(chunk_file(self.path, number).relative_to(self.path)))
        small = small_digests(self.path, len(self.times))
        bad += [f"{name}/c/{_SMALL[name]}" for name, value in m["small_sha256"].items() if small[name] != value]
        names = [name for name in MEANING if name in m]
        steps = m["chunks_sha256"] if m["format_version"] == 1 else m["steps_sha256"]
        expected = digest([{name: m[name] for name in names}, steps, m["small_sha256"]])
        if expected != self.fingerprint or (
            not bad and found and _joined([chunk.digests for chunk in found])[0] != steps
        ):
            bad.append(MANIFEST)
        elif not bad and found and not set(m.get("steady", [])) <= set(_steady(self.variables, found)):
            bad.append(f"{MANIFEST} (steady)")
        if bad:
            raise EarthSSLError(f"{self.path}: {', '.join(bad)} differ from the manifest; prepare the store again")

    def declared(self) -> Template:
        """Return what the store holds, as declared before a value was written."""
        return Template(self.variables, self.grid, self.times, self.splits, self.dtype, self.chunk_steps)

    def _whole(self, number: int, expected: str, found: list[Contents]) -> bool:
        """Whether a chunk's steps have the digest expected; what it holds is added to `found`."""
        self.chunk_file(number)
        try:
            found.append(contents_of_file(self.path, self.declared(), number, self.known))
        except EarthSSLError:
            return False
        return hashlib.sha256(b"".join(found[-1].digests)).hexdigest() == expected


def _damaged(file: Path, why: Exception) -> EarthSSLError:
    return EarthSSLError(f"{file}: the chunk is missing or cut short ({why}); prepare it again")
