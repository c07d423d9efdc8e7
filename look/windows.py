"""Windows of a store as an encoder of another store may read them."""

from __future__ import annotations

import numpy as np
import torch

from ..ssl.checkpoint.record import Record
from ..ssl.fields.batch import Batch, from_fields
from ..ssl.fields.month_stamps import stamped
from ..ssl.inference.frozen_encoder import known_to
from ..ssl.store.store import Store


def common(record: Record, store: Store) -> tuple[str, ...]:
    """Return the variables of the record that the store holds, in the record's order."""
    return tuple(name for name in record.variables if name in store.variables)


def window_batch(record: Record, store: Store, fields: np.ndarray, steps: np.ndarray, draw: int = 0) -> Batch:
    """Return windows of a store's fields as the encoder's own statistics normalise them.

    Args:
        record: Of the encoder's checkpoint.
        store: On the record's grid.
        fields: As `store.read` gives them for the steps, (window · step, variable, row, column).
        steps: Of each window, (window, step).
        draw: Key of whatever an objective draws.
    """
    names, times = common(record, store), store.times[steps.ravel()]
    positions = [store.variables.index(name) for name in names]
    own = fields[:, positions]
    if record.fingerprint != store.fingerprint:  # prepared anew: with other statistics
        raw = store.statistics.select(positions).denormalise(own, times)
        own = record.statistics.select([record.variables.index(name) for name in names]).normalise(raw, times)
    seconds = stamped(times.astype(np.int64), record.stamp_s).reshape(steps.shape)
    windows = torch.from_numpy(own.reshape(*steps.shape, *own.shape[1:]))
    keys, known = torch.full((len(steps),), draw, dtype=torch.int64), known_to(record, len(names))
    return from_fields(windows, torch.from_numpy(seconds), keys, known, names, record.grid)
