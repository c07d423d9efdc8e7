"""Windows of consecutive steps of a store: a data set of training samples."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..common.errors import EarthSSLError
from ..common.randomness import fold, key
from ..fields.batch import Batch
from ..fields.splits import window_starts
from ..store.store import Store
from .loading import Loading


class Windows:
    """All windows of one part of a store.

    Attributes:
        starts: Index of each window's first step in the store, (windows,).
        last_times: Time of each window's last step, datetime64[s].
        fields: What the windows are read from: memory or the files.
    """

    def __init__(self, store: Store, part: str, length: int, seed: int, loading: Loading | None = None) -> None:
        """Open a part.

        Args:
            store: A finished store.
            part: train, val, test or fit.
            length: Steps in a window.
            seed: Root of the samples' random keys.
            loading: How the fields are held: by default in RAM where they fit.
        """
        self.starts = window_starts(store.times.astype("datetime64[ns]"), store.splits, part, length)
        self.length = length
        self.last_times = store.times[self.starts + length - 1]
        self.fields = (loading or Loading()).open(store, int(self.starts[0]), int(self.starts[-1]) + length)
        self._times = torch.from_numpy(store.times.astype(np.int64))
        self._known = torch.from_numpy(store.statistics.known)
        self._store = store
        self._seed = seed
        self.part = part

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def step_bytes(self) -> int:
        """Stored size of a step."""
        return self._store.step_bytes

    def shortened(self, length: int) -> Windows:
        """Return all windows of fewer steps in the same fields, without reading them again.

        Raises:
            EarthSSLError: If `length` is above that of these windows.
        """
        if length > self.length:
            raise EarthSSLError(f"expected windows of at most {self.length} steps, got {length}")
        other = copy.copy(self)
        times = self._store.times.astype("datetime64[ns]")
        starts = window_starts(times, self._store.splits, self.part, length)
        held = (starts >= self.fields.first) & (starts + length <= self.fields.last)
        other.starts, other.length = starts[held], length
        other.last_times = self._store.times[other.starts + length - 1]
        return other

    def ahead(self, indices: Int[Tensor, " batch"] | np.ndarray | Sequence[int]) -> None:
        """Begin to read the windows at the indices, without waiting for them."""
        self.fields.ahead(self.starts[np.asarray(indices)], self.length)

    def batch(
        self, indices: Int[Tensor, " batch"] | np.ndarray | Sequence[int], epoch: int = 0, number: int = 0
    ) -> Batch:
        """Return the windows at the indices; their random keys depend on (seed, part, epoch, index).

        The batch lies where the fields are held: in RAM, or on the accelerator.
        """
        chosen = torch.as_tensor(indices)
        first = self.starts[chosen.numpy()]
        values, valid = self.fields.windows(first, self.length)
        steps = torch.from_numpy(first)[:, None] + torch.arange(self.length)
        keys = fold(torch.full_like(chosen, key(self._seed, self.part, epoch)), chosen)
        return Batch(
            values,
            valid,
            self._times[steps].to(self.fields.device, non_blocking=True),
            keys.to(self.fields.device, non_blocking=True),
            self._known,
            self._store.variables,
            self._store.grid,
            key(self._seed, f"batch of {self.part}", number),
        )
