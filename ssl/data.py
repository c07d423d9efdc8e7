"""Windows of a store as batches: held in memory, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .batch import Batch, from_fields
from .errors import EarthSSLError
from .randomness import fold, key, permutation
from .splits import window_starts
from .store import Store

ORDERS = ("random", "season")


class Windows:
    """All windows of one part of a store; the fields of the whole part stay in memory.

    Attributes:
        starts: Index of each window's first step in the store, (windows,).
        last_times: Time of each window's last step, datetime64[s].
    """

    def __init__(self, store: Store, part: str, length: int, seed: int) -> None:
        """Load a part.

        Args:
            store: A finished store.
            part: train, val, test or fit.
            length: Steps in a window.
            seed: Root of the samples' random keys.
        """
        self.starts = window_starts(store.times.astype("datetime64[ns]"), store.splits, part, length)
        self.length = length
        self.last_times = store.times[self.starts + length - 1]
        first, last = int(self.starts[0]), int(self.starts[-1]) + length
        self._first = first
        self._fields = torch.from_numpy(store.read(np.arange(first, last)))
        self._times = torch.from_numpy(store.times[first:last].astype(np.int64))
        self._known = torch.from_numpy(store.statistics.known)
        self._store = store
        self._seed = seed
        self.part = part

    def __len__(self) -> int:
        return len(self.starts)

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
        held = (starts >= self._first) & (starts + length <= self._first + len(self._fields))
        other.starts, other.length = starts[held], length
        other.last_times = self._store.times[other.starts + length - 1]
        return other

    def batch(
        self, indices: Int[Tensor, " batch"] | np.ndarray | Sequence[int], epoch: int = 0, number: int = 0
    ) -> Batch:
        """Return the windows at the indices; their random keys depend on (seed, part, epoch, index)."""
        chosen = torch.as_tensor(indices)
        first = torch.from_numpy(self.starts)[chosen] - self._first
        steps = first[:, None] + torch.arange(self.length)
        keys = fold(torch.full_like(chosen, key(self._seed, self.part, epoch)), chosen)
        return from_fields(
            self._fields[steps],
            self._times[steps],
            keys,
            self._known,
            self._store.variables,
            self._store.grid,
            key(self._seed, f"batch of {self.part}", number),
        )


class TrainLoader:
    """Endless batches; batch k is a function of (seed, k), so a run resumes by asking for batch k.

    Every epoch is a new permutation of the windows; the windows that do not fill a batch wait for another
    epoch's order. With several ranks each takes its own slice of the same global batch.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        seed: int,
        first: Callable[[], int] = lambda: 0,
        rank: int = 0,
        ranks: int = 1,
        grouping: str = "random",
    ) -> None:
        """Prepare the batches.

        Args:
            windows: The training windows.
            batch_size: Windows a batch and rank.
            seed: Root of the order.
            first: Asked when iteration starts: the number of batches already trained on.
            rank: This process.
            ranks: Number of processes.
            grouping: "random", or "season": every batch holds windows that end in one calendar month.

        Raises:
            EarthSSLError: If there are fewer windows (of every calendar month) than one batch takes.
        """
        if batch_size < 1 or len(windows) < batch_size * ranks:
            raise EarthSSLError(
                f"batch_size: expected 1 to {len(windows) // ranks} (the training block holds {len(windows)} "
                f"windows for {ranks} process(es)), got {batch_size}"
            )
        self.windows, self.batch_size, self.seed, self.first = windows, batch_size, seed, first
        self.rank, self.ranks = rank, ranks
        self._groups: np.ndarray | None = None
        self.batches_per_epoch = len(windows) // (batch_size * ranks)
        if grouping == "season":
            self._groups = windows.last_times.astype("datetime64[M]").astype(np.int64) % 12
            sizes = np.bincount(self._groups, minlength=12)
            self.batches_per_epoch = int((sizes // (batch_size * ranks)).sum())
            if not self.batches_per_epoch:
                raise EarthSSLError(
                    f"batch_size: expected 1 to {sizes.max() // ranks} with training.batches season (the fullest "
                    f"calendar month holds {sizes.max()} windows for {ranks} process(es)), got {batch_size}"
                )
        self.waited_s = 0.0
        self._order: tuple[int, Tensor] | None = None

    def __iter__(self) -> Iterator[Batch]:
        number = self.first()
        while True:
            begun = time.perf_counter()
            batch = self.get(number)
            self.waited_s += time.perf_counter() - begun
            yield batch
            number += 1

    def get(self, number: int) -> Batch:
        """Return this rank's slice of the run's batch of that number."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if self._order is None or self._order[0] != epoch:  # sorted once an epoch, not once a batch
            self._order = epoch, self._arranged(epoch)
        order = self._order[1]
        start = (position * self.ranks + self.rank) * self.batch_size
        return self.windows.batch(order[start : start + self.batch_size], epoch, number)

    def _arranged(self, epoch: int) -> Tensor:
        """Return the order of the windows in an epoch: whole global batches one after another."""
        order = permutation(self.seed, "order", epoch, len(self.windows))
        if self._groups is None:
            return order
        size = self.batch_size * self.ranks
        groups = torch.from_numpy(self._groups)[order]
        whole = [order[groups == month] for month in range(12)]
        batches = torch.cat([part[: len(part) // size * size].reshape(-1, size) for part in whole])
        return batches[permutation(self.seed, "order of batches", epoch, len(batches))].flatten()


class EvalLoader:
    """Every window once, with the same random keys each time.

    In order; by calendar month, then in order, with "season"; with "spread" every batch takes windows far apart, for
    tasks that tell the windows of a batch from one another.
    """

    def __init__(
        self, windows: Windows, batch_size: int, rank: int = 0, ranks: int = 1, grouping: str = "random"
    ) -> None:
        self.windows = windows
        order = torch.arange(len(windows))
        if grouping == "season":
            order = order[
                torch.from_numpy(windows.last_times.astype("datetime64[M]").astype(int) % 12).argsort(stable=True)
            ]
        mine = order[rank::ranks]
        count = -(-len(mine) // batch_size)
        spread = grouping == "spread"
        self.batches = [mine[k::count] for k in range(count)] if spread else list(mine.split(batch_size))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for number, chosen in enumerate(self.batches):
            yield self.windows.batch(chosen, epoch=0, number=number)
