"""How much memory and disk `prepare` takes: arithmetic before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..common.errors import EarthSSLError
from ..common.files import MIB
from ..fields.normalisation import Calendar
from ..store.chunks import Template
from .fit_statistics import sums_bytes
from .moments import UNIT

# Copies of one piece of one variable (float32) while it is read, converted, masked, compared with its climatology:
# about eight were seen (benchmarks/prepare.py), and memory given back late asks for a margin.
COPIES = 10
SMALLER_STORE = "choose another --out, fewer variables or times, or dtype float16"  # where the disk is full


@dataclass(frozen=True)
class MemoryPlan:
    """What runs at once.

    Attributes:
        fits, writes: Tasks under way at once while statistics are fitted, and while chunks are written.
        bands: Bands that cells are cut into while statistics are fitted: passes over each variable.
        chunks_together: Chunks that one task writes, because the source holds their steps together.
        needed_mb: Most memory of a process by this plan, MiB.
        words: The arithmetic.
    """

    fits: int
    writes: int
    bands: int
    chunks_together: int
    needed_mb: float
    words: str


def plan(
    template: Template,
    calendar: Calendar,
    piece: int,
    source_steps: int,
    workers: tuple[int, int],
    memory_mb: float,
    held_mb: float,
) -> MemoryPlan:
    """Return what can run at once within the memory.

    Args:
        template: What the store will hold.
        calendar: Of its climatology.
        piece: Steps of one variable read at once.
        source_steps: Steps that the source reads together.
        workers: Tasks that can run at once, and those of them that share one process.
        memory_mb: Memory that a process may take, MiB.
        held_mb: What this one holds before it begins, MiB.

    Raises:
        EarthSSLError: If not even one task fits; with the arithmetic.
    """
    count, share = workers
    cells = int(np.prod(template.grid.shape))
    field_mb = 4 * cells / MIB
    climate_mb = field_mb * len(template.variables) * (len(calendar.keys) * calendar.size + 1)
    together = max(1, source_steps // template.chunk_steps)
    steps = min(together * template.chunk_steps, len(template.times))
    piece = min(piece, len(template.times))
    read_mb = COPIES * piece * field_mb
    write_read_mb = COPIES * min(piece, max(steps, source_steps)) * field_mb
    write_mb = steps * template.chunk_bytes / template.chunk_steps / MIB + write_read_mb
    sums_mb = sums_bytes(calendar, cells) / MIB
    left_mb = memory_mb - held_mb - climate_mb
    most = -(-cells // UNIT)
    bands = next((n for n in range(1, most + 1) if 2 * sums_mb / n + read_mb <= left_mb), 0)
    words = (
        f"{held_mb:.0f} held + {climate_mb:.0f} statistics ({len(calendar.keys)} × {calendar.size} climatologies and "
        f"the scale of {len(template.variables)} variables on {cells} cells, float32) + the larger of {write_mb:.0f} "
        f"a task that writes {steps} steps ({write_read_mb:.0f} of it to read a variable) and "
        f"{2 * sums_mb / max(1, bands or most) + read_mb:.0f} a task that sums, {piece} steps at once"
    )
    if not bands or write_mb > left_mb:
        needed = held_mb + climate_mb + max(write_mb, 2 * sums_mb / most + read_mb)
        raise EarthSSLError(
            f"prepare.memory_mb: expected at least {needed:.0f} MiB, got {memory_mb:.0f}: {words}; raise it, lower "
            "chunk_mb, take fewer variables or a source in smaller chunks"
        )
    own_mb = sums_mb / bands
    fits = _at_once((left_mb - own_mb) / (own_mb + read_mb), count, share)
    writes = _at_once(left_mb / write_mb, count, share)
    needed_mb = (
        held_mb + climate_mb + max(own_mb + min(fits, share) * (own_mb + read_mb), min(writes, share) * write_mb)
    )
    return MemoryPlan(fits, writes, bands, together, needed_mb, words)


def _at_once(fit: float, count: int, share: int) -> int:
    """Return the tasks under way: all the workers can take, or as many as fit should one process get them all."""
    return count if fit >= share else max(1, int(fit))


def largest_chunk(step_bytes: int, memory_mb: float) -> int:
    """Return the most steps in a chunk: it may take a quarter of the memory."""
    return max(1, int(memory_mb / 4 * MIB // step_bytes))


def store_bytes(template: Template, calendar: Calendar) -> int:
    """Return the size of a finished store: chunks, statistics and axes."""
    cells = int(np.prod(template.grid.shape))
    climate = 4 * cells * len(template.variables) * (len(calendar.keys) * calendar.size + 1)
    text = 80 * len(template.chunks()) + 16384  # the manifest
    return len(template.chunks()) * template.chunk_bytes + climate + 8 * sum(template.shape) + text
