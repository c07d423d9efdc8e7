"""The versions of what a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

NAMES = ("torch", "pytorch-lightning", "lightning-bolts", "timm", "numpy", "xarray", "zarr", "safetensors")
EXTRA = "lightning-bolts"


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on; lightning-bolts only where it is installed."""
    found = {"python": platform.python_version()}
    for name in NAMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name != EXTRA:
                raise
    return found
