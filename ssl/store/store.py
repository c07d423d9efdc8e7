"""The training store: normalised fields in ordinary Zarr 3, uncompressed, so that they can be memory-mapped.

A store is a Zarr group with `fields` (time, variable, lat, lon), normalised, NaN where missing; `time`,
`lat`, `lon`; the statistics that turn fields back into units; and `manifest.json`, written last. Chunks
hold whole time steps one after another, so a chunk file *is* the array of its steps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ..common.errors import EarthSSLError, nearest
from ..common.files import digest, read_json, sha256
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Statistics
from ..fields.splits import Splits
from ..fields.variables import lookup
from .chunk_cache import FETCHES, ChunkCache, local, mirror_of
from .chunks import MANIFEST, Contents, Template, chunk_file, contents_of_file
from .encoding import decode
from .writing import MEANING, SMALL, joined, small_digests, steady_of

READABLE = (1, 2)

MAPS = 256  # chunks mapped at once: each holds a file open, and processes often may have 1024


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
        absent = [name for name, file in SMALL.items() if not (self.path / name / "c" / file).is_file()]
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
    def synthetic(self) -> bool:
        """Whether the fields are a made world's."""
        return "planet" in self.manifest["attributes"]

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
        bad += [f"{name}/c/{SMALL[name]}" for name, value in m["small_sha256"].items() if small[name] != value]
        names = [name for name in MEANING if name in m]
        steps = m["chunks_sha256"] if m["format_version"] == 1 else m["steps_sha256"]
        expected = digest([{name: m[name] for name in names}, steps, m["small_sha256"]])
        if expected != self.fingerprint or (
            not bad and found and joined([chunk.digests for chunk in found])[0] != steps
        ):
            bad.append(MANIFEST)
        elif not bad and found and not set(m.get("steady", [])) <= set(steady_of(self.variables, found)):
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
