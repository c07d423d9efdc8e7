"""`earthssl embed`: features of a file, written chunk by chunk to another, NetCDF or Zarr by its suffix."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import xarray as xr

from ..common.errors import EarthSSLError, nearest
from ..common.files import disk_full_is_clear
from ..common.progress import dask_progress
from ..sources.local_files import open_files
from ..sources.regrid import LEAST_VALID
from .frozen_encoder import READERS, TASK
from .load import load_encoder
from .screening import possible

SUFFIXES = {".nc": "NetCDF", ".nc4": "NetCDF", ".zarr": "Zarr"}


def embed_file(
    checkpoint: str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    pooling: str = "mean",
    layer: int | Sequence[int] = -1,
    check_range: bool = True,
    units: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    missing: Mapping[str, Any] | None = None,
    least_valid: float = LEAST_VALID,
    base: tuple[str, str] | None = None,
) -> Path:
    """Write the features of every window in the data, and return where they lie.

    Args:
        checkpoint: Where the encoder is: what `load_encoder` takes.
        data: NetCDF, GRIB or Zarr: a path, a glob or a list.
        out: File to write; `.nc` and `.nc4` mean NetCDF, `.zarr` a Zarr folder. It appears when it is whole.
        pooling, layer, check_range, least_valid, base: See `FrozenEncoder.embed`.
        units: Units by variable, where the file says nothing or something wrong.
        rename: Canonical names by the file's own.

    Raises:
        EarthSSLError: If something is at `out` already, or whatever `load_encoder`, `open_files` and `embed` refuse.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise EarthSSLError(
            f"--out: expected a name that ends in {', '.join(SUFFIXES)}, got '{out}'.{nearest(out.suffix, SUFFIXES)}"
        )
    if out.exists():
        raise EarthSSLError(f"{out} exists already; choose another --out, or remove it")
    if not out.absolute().parent.is_dir():
        raise EarthSSLError(f"expected a folder to write {out} into, {out.absolute().parent} does not exist; make it")
    source = str(data) if isinstance(data, (str, Path)) else [str(path) for path in data]
    frozen = load_encoder(checkpoint)
    ds = open_files(
        source, units=units or {}, rename=rename or {}, missing=missing or {},
        check_range=possible(frozen.record, check_range),
    )  # fmt: skip
    features = frozen.embed(ds, pooling, layer, lazy=True, check_range=check_range, least_valid=least_valid, base=base)
    write(features, out)
    return out


def write(features: xr.DataArray, out: Path) -> None:
    """Compute lazy features chunk by chunk into a new file, which appears under its name when it is whole."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}{out.suffix}")
    try:
        with (
            disk_full_is_clear(out),
            dask_progress(TASK, features.data.numblocks[0], "embed"),
            ThreadPoolExecutor(
                READERS
            ) as threads,  # left only when all have ended: after an error none goes on writing
            dask.config.set(scheduler="threads", pool=threads),
        ):
            if SUFFIXES[out.suffix] == "Zarr":
                with warnings.catch_warnings():  # xarray looks for consolidated metadata, zarr warns of writing them
                    warnings.filterwarnings("ignore", "Consolidated metadata")
                    features.to_zarr(temporary, consolidated=True)
            else:
                features.to_netcdf(temporary)
        os.replace(temporary, out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
