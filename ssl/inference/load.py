"""Loading the frozen encoder of a checkpoint, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint.read import read
from ..hub.pull import load_folder
from .frozen_encoder import FrozenEncoder


def load_encoder(address: str | Path) -> FrozenEncoder:
    """Return the `FrozenEncoder` of a checkpoint: a folder, that of its run, or any address that `pull` takes."""
    encoder, record = read(load_folder(address))
    return FrozenEncoder(encoder, record)
