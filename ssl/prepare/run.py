"""One run of `prepare` or of an append: its workers, its memory, and the chunks it writes."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from ..common.files import MIB
from ..common.progress import Counted, track
from ..fields.normalisation import Calendar, StatisticsConfig
from ..fields.splits import months_apart
from ..runtime.memory import peak_rss, ram, reset_peak, rss
from ..runtime.workers import Workers, default_workers
from ..sources.local_files import matched
from ..store.chunks import Contents, Template
from .config import PrepareConfig
from .memory_budget import MemoryPlan, plan
from .tasks import Job, source_steps, write_task


class Run:
    """One run of `prepare`: its memory, its workers, and what the manifest says of it."""

    def __init__(self, config: PrepareConfig) -> None:
        """Start counting time and memory."""
        reset_peak()
        self.config, self.begun = config, time.perf_counter()
        self.memory_mb = config.memory_mb or ram() / MIB / 2

    def workers(self) -> Workers:
        """Return the workers, to be entered."""
        return Workers(self.config.scheduler, self.config.workers or default_workers())

    def plan(self, workers: Workers, job: Job, calendar: Calendar) -> MemoryPlan:
        """Return what runs at once; see `memory_budget.plan`."""
        own = (workers.count, workers.share)
        return plan(job.template, calendar, job.piece, source_steps(job.data), own, self.memory_mb, rss() / MIB)

    def record(self, workers: Workers, planned: MemoryPlan, template: Template) -> dict[str, Any]:
        """Return when, where and with what the store was made, and print what it took."""
        seconds, peak = time.perf_counter() - self.begun, max(peak_rss() / MIB, workers.peak_mb)
        size = len(template.chunks()) * template.chunk_bytes / MIB
        print(
            f"prepare: {size:.0f} MiB in {seconds:.0f} s; {workers.count} workers ({workers.scheduler}); peak memory "
            f"{peak:.0f} MiB a process, planned {planned.needed_mb:.0f} of {self.memory_mb:.0f} MiB",
            file=sys.stderr,
        )
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("numpy", "xarray", "zarr", "dask")}
            | {"python": platform.python_version()},
            "run": {
                "seconds": round(seconds, 1),
                "scheduler": workers.scheduler,
                "workers": workers.count,
                "memory_mb": {
                    "allowed": round(self.memory_mb),
                    "planned": round(planned.needed_mb),
                    "peak": round(peak),
                    "arithmetic": planned.words,
                },
            },
        }


def write_chunks(job: Job, name: str, workers: Workers, planned: MemoryPlan) -> list[Contents]:
    """Write the chunks that are not there yet; return what the manifest says of each from the job's first on."""
    first = job.skip // job.template.chunk_steps
    numbers = range(first, len(job.template.chunks()))
    groups = [numbers[k : k + planned.chunks_together] for k in range(0, len(numbers), planned.chunks_together)]
    done = workers.in_order(write_task, [(name, group) for group in groups], planned.writes)
    found: list[Contents] = []
    for part in track(Counted(done, len(groups)), "store"):
        found += part
    return found


def told(quality: dict[str, dict[str, Any]], remarks: str = "") -> dict[str, dict[str, Any]]:
    """Print once what is odd about the values, the source's own remarks too, and return the former."""
    for text in filter(None, remarks.split("; ")):
        print(f"prepare: {text}", file=sys.stderr)
    for name, one in quality.items():
        for finding in one["findings"]:
            print(f"prepare: {name}: {finding}", file=sys.stderr)
    return quality


def sawtooth(times: np.ndarray, config: StatisticsConfig) -> str:
    """Return what is wrong with a climatology by calendar month for steps shorter than a month, "" for nothing.

    The mean of a month is one number for all its days: anomalies rise or fall with the season within each month and
    jump at its end. Nothing is said of training within one month, such as stores with made-up dates.

    Args:
        times: Of training, datetime64, ascending.
        config: What the climatology is asked to be.
    """
    calendar = Calendar.chosen(times, config)
    months = len(np.unique(times.astype("datetime64[M]")))
    if calendar.groups != "month" or len(calendar.keys) < 2 or months_apart(times) or len(times) < 2 * months:
        return ""
    usual = Calendar.chosen(times, replace(config, climatology="hour", harmonics=None)).harmonics
    typed = "--{0}statistics.climatology hour"
    if config.harmonics == 0 or not (usual or config.harmonics):
        whole = usual or len(calendar.keys) == 12
        typed += f" --{{0}}statistics.harmonics {usual or 1}" if whole else " and a training block of two years"
    return (
        f"statistics.climatology: month has one mean for all {len(times) / months:.0f} steps of a month, which leaves "
        "a sawtooth of the season in the anomalies; for harmonics of the year in place of it, prepare into another "
        f"--out with {typed.format('')} (earthssl run: {typed.format('prepare.')})"
    )


def source_stamps(config: PrepareConfig) -> dict[str, list[int]]:
    """Return the size (bytes) and the time of the last change (ns) of the local files or folders read."""
    stamps = {}
    for options in config.options.get("parts", [config.options]):
        for given in (options.get("path", options.get("url")), options.get("unlabelled")):
            for item in [] if not given or "://" in str(given) else matched(given):
                inside = [file.stat() for file in ([item] if item.is_file() else item.rglob("*"))]
                stamps[str(item)] = [sum(s.st_size for s in inside), max((s.st_mtime_ns for s in inside), default=0)]
    return stamps
