"""Fields of a part of a store, held in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ..store.encoding import MISSING, STEP
from ..store.store import Store
from .reading import Block, Fields, Mask


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
