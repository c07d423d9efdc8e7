"""A folder of this machine as a place of files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import EarthSSLError
from .place import BLOCK, Absent, Opened, Remote


class Folder(Remote):
    """A folder of this machine."""

    @contextmanager
    def open(self, name: str, start: int = 0, version: str = "") -> Iterator[Opened]:
        path = Path(self.address.place) / name
        try:
            # A link may lead anywhere, and a pipe never ends.
            handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        except (FileNotFoundError, NotADirectoryError):
            raise Absent(f"expected a file at {path}, found none; check the address") from None
        except OSError as error:
            raise EarthSSLError(
                f"{path}: expected a plain file, but {os.strerror(error.errno or 0)}; check path and rights"
            ) from None
        with handle:
            state = os.fstat(handle.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise EarthSSLError(f"{path}: expected a plain file, got something else; the folder is not trusted")
            present = f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"
            start = start if version == present else 0
            handle.seek(start)
            yield Opened(start, state.st_size, present, iter(lambda: handle.read(BLOCK), b""))
