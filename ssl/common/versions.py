"""The versions of what a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    names = ("torch", "pytorch-lightning", "lightning-bolts", "timm", "numpy", "xarray", "zarr", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
