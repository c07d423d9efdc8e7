"""Labels from a file, CSV or NetCDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...ssl.common.errors import EarthSSLError, nearest
from .labels import Labels
from .read_csv import read_csv
from .read_netcdf import read_netcdf

KINDS = ("regression", "classification", "field")
MISSING = ("refuse", "drop")


def read_labels(path: str, targets: Sequence[str], kind: str, *, time: str = "time", missing: str = "refuse") -> Labels:
    """Return the labels in a CSV or NetCDF file.

    Args:
        path: The file; NetCDF where its name ends in .nc, .nc4 or .cdf.
        targets: Columns or variables; one for classification and field.
        kind: regression, classification or field.
        time: Name of the column or coordinate of time.
        missing: "refuse" labels without a value, or "drop" (leave out and count) them.

    Raises:
        EarthSSLError: If the file is not clear: what was expected, what came, in which line, and the remedy.
    """
    if kind not in KINDS:
        raise EarthSSLError(f"finetune.kind: expected {', '.join(KINDS)}, got '{kind}'." + nearest(kind, KINDS))
    if missing not in MISSING:
        raise EarthSSLError(
            f"finetune.missing: expected {' or '.join(MISSING)}, got '{missing}'." + nearest(missing, MISSING)
        )
    if not targets or len(set(targets)) < len(targets) or (kind != "regression" and len(targets) > 1):
        some = "different names" if kind == "regression" else "one name"
        raise EarthSSLError(f"finetune.target: expected {some} of what to predict, got {list(targets)}")
    file = Path(path)
    if not file.is_file():
        raise EarthSSLError(f"finetune.labels: expected a CSV or NetCDF file at {file}, found none; check the path")
    if file.suffix in (".nc", ".nc4", ".cdf"):
        return read_netcdf(file, targets, kind, time, missing)
    if kind == "field":
        raise EarthSSLError(f"{file}: expected fields as NetCDF (.nc) with dimensions {time}, lat, lon, got a table")
    return read_csv(file, targets, kind, time, missing)
