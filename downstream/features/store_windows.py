"""Windows of a store by the step they end at, in batches for a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...ssl.fields.batch import Batch, from_fields
from ...ssl.store.store import Store


class StoreWindows:
    """Windows that end at given steps of a store, whose fields are held in memory."""

    def __init__(self, store: Store, window: int) -> None:
        self.store, self.window = store, window
        self.fields = torch.from_numpy(store.read(np.arange(len(store.times))))
        self.times = torch.from_numpy(store.times.astype(np.int64))

    def batch(self, last: np.ndarray) -> Batch:
        """Return the windows whose last steps are given."""
        steps = torch.from_numpy(last)[:, None] + torch.arange(-self.window + 1, 1)
        keys = torch.zeros(len(last), dtype=torch.int64)
        known = torch.from_numpy(self.store.statistics.known)
        return from_fields(self.fields[steps], self.times[steps], keys, known, self.store.variables, self.store.grid)

    def outputs(self, network: nn.Module, last: np.ndarray) -> np.ndarray:
        """Return what a network in evaluation mode says of the windows whose last steps are given, (window, …)."""
        network.eval()
        with torch.no_grad():
            parts = np.array_split(last, max(1, len(last) // 128))
            return np.concatenate([network(self.batch(part)).numpy() for part in parts])
