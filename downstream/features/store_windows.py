"""Windows of a store by the step they end at, in batches for a network, and the one loop over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.common.progress import track
from ...ssl.fields.batch import Batch, from_fields
from ...ssl.fields.splits import unbroken_starts
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import Patches, patchify
from ...ssl.store.store import Store


class StoreWindows:
    """Windows that end at given steps of a store, whose fields are held in memory.

    Attributes:
        store: Says when and where the fields are.
        window: Steps.
        fields: Normalised, of all steps, (time, variable, row, column).
        times: Seconds since 1970, (time,).
    """

    def __init__(self, store: Store, window: int, fields: np.ndarray | None = None) -> None:
        """Hold the fields of a store in memory, or others at its steps."""
        self.store, self.window = store, window
        self.fields = torch.from_numpy(store.read_all() if fields is None else fields)
        self.times = torch.from_numpy(store.times.astype(np.int64))

    def batch(self, last: np.ndarray) -> Batch:
        """Return the windows whose last steps are given."""
        steps = torch.from_numpy(last)[:, None] + torch.arange(-self.window + 1, 1)
        keys = torch.zeros(len(last), dtype=torch.int64)
        known = torch.from_numpy(self.store.statistics.known)
        return from_fields(self.fields[steps], self.times[steps], keys, known, self.store.variables, self.store.grid)

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
