"""The local cache of stores that cannot be mapped where they lie: behind a URL, compressed, or sharded.

For each such store the cache holds a plain twin: the same manifest, axes and statistics, and of the chunks those that
were asked for, as plain files. Each is checked against the manifest's digest before it takes its name; the chunks
unused for longest give way to new ones. Processes share a cache: locks on files, which go with the process that
holds them, keep two from fetching one chunk and from counting the same room twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..common.errors import EarthSSLError
from ..common.files import cache_folder, disk_full_is_clear, read_json, waited_for, write_text
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Statistics
from ..fields.splits import Splits
from ..runtime.background import Ahead
from .chunks import MANIFEST, Template, chunk_file, write_chunk
from .encoding import fill_value
from .remote_zarr import TRIES, Origin, Unreachable, is_plain
from .writing import create, small_digests

FETCHES = 4  # chunks under way at once in a process; each takes its size twice in memory

FEWEST = 8  # chunks that a cache must have room for

GB = 10**9


@dataclass(frozen=True)
class ChunkCache:
    """Where chunks are kept, and how many bytes of them.

    Attributes:
        folder: Shared by all stores and processes of a machine.
        gb: Bound of the chunk files in it, 10⁹ bytes.
    """

    folder: Path
    gb: float

    @classmethod
    def of_environment(cls) -> ChunkCache:
        """Return the cache that `cache_folder` and EARTHSSL_CACHE_GB (or 100) say.

        Raises:
            EarthSSLError: If the size is no number above 0.
        """
        given = os.environ.get("EARTHSSL_CACHE_GB", "100")
        try:
            gb = float(given)
        except ValueError:
            gb = 0.0
        if not gb > 0:
            raise EarthSSLError(f"EARTHSSL_CACHE_GB: expected a size in GB above 0, got '{given}'")
        return cls(cache_folder() / "stores", gb)

    @property
    def most(self) -> int:
        """Bound of the chunk files, bytes."""
        return int(self.gb * GB)

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Hold the room for a chunk while it is written: those unused for longest are removed."""
        with waited_for(self.folder / ".lock"):
            files = []
            for file in self.folder.glob("*/fields/c/*/0/0/*"):
                with suppress(FileNotFoundError):
                    state = file.stat()
                    files.append((state.st_mtime_ns, state.st_size, file))
            held = sum(size for _, size, _ in files)
            for _, own, file in sorted(files):
                if held + size <= self.most:
                    break
                if file.suffix != ".partial":  # another process is writing it, or the next that wants it removes it
                    file.unlink(missing_ok=True)
                    held -= own
            yield


def used(file: Path | int) -> None:
    """Note that a chunk's file was used now: others give way first. The system's own stamps are some ms coarse."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))


class Mirror:
    """A store kept elsewhere, and its plain twin in the cache.

    Attributes:
        origin: Where it lies.
        cache: Where the twin lies.
        path: Folder of the twin.
    """

    def __init__(self, address: str, cache: ChunkCache | None = None) -> None:
        """Find the store, and its twin or make one. Without a connection the twin made last is taken.

        Raises:
            EarthSSLError: If there is no store, it cannot be reached and was never seen before, its axes or
                statistics are not those of its manifest, or the cache is too small.
        """
        self.origin, self.cache = Origin(address), cache or ChunkCache.of_environment()
        mine = hashlib.sha256(self.origin.address.encode()).hexdigest()[:16]
        twins = sorted(self.cache.folder.glob(f"{mine}-*/{MANIFEST}"), key=lambda file: file.stat().st_mtime_ns)
        try:
            text = self.origin.file(MANIFEST, tries=2 if twins else TRIES).decode()
        except Unreachable as error:
            if not twins:
                raise
            print(f"{error}; meanwhile what is in {twins[-1].parent} is used", file=sys.stderr)
            text = twins[-1].read_text(encoding="utf-8")
        self.manifest = _parsed(text, self.origin.address)
        self.path = self.cache.folder / f"{mine}-{self.manifest['fingerprint'][:16]}"
        needed = FEWEST * self._template.chunk_bytes
        if self.cache.most < needed:
            raise EarthSSLError(
                f"EARTHSSL_CACHE_GB: expected at least {needed / GB:.3g}, {FEWEST} chunks of {self.origin.address}, "
                f"got {self.cache.gb:g}"
            )
        if (self.path / MANIFEST).is_file():
            os.utime(self.path / MANIFEST)
        else:
            self._make_twin(text)

    @cached_property
    def _template(self) -> Template:
        m = self.manifest
        times = np.zeros(m["steps"], "datetime64[s]")  # their number is enough to lay out chunks
        grid, splits = LatLonGrid.from_json(m["grid"]), Splits.from_json(m["splits"])
        return Template(tuple(m["variables"]), grid, times, splits, m["dtype"], int(m["chunk_steps"]))

    def _make_twin(self, manifest: str) -> None:
        """Write axes, statistics and manifest, checked, and put them in place at once."""
        m, origin, t = self.manifest, self.origin, self._template
        times = origin.array("time", 0, m["steps"]).astype("datetime64[s]")
        statistics = Statistics.from_json(
            m["statistics"], origin.array("climatology").astype(np.float32), origin.array("scale").astype(np.float32)
        )
        fresh = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.partial")
        try:
            with disk_full_is_clear(self.path):
                fresh.mkdir(parents=True)
                if times.shape == t.times.shape:
                    create(fresh, Template(t.variables, t.grid, times, t.splits, t.dtype, t.chunk_steps), statistics)
                if times.shape != t.times.shape or small_digests(fresh, m["steps"]) != m["small_sha256"]:
                    raise EarthSSLError(
                        f"{origin.address}: its axes and statistics are not those of its manifest; it is damaged or "
                        "being replaced: try again later, or have it written again"
                    )
                write_text(fresh / "address.txt", f"{origin.address}\n")
                write_text(fresh / MANIFEST, manifest)
                with suppress(OSError):  # another process was first
                    fresh.rename(self.path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def chunk(self, number: int) -> Path:
        """Return the plain file of a chunk, fetched if it is not there.

        Raises:
            EarthSSLError: If it cannot be fetched, or is not what the manifest says.
        """
        file = chunk_file(self.path, number)
        try:
            used(file)
        except FileNotFoundError:
            self._fetch(number)
        return file

    def _fetch(self, number: int) -> None:
        file, t, m = chunk_file(self.path, number), self._template, self.manifest
        first, last = t.chunks()[number]
        with waited_for(self.path / "locks" / str(number)):
            if file.is_file():  # another has fetched it meanwhile
                return
            for leftover in file.parent.glob("*.partial"):  # of a process that was killed
                leftover.unlink()
            values = self.origin.array("fields", first, last)
            if values.dtype != np.dtype(t.dtype) or values.shape != (last - first, *t.shape[1:]):
                raise self._differs(number, f"{values.dtype} {values.shape}")
            if _digest(np.ascontiguousarray(values), t, m["format_version"]) != m["chunks_sha256"][number]:
                raise self._differs(number, "other bytes, or none")
            with disk_full_is_clear(file), self.cache.room(t.chunk_bytes):
                write_chunk(self.path, t, number, values)
                used(file)

    def _differs(self, number: int, got: str) -> EarthSSLError:
        first, last = self._template.chunks()[number]
        return EarthSSLError(
            f"{self.origin.address}: steps {first} to {last - 1} of fields are not those of its manifest (got {got}); "
            "nothing of them was kept; the store is damaged or being replaced: have it written again"
        )

    def ahead(self, numbers: Iterable[int]) -> None:
        """Begin to fetch the chunks, without waiting; what fails is an error when the chunk is asked for."""
        for number in numbers:
            if not chunk_file(self.path, number).is_file():
                self._fetching.begin(self.chunk, number)

    @cached_property
    def _fetching(self) -> Ahead:
        return Ahead(FETCHES)


def _parsed(text: str, address: str) -> dict[str, Any]:
    """Return a manifest from elsewhere, of which a part will name a folder.

    Raises:
        EarthSSLError: If it is none.
    """
    try:
        record: dict[str, Any] = json.loads(text)
        if re.fullmatch("[0-9a-f]{64}", record["fingerprint"]):
            return record
        why = "its fingerprint is no SHA-256"
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
    raise EarthSSLError(f"{address}: expected the manifest of a training store, got something else ({why})")


def _digest(values: np.ndarray, template: Template, version: int) -> str:
    """Return the digest of a chunk as the manifest of a format keeps it: of the whole file, or of the steps'."""
    if version == 1:
        rest = np.full(
            (template.chunk_steps - len(values), *template.shape[1:]), fill_value(template.dtype), values.dtype
        )
        return hashlib.sha256(values.tobytes() + rest.tobytes()).hexdigest()
    return hashlib.sha256(b"".join(hashlib.sha256(step.data).digest() for step in values)).hexdigest()


def mirror_of(path: str | Path, cache: ChunkCache | None = None) -> Mirror | None:
    """Return the mirror of a store, or None where its files can be mapped as they lie.

    Raises:
        EarthSSLError: Whatever `Mirror` refuses.
    """
    if "://" in str(path):
        return Mirror(str(path), cache)
    manifest, fields = Path(path) / MANIFEST, Path(path) / "fields" / "zarr.json"
    if not manifest.is_file() or not fields.is_file():
        return None  # no store, or a damaged one: what opens it says so
    m = read_json(manifest, "a store's manifest")
    shape = (int(m["chunk_steps"]), len(m["variables"]), *LatLonGrid.from_json(m["grid"]).shape)
    if is_plain(fields.read_text(encoding="utf-8"), shape, str(m["dtype"])):
        return None
    return Mirror(str(Path(path).absolute()), cache)


def local(path: str | Path) -> str | Path:
    """Return the folder that a file:// address names, anything else as it is."""
    return unquote(urlsplit(str(path)).path) if str(path).startswith("file://") else path
