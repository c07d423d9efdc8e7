"""NOAA ERSST v5: monthly sea surface temperature since 1854, 2°; one file, downloaded once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xarray as xr

from ..common.errors import EarthSSLError
from ..common.files import cache_folder, disk_full_is_clear, sha256, write_text
from ..common.progress import transfer_bar
from ..remote.address import parse
from ..remote.download import Wanted
from ..remote.download import fetch as download
from ..remote.open_place import remote_of
from .local_files import check_whole, open_files

URL = "https://downloads.psl.noaa.gov/Datasets/noaa.ersst.v5/sst.mnmean.nc"
LICENCE = "NOAA: no constraints on data access or use"
CITATION = "Huang et al. (2017), Extended Reconstructed Sea Surface Temperature, Version 5, doi:10.7289/V5T72FNM"
LARGEST = 4 << 30  # bytes; the file has 0.1 GB


def open_ersst(
    *,
    url: str = URL,
    cache: str | Path | None = None,
    refresh: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Return ERSST v5 as a canonical dataset: `sst` in K, monthly, 89 × 180, land is NaN.

    The file is kept in the cache folder with its SHA-256 beside it, which is checked at every later use.
    The agency replaces the file each month; `refresh` fetches the present one.

    Args:
        url: Where to download from.
        cache: Folder to keep the file in; None is the usual one, see `cache_folder`.
        refresh: Download again even where the file is at hand.
        **options: Fields of `Selection`: variables, time, region, coarsen, …

    Raises:
        EarthSSLError: If the file cannot be downloaded or is not NetCDF, or whatever `canonicalise` refuses.
    """
    folder = cache_folder(cache) / "ersst"
    if url != URL:  # other files of the same name do not take its place
        folder /= hashlib.sha256(url.encode()).hexdigest()[:12]
    file = folder / (Path(urlsplit(url).path).name or "sst.nc")
    fetch(url, file, refresh=refresh)
    ds = open_files(file, **{"variables": ("sst",), **options})
    ds.attrs |= {"source": "NOAA ERSST v5", "licence": LICENCE, "citation": CITATION, "url": url}
    ds.attrs["sha256"] = _recorded(file)
    return ds


def fetch(url: str, file: Path, *, refresh: bool = False) -> Path:
    """Return the file, downloaded from the URL unless it is at hand and whole.

    An interrupted download is kept, and the next call continues it where the server allows; only a file that is
    complete and opens as NetCDF is moved into place.

    Raises:
        EarthSSLError: If the server cannot be reached, or sends something else.
    """
    if not refresh and file.is_file() and _recorded(file) == sha256(file):
        return file
    place, _, name = url.rpartition("/")
    new = file.with_name(file.name + ".new")
    with disk_full_is_clear(new):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with transfer_bar() as bar:
            task = bar.add_task(f"download {file.name}", total=None)
            wanted = Wanted(name, sha256=None, size=None, limit=LARGEST)
            download(remote_of(parse(place)), wanted, new, lambda done: bar.update(task, completed=done))
    except EarthSSLError as error:
        raise EarthSSLError(
            f"cannot download {url} ({error}); check the network, or fetch that file by other means and open it "
            f"with the source files: path: {file.name}"
        ) from None
    try:
        check_whole(new)
        with xr.open_dataset(new, engine="netcdf4", decode_timedelta=False):
            pass
    except (EarthSSLError, OSError, ValueError) as error:
        new.unlink(missing_ok=True)
        raise EarthSSLError(f"{url}: expected a NetCDF file, got something else ({error}); check the URL") from None
    write_text(_record(file), f"{sha256(new)}  {file.name}\n")
    os.replace(new, file)
    return file


def _record(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _recorded(file: Path) -> str:
    """Return the SHA-256 that was written down when the file was fetched, or ""."""
    record = _record(file)
    text = record.read_text(encoding="utf-8").split() if record.is_file() else []
    return text[0] if text else ""
