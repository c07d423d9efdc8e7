"""Windows of a store by the step they end at, in batches for a network, and the one loop over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.common.progress import track
from ...ssl.data.loading import Loading
from ...ssl.data.streaming import Streaming
from ...ssl.fields.batch import Batch, from_fields
from ...ssl.fields.splits import unbroken_starts
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, patchify
from ...ssl.store.store import Store

PIECE = 256  # steps read at once where all are gone through


class StoreWindows:
    """Windows that end at given steps of a store: of fields held in memory where they fit, else read as asked.

    Attributes:
        store: Says when and where the fields are.
        window: Steps.
        times: Seconds since 1970, (time,).
        streams: Whether the fields are read from the store's files window by window: they do not fit into half of the
            free memory. The numbers are the same.
    """

    def __init__(
        self, store: Store, window: int, fields: np.ndarray | None = None, loading: Loading | None = None
    ) -> None:
        """Hold the fields of a store in memory where they fit, or others at its steps.

        Args:
            store: Any.
            window: Steps.
            fields: Others, (time, variable, row, column), NaN where missing.
            loading: Whether fields are held; by default where they fit.
        """
        self.store, self.window = store, window
        self.times = torch.from_numpy(store.times.astype(np.int64))
        size = int(np.prod(store.shape)) * np.dtype(np.float32).itemsize
        self.streams = fields is None and not (loading or Loading()).keeps(size)
        self._stored = Streaming(store, 0, len(store.times)) if self.streams else None
        self._held = None if self.streams else torch.from_numpy(store.read_all() if fields is None else fields)

    @property
    def fields(self) -> Tensor:
        """Normalised, of all steps, (time, variable, row, column); read whole where they are not held."""
        return torch.from_numpy(self.store.read_all()) if self._held is None else self._held

    def pieces(self, steps: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield some steps at a time and their fields, (step, variable, row, column), NaN where missing.

        Args:
            steps: Those wanted; None: all.
        """
        steps = np.arange(len(self.times)) if steps is None else steps
        for part in np.array_split(steps, -(-len(steps) // PIECE) or 1):
            yield part, self.store.read(part) if self._held is None else self._held[torch.from_numpy(part)].numpy()

    def batch(self, last: np.ndarray) -> Batch:
        """Return the windows whose last steps are given."""
        steps = torch.from_numpy(last)[:, None] + torch.arange(-self.window + 1, 1)
        keys = torch.zeros(len(last), dtype=torch.int64)
        known = torch.from_numpy(self.store.statistics.known)
        times, variables, grid = self.times[steps], self.store.variables, self.store.grid
        if self._held is not None:
            return from_fields(self._held[steps], times, keys, known, variables, grid)
        assert self._stored is not None
        values, valid = self._stored.windows(np.asarray(last) - self.window + 1, self.window)
        return Batch(values, valid, times, keys, known, variables, grid)

    def ends(self) -> np.ndarray:
        """Return the last steps of all windows of unbroken steps, ascending."""
        starts = unbroken_starts(self.store.times.astype("datetime64[ns]"), self.window)
        return np.asarray(starts + self.window - 1)

    def patches(self, last: np.ndarray, patch: tuple[int, int, int], batch_size: int, label: str) -> Iterator[Patches]:
        """Yield the patches of the windows whose last steps are given, some at a time, with a progress bar."""
        for begin in track(range(0, len(last), batch_size), label):
            yield patchify(self.batch(last[begin : begin + batch_size]), patch)

    def outputs(self, network: nn.Module, last: np.ndarray) -> np.ndarray:
        """Return what a network in evaluation mode says of the windows whose last steps are given, (window, …)."""
        network.eval()
        with torch.no_grad():
            parts = np.array_split(last, max(1, len(last) // 128))
            return np.concatenate([network(self.batch(part)).numpy() for part in parts])


def encoded(encoder: Encoder, batches: Iterable[Patches]) -> Iterator[tuple[Patches, list[Tensor]]]:
    """Yield each batch with the outputs of every block, (window, token, feature), without gradients.

    Args:
        encoder: Frozen; put in evaluation mode here.
        batches: Patches of some windows at a time, as from `StoreWindows.patches`.
    """
    encoder.eval()
    for patches in batches:
        with torch.no_grad():
            every = encoder.layers(patches)
        yield patches, every
