"""Whether fields are held in memory or read from files, and on which device."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ..common.errors import EarthSSLError
from ..runtime.memory import Meter
from ..store.store import Store
from .reading import Fields
from .resident import Resident
from .streaming import Streaming

MODES = ("auto", "resident", "streaming")
DEVICES = ("auto", "cpu", "accelerator")
RAM_SHARE = 0.5  # of the free memory, for all parts that one process holds; the rest is for the training
DEVICE_SHARE = 0.25  # of an accelerator's free memory, asked before the network is on it
PROCESSOR = torch.device("cpu")


def free_bytes(device: torch.device) -> int:
    """Return what may be taken on a device; half of all RAM where the system does not say what is free."""
    free = Meter(device).free()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if free is None else free


@dataclass(frozen=True)
class Loading:
    """How the fields of a part are held.

    Attributes:
        mode: "resident" (in memory), "streaming" (read as asked) or "auto" (resident where it fits).
        device: "cpu", "accelerator", or "auto": on the accelerator where it fits.
        accelerator: The training's device.
        processes: Processes that share this machine's memory.
    """

    mode: str = "auto"
    device: str = "cpu"
    accelerator: torch.device = PROCESSOR
    processes: int = 1

    @classmethod
    def of(cls, mode: str, device: str, accelerator: str, processes: int) -> Loading:
        """Return the loading of a training.

        Args:
            mode: As above.
            device: As above.
            accelerator: Lightning's word: auto, cpu, gpu.
            processes: Processes on this machine, unless the launcher says how many in LOCAL_WORLD_SIZE.
        """
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        found = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if found else "cpu"
        return cls(mode, device, torch.device(name), processes)

    def open(self, store: Store, first: int, last: int) -> Fields:
        """Return the fields of the steps [first, last).

        Raises:
            EarthSSLError: If they are to be resident but do not fit.
        """
        opened = self._open(store, first, last)
        opened.pinned = self.accelerator.type == "cuda" and opened.device.type == "cpu"
        return opened

    def keeps(self, size: int) -> bool:
        """Whether fields of so many bytes would be kept in RAM, where no accelerator takes them."""
        return self.mode != "streaming" and size <= self._room()

    def _room(self) -> int:
        return int(RAM_SHARE * free_bytes(PROCESSOR) / self.processes)

    def _open(self, store: Store, first: int, last: int) -> Fields:
        if store.shown(first, last) is not None:
            return Resident(store, first, last)
        size = (last - first) * store.step_bytes
        if self.mode == "streaming":
            return Streaming(store, first, last)
        if self.device != "cpu" and self.accelerator.type != "cpu":
            room = int(DEVICE_SHARE * free_bytes(self.accelerator))
            if size <= room:
                return Resident(store, first, last, self.accelerator)
            if self.device == "accelerator" and self.mode == "resident":
                raise _too_large(store, size, room, f"a quarter of what is free on {self.accelerator}")
        room = self._room()
        if size <= room:
            return Resident(store, first, last)
        if self.mode == "resident":
            raise _too_large(store, size, room, f"half of the free memory, for each of {self.processes} process(es)")
        return Streaming(store, first, last)


def _too_large(store: Store, size: int, room: int, what: str) -> EarthSSLError:
    return EarthSSLError(
        f"training.data resident: {store.path} needs {size / 2**30:.2f} GiB, but there are {room / 2**30:.2f} GiB "
        f"({what}); take auto or streaming"
    )
