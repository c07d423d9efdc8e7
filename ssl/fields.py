"""Where the fields of windows come from: memory (RAM or an accelerator), or the files of the store as they are asked.

Both give the same numbers bit for bit. Windows on the processor are widened into buffers that are used again and
again: a fresh tensor a batch costs more than the copy itself.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .ahead import Ahead
from .encoding import MISSING, STEP, widen, widen_known
from .errors import EarthSSLError
from .layout import chunk_file
from .memory import Meter
from .mirror import FETCHES, ChunkCache, used
from .shuffle import mixed_bytes
from .store import MAPS, Store

MODES = ("auto", "resident", "streaming")
DEVICES = ("auto", "cpu", "accelerator")
RAM_SHARE = 0.5  # of the free memory, for all parts that one process holds; the rest is for the training
DEVICE_SHARE = 0.25  # of an accelerator's free memory, asked before the network is on it
AHEAD_BYTES = 512 * 2**20  # stored, of the batches that are read ahead; one is in any case
AHEAD_BATCHES = 8
ADVICE_BYTES = 128 * 2**10  # the kernel reads no more of an advised range than its device's largest request
IDLE = 3  # buffers kept although nobody uses them: a batch in work, one fetched ahead, one being filled

PROCESSOR = torch.device("cpu")

Block = Float[Tensor, "window time variable row column"]
Mask = Bool[Tensor, "window time variable row column"]


class Ring:
    """Buffers for batches, each used again once nothing refers to its memory any more.

    A batch, a view of it, a NumPy array made of it or a graph that saved it for the backward pass all keep the
    buffer: it is never overwritten while in use, and if all are in use another is made.
    """

    def __init__(self) -> None:
        self._slots: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()  # a probe may embed windows while a thread makes the next batch

    def take(self, shape: tuple[int, ...], dtype: type) -> Tensor:
        """Return a tensor of the shape and dtype, its content undefined, in memory that nobody else uses."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._lock:
            idle = [k for k, (_, user) in enumerate(self._slots) if user() is None]
            fitting = [k for k in idle if size <= self._slots[k][0].nbytes <= 2 * size]
            if fitting:
                memory, _ = self._slots.pop(min(fitting, key=lambda k: self._slots[k][0].nbytes))
            else:
                for k in reversed(idle[: max(0, len(idle) - 2 * IDLE + 1)]):  # unused for longest; values and masks
                    del self._slots[k]
                memory = np.empty(size, np.uint8)
            # torch keeps this array alive as long as anything shares the tensor's storage
            view: np.ndarray = memory[:size].view(dtype).reshape(shape)
            self._slots.append((memory, weakref.ref(view)))
        return torch.from_numpy(view)

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return sum(memory.nbytes for memory, _ in self._slots)


@dataclass(frozen=True)
class VariableRun:
    """Neighbouring variables that are read in one way.

    Attributes:
        variables: Their positions.
        steady: Whether the known cells are valid in every step, and no others.
        mask: int16, of these variables: -1 where known, 0 where not; None where every cell is.
    """

    variables: slice
    steady: bool
    mask: Tensor | None


def runs_of(store: Store) -> list[VariableRun]:
    """Return all variables of a store in runs of neighbours that are read in one way."""
    kinds = [(bool(steady), bool(known.all())) for steady, known in zip(store.steady, store.known, strict=True)]
    found: list[VariableRun] = []
    for (steady, whole), members in groupby(range(len(kinds)), kinds.__getitem__):
        positions = list(members)
        inside = slice(positions[0], positions[-1] + 1)
        mask = torch.from_numpy(-store.known[inside].astype(np.int16)) if steady and not whole else None
        found.append(VariableRun(inside, steady, mask))
    return found


class Fields(ABC):
    """The stored steps [first, last) of a store.

    Attributes:
        first, last: The steps.
        device: Where the windows arrive.
        pinned: Whether they arrive in memory that an accelerator can copy from while the processor goes on.
    """

    def __init__(self, store: Store, first: int, last: int, device: torch.device) -> None:
        self.store, self.first, self.last, self.device = store, first, last, device
        self.pinned = False
        self._ring = Ring()
        self._runs = runs_of(store)
        self._known = torch.from_numpy(store.known).to(device)
        self._constant = torch.empty(0, dtype=torch.bool)

    def windows(self, starts: Int[np.ndarray, " window"], length: int) -> tuple[Block, Mask]:
        """Return windows that begin at the steps of the store: values (0 where missing) and where they are valid.

        Raises:
            EarthSSLError: If a chunk of the store is gone or was cut short.
        """
        shape = (len(starts), length, *self.store.shape[1:])
        if self.pinned:  # torch keeps these for re-use itself, and knows when a copy to the accelerator has ended
            values = torch.empty(shape, dtype=torch.float32, pin_memory=True)
        else:
            values = self._ring.take(shape, np.float32)
        constant = all(run.steady for run in self._runs)
        valid = self._same_validity(shape) if constant else self._empty_mask(shape)
        for k, start in enumerate(starts.tolist()):
            done = 0
            for piece in self._pieces(start, start + length):
                for step in piece:
                    for run in self._runs:
                        out = values[k, done, run.variables]
                        if run.steady:
                            widen_known(step[run.variables], out, run.mask)
                        else:
                            widen(step[run.variables], out, valid[k, done, run.variables])
                        if run.steady and not constant:
                            valid[k, done, run.variables] = self._known[run.variables]
                    done += 1
        return values, valid

    def _empty_mask(self, shape: tuple[int, ...]) -> Mask:
        if self.pinned:
            return torch.empty(shape, dtype=torch.bool, pin_memory=True)
        return self._ring.take(shape, np.bool_)

    def _same_validity(self, shape: tuple[int, ...]) -> Mask:
        """Return the known cells in the shape of a batch: one map shown many times, which no one can write to.

        For an accelerator it is laid out once, because only then is it copied while the processor goes on.
        """
        if not self.pinned:
            return self._known.expand(shape)
        if self._constant.shape != shape:
            self._constant = self._known.expand(shape).contiguous().pin_memory()
        return self._constant

    @abstractmethod
    def _pieces(self, first: int, last: int) -> Iterator[Shaped[Tensor, "step variable row column"]]:
        """Yield the stored steps [first, last), one piece a chunk."""

    @abstractmethod
    def ahead(self, starts: Int[np.ndarray, " window"], length: int) -> None:
        """Begin to read the windows, without waiting for them."""

    @property
    def nbytes(self) -> int:
        """Memory that this object holds, bytes; maps of files do not count, the kernel takes them back."""
        return self._ring.nbytes


class Resident(Fields):
    """All steps in memory as they are stored: 16 bits stay 16 bits until a batch is made."""

    def __init__(self, store: Store, first: int, last: int, device: torch.device | str = "cpu") -> None:
        super().__init__(store, first, last, torch.device(device))
        shown = store.shown(first, last)
        if shown is not None:
            self._held = torch.from_numpy(shown)
            return
        held = torch.empty((last - first, *store.shape[1:]), dtype=getattr(torch, store.dtype), device=self.device)
        for a, b, stored in store.pieces(first, last):
            held[a - first : b - first].copy_(torch.from_numpy(stored))
        self._held = held

    def windows(self, starts: Int[np.ndarray, " window"], length: int) -> tuple[Block, Mask]:
        """Return the windows, gathered and widened on the device."""
        if self.device.type == "cpu":
            return super().windows(starts, length)
        return self.gathered(starts, length)

    def gathered(self, starts: Int[np.ndarray, " window"], length: int) -> tuple[Block, Mask]:
        """Return the windows by one indexing operation, without waiting for the device."""
        first = torch.from_numpy(starts - self.first).to(self.device, non_blocking=True)
        stored = self._held[first[:, None] + torch.arange(length, device=self.device)]
        if all(run.steady and run.mask is None for run in self._runs):
            return stored.float() * (STEP if stored.dtype == torch.int16 else 1), self._known.expand(stored.shape)
        if stored.dtype == torch.int16:
            valid = stored != MISSING
            return (stored * STEP) * valid, valid
        valid = torch.isfinite(stored)
        return torch.where(valid, stored, torch.zeros((), dtype=stored.dtype, device=self.device)).float(), valid

    def ahead(self, starts: Int[np.ndarray, " window"], length: int) -> None:
        """Do nothing: they are here."""

    def _pieces(self, first: int, last: int) -> Iterator[Shaped[Tensor, "step variable row column"]]:
        yield self._held[first - self.first : last - self.first]

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return super().nbytes + self._held.numel() * self._held.element_size()


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


def free_bytes(device: torch.device) -> int:
    """Return what may be taken on a device; half of all RAM where the system does not say what is free."""
    free = Meter(device).free()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if free is None else free


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


@dataclass(frozen=True)
class Loading:
    """How the fields of a part are held.

    Attributes:
        mode: "resident" (in memory), "streaming" (read as asked) or "auto" (resident where it fits).
        device: "cpu", "accelerator", or "auto": on the accelerator where it fits.
        accelerator: The training's device.
        processes: Processes that share this machine's memory.
    """

    mode: str = "auto"
    device: str = "cpu"
    accelerator: torch.device = PROCESSOR
    processes: int = 1

    @classmethod
    def of(cls, mode: str, device: str, accelerator: str, processes: int) -> Loading:
        """Return the loading of a training.

        Args:
            mode: As above.
            device: As above.
            accelerator: Lightning's word: auto, cpu, gpu.
            processes: Processes on this machine, unless the launcher says how many in LOCAL_WORLD_SIZE.
        """
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        found = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if found else "cpu"
        return cls(mode, device, torch.device(name), processes)

    def open(self, store: Store, first: int, last: int) -> Fields:
        """Return the fields of the steps [first, last).

        Raises:
            EarthSSLError: If they are to be resident but do not fit.
        """
        opened = self._open(store, first, last)
        opened.pinned = self.accelerator.type == "cuda" and opened.device.type == "cpu"
        return opened

    def keeps(self, size: int) -> bool:
        """Whether fields of so many bytes would be kept in RAM, where no accelerator takes them."""
        return self.mode != "streaming" and size <= self._room()

    def _room(self) -> int:
        return int(RAM_SHARE * free_bytes(PROCESSOR) / self.processes)

    def _open(self, store: Store, first: int, last: int) -> Fields:
        if store.shown(first, last) is not None:
            return Resident(store, first, last)
        size = (last - first) * store.step_bytes
        if self.mode == "streaming":
            return Streaming(store, first, last)
        if self.device != "cpu" and self.accelerator.type != "cpu":
            room = int(DEVICE_SHARE * free_bytes(self.accelerator))
            if size <= room:
                return Resident(store, first, last, self.accelerator)
            if self.device == "accelerator" and self.mode == "resident":
                raise _too_large(store, size, room, f"a quarter of what is free on {self.accelerator}")
        room = self._room()
        if size <= room:
            return Resident(store, first, last)
        if self.mode == "resident":
            raise _too_large(store, size, room, f"half of the free memory, for each of {self.processes} process(es)")
        return Streaming(store, first, last)


def _too_large(store: Store, size: int, room: int, what: str) -> EarthSSLError:
    return EarthSSLError(
        f"training.data resident: {store.path} needs {size / 2**30:.2f} GiB, but there are {room / 2**30:.2f} GiB "
        f"({what}); take auto or streaming"
    )
