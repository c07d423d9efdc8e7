"""Places that hold files: one small interface for a folder, a web server, S3 and the Hugging Face Hub.

A place is opened at an offset and gives blocks; `download.py` does the rest (resuming, limits, retries, hashes), once
for all of them. Names are the caller's: none comes from the other side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..common.errors import EarthSSLError
from .address import Address

BLOCK = 1 << 20  # bytes

TIMEOUT_S = 30.0  # without a byte


class Absent(EarthSSLError):
    """There is no such file."""


class Transient(Exception):
    """It failed, but may succeed when tried again.

    Attributes:
        wait_s: Seconds that the other side asks to wait, or 0.
    """

    def __init__(self, said: str, wait_s: float = 0.0) -> None:
        super().__init__(said)
        self.wait_s = wait_s


@dataclass
class Opened:
    """A file that is being read.

    Attributes:
        start: Offset of the first block, bytes: what was asked for, or 0 where the place begins anew.
        total: Size of the whole file, bytes, where the place says so; it may lie.
        version: What tells this version of the file from another, or "" where nothing does.
        blocks: Its bytes from `start` on.
    """

    start: int
    total: int | None
    version: str
    blocks: Iterator[bytes]


class Remote(ABC):
    """A place that holds the files of a checkpoint or a registry's index."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def where(self, name: str) -> str:
        """Return the file's address for messages and stamps."""
        return f"{self.address.bare.rstrip('/')}/{name}"

    @abstractmethod
    def open(self, name: str, start: int = 0, version: str = "") -> AbstractContextManager[Opened]:
        """Open a file at an offset if it is still of this version, else at its beginning.

        Raises:
            Absent: If there is none.
            Transient: If trying again may help.
            EarthSSLError: If it does not.
        """
