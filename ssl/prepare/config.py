"""The settings of `prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..common.errors import EarthSSLError
from ..fields.normalisation import StatisticsConfig
from ..fields.splits import SplitsConfig
from ..runtime.workers import LOCAL
from ..sources import option_hints
from ..store.encoding import DTYPES

FREE = ("out", "append", "workers", "scheduler", "memory_mb", "allow_gap")  # the bytes do not depend on these


@dataclass(frozen=True)
class PrepareConfig:
    """From a source to a training store.

    Attributes:
        source: planet, weather, controls, lorenz96, columns, radar, files, combined, ersst, weatherbench2 or
            arco-era5.
        out: Folder of the store; must be new or empty.
        splits: Blocks of time and the embargo between them.
        options: What the source takes: path, variables, levels, time, …
        statistics: How anomalies are made.
        dtype: float32, float16 or int16 (half the size; errors in `encoding`).
        chunk_mb: Size of a chunk's file, MiB.
        workers: Tasks at once on this machine; none takes one for each core, at most 8.
        scheduler: "threads", "processes" (for sources that one process reads slowly, such as compressed NetCDF), or
            the address of a dask.distributed scheduler, tcp://…, whose workers see the same files.
        memory_mb: Memory that a process may take, MiB: what runs at once follows from it. None is half of the
            machine's.
        append: A finished store to append the source's later times to, in place; `out` is then not needed.
        allow_gap: Whether appended times may begin more than a step after the store's last.
    """

    source: str
    out: str
    splits: SplitsConfig
    options: dict[str, Any] = field(default_factory=dict)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    dtype: str = "float32"
    chunk_mb: float = 32.0
    workers: int | None = None
    scheduler: str = "threads"
    memory_mb: float | None = None
    append: str | None = None
    allow_gap: bool = False

    @staticmethod
    def hints_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the types of what `options` may hold: they are those of the source's opener and of `Selection`."""
        return option_hints(str(settings.get("source", ""))) if name == "options" else {}

    def __post_init__(self) -> None:
        for name in ("workers", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise EarthSSLError(f"prepare.{name}: expected more than 0, got {value}")
        if self.scheduler not in LOCAL and "://" not in self.scheduler:
            raise EarthSSLError(
                f"prepare.scheduler: expected {', '.join(LOCAL)} or an address such as tcp://host:8786, got "
                f"'{self.scheduler}'"
            )
        if self.dtype not in DTYPES:
            raise EarthSSLError(f"prepare.dtype: expected {', '.join(DTYPES)}, got '{self.dtype}'")
        if not self.chunk_mb > 0:
            raise EarthSSLError(f"prepare.chunk_mb: expected a positive size, got {self.chunk_mb}")
