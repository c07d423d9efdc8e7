"""Statistics of an unfinished store on disk, kept variable by variable, so that a killed run goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..common.files import disk_full_is_clear, read_json, write_json
from ..common.progress import track
from ..fields.normalisation import Calendar, Statistics
from ..runtime.workers import Workers
from .fit_statistics import bands, first_values, fit_variable, scale_of
from .memory_budget import MemoryPlan
from .moments import Sums
from .tasks import Job, sum_task

DONE = "fitted.json"
COEFFICIENTS, SCALE = "coefficients.f32", "scale.f32"


def fitted_statistics(
    folder: Path, job: Job, name: str, calendar: Calendar, kind: str, workers: Workers, plan: MemoryPlan
) -> Statistics:
    """Return the statistics of a job, fitted by the workers where they are not there yet, mapped from files.

    Args:
        folder: Where they are kept.
        job: Source and store.
        name: Of the job, for the workers.
        calendar: Of the climatology.
        kind: "cell" or "variable": see `StatisticsConfig`.
        workers: Who sums.
        plan: How many at once, and in how many bands.
    """
    variables, grid = job.template.variables, job.template.grid
    shape = (len(calendar.keys), calendar.size, len(variables), *grid.shape)
    done: list[int] = read_json(folder / DONE, "the variables fitted")["done"] if (folder / DONE).is_file() else []
    parts = bands(int(np.prod(grid.shape)), plan.bands)
    fits = plan.fits
    left = [k for k in range(len(variables)) if k not in done]
    for k in track(left, "statistics"):
        shift = first_values(job.shaped, job.stretches, k)

        def sums_of(
            own: np.ndarray, band: tuple[int, int], segments: list[tuple[int, int]], k: int = k
        ) -> Iterator[Sums]:
            return workers.in_order(sum_task, [(name, calendar, k, own, segment, band) for segment in segments], fits)

        found = fit_variable(sums_of, job.stretches.segments(), shift, parts)
        with disk_full_is_clear(folder / "statistics"):
            _put(folder / COEFFICIENTS, shape[:2], k, len(variables), found.coefficients)
            _put(folder / SCALE, (1, 1), k, len(variables), scale_of(found, grid.area, kind)[None, None])
        done.append(k)
        write_json(folder / DONE, {"done": done})
    coefficients = np.memmap(folder / COEFFICIENTS, "<f4", "r", shape=shape)
    scale = np.memmap(folder / SCALE, "<f4", "r", shape=shape[2:])
    return Statistics(calendar.groups, calendar.keys, calendar.harmonics, coefficients, scale, job.transforms)


def _put(file: Path, rows: tuple[int, int], variable: int, variables: int, values: np.ndarray) -> None:
    """Write one variable's values (keys, basis, …) into a file of all variables (keys, basis, variables, …).

    By plain writes: a map of a file that the disk has no room for would end the process.
    """
    values = values.reshape(*rows, -1).astype("<f4")
    size = values.shape[2] * 4
    with open(file, "r+b" if file.exists() else "w+b") as handle:
        for number, row in enumerate(values.reshape(-1, values.shape[2])):
            handle.seek((number * variables + variable) * size)
            handle.write(row.data)
        handle.flush()
        os.fsync(handle.fileno())
