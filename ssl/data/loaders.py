"""Windows of a store as batches, from memory or from its files, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..common.errors import EarthSSLError
from ..common.randomness import permutation
from ..fields.batch import Batch
from .epoch_order import shuffled
from .streaming import batches_ahead
from .windows import Windows

ORDERS = ("random", "season")


class Endless(ABC):
    """Batches without end; batch k is a function of (seed, k), so a run resumes by asking for batch k.

    When batch k is asked for, the reading of the next ones has begun.

    Attributes:
        depth: How many of them are read ahead, see `streaming.batches_ahead`.
        first: Asked when iteration starts: the number of batches already trained on.
        threaded: Whether a thread makes the next batch while this one is trained on.
        waited_s: Seconds that batches were waited for.
    """

    def __init__(self, first: Callable[[], int], threaded: bool) -> None:
        self.first, self.threaded = first, threaded
        self.waited_s = 0.0
        self.depth = 1

    @abstractmethod
    def get(self, number: int) -> Batch:
        """Return this rank's slice of the run's batch of that number."""

    @abstractmethod
    def ahead(self, number: int) -> None:
        """Begin to read this rank's slice of a batch, without waiting for it."""

    def __iter__(self) -> Iterator[Batch]:
        number = self.first()
        for k in range(self.depth):
            self.ahead(number + k)
        if self.threaded:
            yield from self._threaded(number)
        while True:
            begun = time.perf_counter()
            batch = self._fetch(number)
            self.waited_s += time.perf_counter() - begun
            yield batch
            number += 1

    def _threaded(self, number: int) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, "batches") as thread:
            coming = thread.submit(self._fetch, number)
            while True:
                begun = time.perf_counter()
                batch = coming.result()
                number += 1
                coming = thread.submit(self._fetch, number)
                self.waited_s += time.perf_counter() - begun
                yield batch

    def _fetch(self, number: int) -> Batch:
        self.ahead(number + self.depth)
        return self.get(number)


class TrainLoader(Endless):
    """The batches of one data set.

    Every epoch is a new order of the windows (see `shuffle`); the windows that do not fill a batch wait for
    another epoch's. With several ranks each takes, and reads, its own slice of the same global batch.
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
        threaded: bool = False,
    ) -> None:
        """Prepare the batches.

        Args:
            windows: The training windows.
            batch_size: Windows a batch and rank.
            seed: Root of the order.
            first: Asked when iteration starts: the number of batches already trained on.
            rank: This process.
            ranks: Number of processes.
            grouping: "random", or "season": every batch holds windows that end in one calendar month; these are
                taken from the whole record, so that blocks of a store larger than memory are read more than once.
            threaded: Whether a thread makes the next batch while this one is trained on: worth it where the
                training runs on an accelerator. The batches are the same.

        Raises:
            EarthSSLError: If there are fewer windows (of every calendar month) than one batch takes.
        """
        if batch_size < 1 or len(windows) < batch_size * ranks:
            raise EarthSSLError(
                f"batch_size: expected 1 to {len(windows) // ranks} (the training block holds {len(windows)} "
                f"windows for {ranks} process(es)), got {batch_size}"
            )
        super().__init__(first, threaded)
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
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
        self._orders: dict[int, Tensor] = {}
        self.depth = batches_ahead(batch_size * windows.length * windows.step_bytes)

    def ahead(self, number: int) -> None:
        """Begin to read this rank's slice of a batch, without waiting for it."""
        self.windows.ahead(self._chosen(number)[0])

    def get(self, number: int) -> Batch:
        """Return this rank's slice of the run's batch of that number."""
        chosen, epoch = self._chosen(number)
        return self.windows.batch(chosen, epoch, number)

    def _chosen(self, number: int) -> tuple[Tensor, int]:
        """Return the indices of this rank's windows in the batch of that number, and its epoch."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch not in self._orders:  # sorted once an epoch, not once a batch; this one, and that read ahead
            self._orders = {k: order for k, order in self._orders.items() if k == epoch - 1}
            self._orders[epoch] = self._arranged(epoch)
        start = (position * self.ranks + self.rank) * self.batch_size
        return self._orders[epoch][start : start + self.batch_size], epoch

    def _arranged(self, epoch: int) -> Tensor:
        """Return the order of the windows in an epoch: whole global batches one after another."""
        order = shuffled(self.seed, epoch, len(self.windows), self.windows.step_bytes)
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
        sizes = [len(chosen) * self.windows.length * self.windows.step_bytes for chosen in self.batches[:1]]
        ahead = batches_ahead(*sizes)
        for later in self.batches[1:ahead]:
            self.windows.ahead(later)
        for number, chosen in enumerate(self.batches):
            for later in self.batches[number + ahead : number + ahead + 1]:
                self.windows.ahead(later)
            yield self.windows.batch(chosen, epoch=0, number=number)
