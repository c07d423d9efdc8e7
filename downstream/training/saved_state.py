"""State of a training in one file: whole or not there, read as data only."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a temporary neighbour, then rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_full_is_clear(path):
            torch.save(state, temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what `write_state` wrote; None where there is no file.

    Raises:
        EarthSSLError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EarthSSLError(
            f"{path}: expected the state of a training, but it cannot be read ({why}); remove it and run the same "
            "command again"
        ) from None
    return found
