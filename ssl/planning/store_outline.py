"""A sketch of a training store: its shape, its times and one field, so that steps can be rehearsed without data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..common.errors import EarthSSLError
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Calendar, Statistics
from ..fields.splits import Splits
from ..prepare.config import PrepareConfig
from ..prepare.prepare import template_of
from ..prepare.tasks import read_variable
from ..sources import open_source
from ..store.chunks import Template
from ..store.store import Store

LOOKS = 3  # training steps looked at to learn where there never is a value
AXIS_BYTES = 8
METADATA_BYTES = 2**14  # of Zarr and the manifest, besides the 67 bytes of a chunk's hash in it
HASH_BYTES = 70


@dataclass(frozen=True)
class Sketch(Store):
    """A store of one field for all times, without a folder: what `Windows` needs.

    Attributes:
        variables, grid, times, splits, statistics: As of a store; the statistics know only where values are.
        template: What the store holds, or would hold.
        field: Normalised values of one step, NaN where missing, float32 (variable, row, column).
        statistics_bytes: Size of the real statistics.
        disk_bytes: Size of the store on disk: as it is, or as `prepare` would write it.
        source: Where the shape came from.
        finished: Whether there is such a store already.
    """

    variables: tuple[str, ...]
    grid: LatLonGrid
    times: np.ndarray
    splits: Splits
    statistics: Statistics
    template: Template
    field: np.ndarray
    statistics_bytes: int
    disk_bytes: int
    source: str
    finished: bool = False

    def shown(self, first: int, last: int) -> np.ndarray:
        """Return the field at every step as a view that takes no memory, (steps, variable, row, column)."""
        return np.lib.stride_tricks.as_strided(
            self.field, (last - first, *self.field.shape), (0, *self.field.strides), writeable=True
        )

    @cached_property
    def steady(self) -> np.ndarray:
        """Of each variable, whether the field has a value in every known cell: it stands for all steps."""
        return np.asarray((np.isfinite(self.field) == self.known).all((1, 2)))

    @property
    def step_bytes(self) -> int:
        """Size of one step's fields as stored, in files or in memory."""
        return int(np.prod(self.field.shape)) * np.dtype(self.template.dtype).itemsize


def _known_only(known: np.ndarray) -> Statistics:
    coefficients = np.where(known, np.float32(0), np.float32(np.nan))[None, None]
    return Statistics("month", (1,), 0, coefficients, np.ones(known.shape, np.float32))


def _inside(times: np.ndarray, splits: Splits) -> np.ndarray:
    """Return the positions of the training times."""
    found = np.flatnonzero(splits.inside(times.astype("datetime64[ns]"), "train"))
    if not len(found):
        raise EarthSSLError(
            f"splits.train: expected times of the data in it, got none (data: {times[0]} … {times[-1]}); move the block"
        )
    return found


def sketch_store(path: str | Path) -> Sketch:
    """Return the sketch of a finished store; one field of it is read.

    Raises:
        EarthSSLError: If there is no such store.
    """
    store = Store(path)
    template = Template(
        store.variables, store.grid, store.times, store.splits, store.manifest["dtype"], store.manifest["chunk_steps"]
    )
    field = store.read(_inside(store.times, store.splits)[:1])[0]
    return Sketch(
        store.variables,
        store.grid,
        store.times,
        store.splits,
        _known_only(store.statistics.known),
        template,
        field,
        store.statistics.coefficients.nbytes + store.statistics.scale.nbytes,
        sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        str(store.path),
        True,
    )


def sketch_source(config: PrepareConfig) -> Sketch:
    """Return the sketch of the store that `prepare` would write: a few training steps are read, none is written.

    Where a cell has no value at any of these steps it counts as land; the field is noise elsewhere.

    Raises:
        EarthSSLError: If source and splits do not fit.
    """
    data = open_source(config.source, **config.options)
    template = template_of(data, config)
    inside = _inside(template.times, template.splits)
    looked = np.unique(np.linspace(0, len(inside) - 1, LOOKS).round().astype(np.int64))
    known = np.zeros(template.shape[1:], bool)
    for position in inside[looked]:
        read = (read_variable(data, name, int(position), int(position) + 1)[0] for name in template.variables)
        known |= np.isfinite(np.stack(list(read)))
    noise = np.random.default_rng(0).standard_normal(known.shape, np.float32)
    times = template.times.astype("datetime64[ns]")[inside]
    calendar = Calendar.chosen(times, config.statistics)
    rows = len(calendar.keys) * calendar.size + 1  # and the scale
    statistics_bytes = rows * int(np.prod(known.shape)) * 4
    chunks = len(template.chunks())
    axes = (len(template.times) + sum(template.grid.shape)) * AXIS_BYTES
    return Sketch(
        template.variables,
        template.grid,
        template.times,
        template.splits,
        _known_only(known),
        template,
        np.where(known, noise, np.float32(np.nan)),
        statistics_bytes,
        chunks * (template.chunk_bytes + HASH_BYTES) + statistics_bytes + axes + METADATA_BYTES,
        str(data.attrs.get("source", config.source)),
    )
