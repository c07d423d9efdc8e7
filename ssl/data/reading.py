"""How the fields of windows are read: from memory (resident.py) or from the files of the store (streaming.py).

Both give the same numbers bit for bit. Windows on the processor are widened into buffers that are used again and
again: a fresh tensor a batch costs more than the copy itself.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ..store.encoding import widen, widen_known
from ..store.store import Store

IDLE = 3  # buffers kept although nobody uses them: a batch in work, one fetched ahead, one being filled


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
