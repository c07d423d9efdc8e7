"""How much memory this process takes and how much there is, bytes."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # imported where it is used, so that workers that prepare stay light

STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")
# (limit, use) of the control group of version 2 and version 1
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def peak_rss() -> int:
    """Return the largest resident size of this process so far, or since `reset_peak`.

    Not getrusage's number where there is another: that one counts what the process that started this one held.
    """
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _kilobytes(STATUS, "VmHWM") or (most if sys.platform == "darwin" else most * 1024)


def reset_peak() -> None:
    """Let `peak_rss` count from now on; where the system does not let us, it stays that of the whole process."""
    with contextlib.suppress(OSError):
        REFERENCES.write_text("5")


def rss() -> int:
    """Return the resident size of this process now; its peak where the system does not tell."""
    return _kilobytes(STATUS, "VmRSS") or peak_rss()


def free_ram() -> int | None:
    """Return how much RAM a new process may take: what is available, within the control group's limit."""
    found = _kilobytes(MEMINFO, "MemAvailable")
    for limit, use in GROUPS:
        try:
            left = int(limit.read_text()) - int(use.read_text())
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        found = left if found is None else min(found, left)
    return found


def ram() -> int:
    """Return the memory of this machine, or what its control group may use."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, _ in GROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit ("max")
            found = min(found, int(limit.read_text()))
    return found


class Meter:
    """The memory that counts on a device: resident size on a CPU, what torch allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        self._cuda = torch.cuda if device.type == "cuda" else None

    def reset(self) -> None:
        """Forget the peak so far, where the system lets us."""
        if self._cuda is None:
            reset_peak()
        else:
            self._cuda.reset_peak_memory_stats(self.device)

    def now(self) -> int:
        """Return what is held now."""
        return rss() if self._cuda is None else self._cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """Return the most that was held since `reset`."""
        return peak_rss() if self._cuda is None else self._cuda.max_memory_allocated(self.device)

    def free(self) -> int | None:
        """Return what may be taken besides what is held; None where it is not known."""
        return free_ram() if self._cuda is None else self._cuda.mem_get_info(self.device)[0]
