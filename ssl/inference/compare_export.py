"""Comparison of an exported encoder with the encoder itself: its dates at every date, its features at a hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.record import Record
from ..common.errors import EarthSSLError
from ..fields.month_stamps import stamped
from .frozen_encoder import FrozenEncoder
from .portable_calendar import PARTS
from .portable_encoder import example, near_climatology, times_from

Inputs = tuple[Tensor, ...]
Program = Callable[..., np.ndarray]
FIRST_YEAR, LAST_YEAR = 1800, 2200
PIECE_YEARS = 50  # dates held at once
WINDOWS, BATCH = 100, 10
# What may be missing of a window, one kind after the other.
GAPS = ("some cells", "nothing", "a variable", "a step", "a region", "all but a cell", "everything")


def all_dates(first: int = FIRST_YEAR, last: int = LAST_YEAR) -> Iterator[np.ndarray]:
    """Yield every hour of the years and the seconds about each midnight, s since 1970, some years at once."""
    for year in range(first, last + 1, PIECE_YEARS):
        edges = np.array([year, min(last + 1, year + PIECE_YEARS)]) - 1970
        begin, end = edges.astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64).tolist()
        midnights = np.arange(begin, end, 86400)
        yield np.concatenate([np.arange(begin, end, 3600), midnights - 1, midnights + 1])


def expected_dates(record: Record, seconds: np.ndarray) -> np.ndarray:
    """Return what `Dates` should give, by numpy's calendar, int64 (…, 4)."""
    times = seconds.astype("datetime64[s]")
    day, statistics = times.astype("datetime64[D]"), record.statistics
    months = day.astype("datetime64[M]")
    of_year = (day - months.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    of_day = (times - day.astype("datetime64[s]")).astype(np.int64)
    group = months.astype(np.int64) % 12 + 1 if statistics.groups == "month" else of_day // 3600
    rows = np.full(24, -1)
    rows[list(statistics.keys)] = np.arange(len(statistics.keys))
    return np.stack([rows[group], of_year, of_day, stamped(seconds, record.stamp_s)], -1)


def compare_dates(program: Program, record: Record) -> int:
    """Compare a program of `Dates` at all dates, and return how many.

    Args:
        program: Takes int64 (window, step), as many steps as the encoder's window.
        record: The encoder's.

    Raises:
        EarthSSLError: If one differs; names the first of the dates, what is expected, and how many differ.
    """
    count, step = 0, record.encoder.window
    for seconds in all_dates():
        seconds = np.resize(seconds, (-(-len(seconds) // step), step))
        found, expected = program(torch.from_numpy(seconds)), expected_dates(record, seconds)
        if found.shape != expected.shape:
            raise EarthSSLError(f"expected dates of shape {expected.shape}, got {found.shape}")
        wrong = found != expected
        if wrong.any():
            k = tuple(int(i[0]) for i in np.nonzero(wrong))
            time = seconds[k[:-1]].astype("datetime64[s]")
            raise EarthSSLError(
                f"expected the {PARTS[k[-1]]} {expected[k]} at {time}, got {found[k]} "
                f"({int(wrong.any(-1).sum())} of {seconds.size} dates differ)"
            )
        count += seconds.size
    return count


def cases(frozen: FrozenEncoder) -> Iterator[tuple[str, Inputs]]:
    """Yield raw windows and what they are: several, one, and a hundred spread over all years with gaps of all kinds."""
    yield "three windows", example(frozen, 3)
    yield "one window", example(frozen, 1, seed=1)
    years = np.array([f"{FIRST_YEAR}-01-01", f"{LAST_YEAR - 1}-01-01"], "datetime64[D]")
    first = years[0] + (np.arange(WINDOWS) * ((years[1] - years[0]).astype(int) / (WINDOWS - 1))).astype(int)
    rng = np.random.default_rng(3)
    for k in range(0, WINDOWS, BATCH):
        times = times_from(frozen, first[k : k + BATCH], rng)
        fields, seconds = near_climatology(frozen, times, rng, 0.0)
        for j in range(len(fields)):
            _cut(fields[j], GAPS[(k + j) % len(GAPS)], rng)
        yield f"windows of {times[0, 0]!s:.10} to {times[-1, -1]!s:.10}", (fields, seconds)


def _cut(window: Tensor, gaps: str, rng: np.random.Generator) -> None:
    """Make some of a window (step, variable, row, column) missing."""
    steps, variables, rows, columns = window.shape
    if gaps == "some cells":
        window[torch.from_numpy(rng.random(window.shape) < 0.3)] = torch.nan
    elif gaps == "a variable":
        window[:, rng.integers(variables)] = torch.nan
    elif gaps == "a step":
        window[rng.integers(steps)] = torch.nan
    elif gaps == "a region":
        row, column = rng.integers(rows // 2 + 1), rng.integers(columns // 2 + 1)
        window[:, :, row : row + rows // 2 + 1, column : column + columns // 2 + 1] = torch.nan
    elif gaps == "all but a cell":
        kept = window[:, :, rows // 2, columns // 2].clone()
        window[:] = torch.nan
        window[:, :, rows // 2, columns // 2] = kept
    elif gaps == "everything":
        window[:] = torch.nan


def embedded(frozen: FrozenEncoder, fields: Tensor, seconds: Tensor, pooling: str, layer: int) -> np.ndarray:
    """Return the features of raw windows by the way `FrozenEncoder.embed` goes; shapes as in `PortableEncoder`."""
    times = seconds.numpy().astype("datetime64[s]")
    view = frozen.view(pooling, layer, 64, check_range=False)
    return frozen.of_windows(fields.numpy(), times, frozen.record.variables, view)[:, 0]


def difference(program: Program, frozen: FrozenEncoder, inputs: Inputs, pooling: str, layer: int) -> float:
    """Return the largest absolute difference of the program's features from what `embed` computes; NaN for any NaN.

    Raises:
        EarthSSLError: If they have another shape.
    """
    fields, seconds = inputs
    expected = embedded(frozen, fields, seconds, pooling, layer)
    found = program(fields, seconds)
    if found.shape != expected.shape:
        raise EarthSSLError(f"export: expected features of shape {expected.shape}, got {found.shape}; report this")
    return float(np.abs(found - expected).max())
