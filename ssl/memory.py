"""How much memory this process takes and how much there is, bytes."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

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
    return _kilobytes(STATUS, "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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


class Meter:
    """The memory that counts on a device: resident size on a CPU, what torch allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Forget the peak so far, where the system lets us."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with contextlib.suppress(OSError):
            REFERENCES.write_text("5")

    def now(self) -> int:
        """Return what is held now."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else rss()

    def peak(self) -> int:
        """Return the most that was held since `reset`."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak_rss()

    def free(self) -> int | None:
        """Return what may be taken besides what is held; None where it is not known."""
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else free_ram()
