"""What an unfinished fine-tuning keeps beside its folder, so that the same command goes on where it was stopped.

Every network that is done is a file, and so is the state of the one in training at its last look at validation. The
folder has the name of the results with ".unfinished" behind it, and goes when they appear. Everything else, the heads
in closed form, is made again.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import digest, locked, read_json, write_json
from ...ssl.common.versions import versions
from .saved_state import read_state, write_state

BEGUN = "begun.json"


@dataclass(frozen=True)
class Unfinished:
    """A folder of finished networks, and of states of those in training.

    Attributes:
        folder: Where they are; None keeps nothing.
    """

    folder: Path | None = None

    def state(self, name: str) -> Path | None:
        """Return the file for the state of a training."""
        return None if self.folder is None else self.folder / f"{name}.state.pt"

    def result(self, name: str) -> dict[str, Any] | None:
        """Return what was kept of a network that is done; None where it is not."""
        return None if self.folder is None else read_state(self.folder / f"{name}.pt")

    def keep(self, name: str, result: dict[str, Any]) -> None:
        """Keep what a finished network is, tensors and plain values; the state of its training goes."""
        if self.folder is not None:
            write_state(self.folder / f"{name}.pt", result)
            (self.folder / f"{name}.state.pt").unlink(missing_ok=True)


@contextmanager
def unfinished(out: Path, record: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Hold the folder of what is unfinished beside `out`; it goes with a run that ends well.

    Args:
        out: Of the results.
        record: What the networks are made from, plain values: settings, and digests of data, labels and checkpoint.

    Raises:
        EarthSSLError: If another process is at it, or it was begun from something else.
    """
    folder = out.with_name(out.name + ".unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        key = {"digest": digest(dict(record)), "torch": versions()["torch"]}
        begun = folder / BEGUN
        if not begun.is_file():
            write_json(begun, key)
        elif read_json(begun, "how it was begun") != key:
            raise EarthSSLError(
                f"{folder}: expected a fine-tuning of the same settings, data, labels and checkpoint to go on with, "
                "got another; give the former ones, choose another --out, or remove the folder"
            )
        done = sum(not file.name.endswith(".state.pt") for file in folder.glob("[!.]*.pt"))
        if done:
            print(f"going on: {done} networks are done", file=sys.stderr)
        yield Unfinished(folder)
    shutil.rmtree(folder, ignore_errors=True)
