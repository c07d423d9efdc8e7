"""Fields of a part of a store, read from its files as batches ask for them."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ..common.errors import EarthSSLError
from ..runtime.background import Ahead
from ..store.chunk_cache import FETCHES, ChunkCache, used
from ..store.chunks import chunk_file
from ..store.store import MAPS, Store
from .epoch_order import mixed_bytes
from .reading import Fields

AHEAD_BYTES = 512 * 2**20  # stored, of the batches that are read ahead; one is in any case
AHEAD_BATCHES = 8
ADVICE_BYTES = 128 * 2**10  # the kernel reads no more of an advised range than its device's largest request


@dataclass
class Chunk:
    """A chunk's file, open and mapped."""

    path: Path
    handle: int
    map: mmap.mmap
    steps: Tensor

    def __del__(self) -> None:
        os.close(self.handle)  # the map goes with the last tensor that shows it


def batches_ahead(size: int) -> int:
    """Return how many batches to read ahead: those that 512 MiB hold (of the file cache), at least 1, at most 8.

    Args:
        size: Of a batch as stored, bytes.
    """
    return max(1, min(AHEAD_BATCHES, AHEAD_BYTES // size))


class Streaming(Fields):
    """Nothing is held: windows are copied out of mapped chunks, which the kernel was told of some batches ahead."""

    def __init__(self, store: Store, first: int, last: int) -> None:
        super().__init__(store, first, last, torch.device("cpu"))
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._step_bytes = store.step_bytes
        self._lock = threading.Lock()
        self._ahead = Ahead(FETCHES if store.mirror else 1)
        self._maps = MAPS
        if store.mirror:
            self._maps = self._cached(store.mirror.cache, store.chunk_steps * store.step_bytes)

    def _pieces(self, first: int, last: int) -> Iterator[Shaped[Tensor, "step variable row column"]]:
        for number, a, b in self._places(first, last):
            chunk = self._chunk(number)
            state = os.fstat(chunk.handle)
            evicted = self.store.mirror is not None and not state.st_nlink  # whole all the same, until it is closed
            if not (state.st_nlink or evicted) or state.st_size < len(chunk.steps) * self._step_bytes:
                raise gone(chunk.path, "it was removed or cut short while in use")
            yield chunk.steps[a:b]
            if evicted:
                with self._lock:
                    self._chunks.pop(number, None)

    def ahead(self, starts: Int[np.ndarray, " window"], length: int) -> None:
        """Let another thread tell the kernel of the windows' bytes: it waits where the disk has enough to do.

        A chunk that cannot be read is an error when it is needed, not here.
        """
        for start in starts.tolist():
            self._ahead.begin(self._advise, start, start + length)

    def _advise(self, first: int, last: int) -> None:
        for number, a, b in self._places(first, last):
            chunk = self._chunk(number)  # kept: with it goes its handle
            if self.store.mirror:
                used(chunk.handle)
            for offset in range(a * self._step_bytes, b * self._step_bytes, ADVICE_BYTES):
                size = min(ADVICE_BYTES, b * self._step_bytes - offset)
                os.posix_fadvise(chunk.handle, offset, size, os.POSIX_FADV_WILLNEED)

    def _places(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield the chunks of the steps [first, last), each with its own steps [a, b)."""
        size = self.store.chunk_steps
        for number in range(first // size, (last - 1) // size + 1):
            yield number, max(first - number * size, 0), min(last - number * size, size)

    def _chunk(self, number: int) -> Chunk:
        """Return a chunk, mapped; those last used stay."""
        with self._lock:
            held = self._chunks.get(number)
        fresh = held or open_chunk(self.store, number)  # several may be fetched at once
        with self._lock:
            held = self._chunks.setdefault(number, fresh)
            if held is fresh and len(self._chunks) > self._maps:
                self._chunks.popitem(last=False)
            self._chunks.move_to_end(number)
            return held

    def _cached(self, cache: ChunkCache, chunk_bytes: int) -> int:
        """Return how many chunks to map of those in a cache, and say where it is too small for the order of windows.

        Chunks that gave way stay on disk while they are mapped: no more than a quarter of the cache may.
        """
        mixed = mixed_bytes(self.last - self.first, self._step_bytes)
        if cache.most < 1.5 * mixed:
            print(
                f"{self.store.address}: a cache of {cache.gb:.3g} GB is smaller than what an epoch mixes at a time, "
                f"{1.5 * mixed / 1e9:.2g} GB: chunks will be fetched again and again; raise EARTHSSL_CACHE_GB",
                file=sys.stderr,
            )
        return max(2, min(MAPS, cache.most // 4 // chunk_bytes))


def gone(path: Path, why: object) -> EarthSSLError:
    """Return the error of a chunk that cannot be read."""
    return EarthSSLError(f"{path}: expected a chunk of the store, but {why}; restore the store and resume the run")


def open_chunk(store: Store, number: int) -> Chunk:
    """Return a chunk, mapped for reads here and there.

    Raises:
        EarthSSLError: If it is missing or too short.
    """
    path = chunk_file(store.path, number)
    shape = (store.chunk_steps, *store.shape[1:])
    size = shape[0] * store.step_bytes
    try:
        handle = store.open_chunk(number)
    except OSError as error:
        raise gone(path, error.strerror) from None
    try:
        found = os.fstat(handle).st_size
        if found != size:
            raise gone(path, f"it has {found} bytes instead of {size}")
        # Private, never written to: torch wants memory that could be.
        mapped = mmap.mmap(handle, size, access=mmap.ACCESS_COPY)
    except BaseException:
        os.close(handle)
        raise
    mapped.madvise(mmap.MADV_RANDOM)  # or a page that is not there yet brings many that nobody asked for
    steps = torch.from_numpy(np.frombuffer(mapped, store.dtype).reshape(shape))
    return Chunk(path, handle, mapped, steps)
