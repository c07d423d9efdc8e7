"""NOAA ERSST v5: monthly sea surface temperature since 1854, 2°; one file, downloaded once."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xarray as xr

from ..common.errors import EarthSSLError
from ..common.files import cache_folder, disk_full_is_clear, sha256, write_text
from ..common.progress import transfer_bar
from .local_files import check_whole, open_files

URL = "https://downloads.psl.noaa.gov/Datasets/noaa.ersst.v5/sst.mnmean.nc"
LICENCE = "NOAA: no constraints on data access or use"
CITATION = "Huang et al. (2017), Extended Reconstructed Sea Surface Temperature, Version 5, doi:10.7289/V5T72FNM"
BLOCK = 1 << 20


def open_ersst(
    *,
    url: str = URL,
    cache: str | Path | None = None,
    refresh: bool = False,
    timeout: float = 30.0,
    **options: Any,
) -> xr.Dataset:
    """Return ERSST v5 as a canonical dataset: `sst` in K, monthly, 89 × 180, land is NaN.

    The file is kept in the cache folder with its SHA-256 beside it, which is checked at every later use.
    The agency replaces the file each month; `refresh` fetches the present one.

    Args:
        url: Where to download from.
        cache: Folder to keep the file in; None is the usual one, see `cache_folder`.
        refresh: Download again even where the file is at hand.
        timeout: Seconds without an answer after which the download is given up.
        **options: Fields of `Selection`: variables, time, region, coarsen, …

    Raises:
        EarthSSLError: If the file cannot be downloaded or is not NetCDF, or whatever `canonicalise` refuses.
    """
    folder = cache_folder(cache) / "ersst"
    if url != URL:  # other files of the same name do not take its place
        folder /= hashlib.sha256(url.encode()).hexdigest()[:12]
    file = folder / (Path(urlsplit(url).path).name or "sst.nc")
    fetch(url, file, refresh=refresh, timeout=timeout)
    ds = open_files(file, **{"variables": ("sst",), **options})
    ds.attrs |= {"source": "NOAA ERSST v5", "licence": LICENCE, "citation": CITATION, "url": url}
    ds.attrs["sha256"] = _recorded(file)
    return ds


def fetch(url: str, file: Path, *, refresh: bool = False, timeout: float = 30.0) -> Path:
    """Return the file, downloaded from the URL unless it is at hand and whole.

    An interrupted download leaves `<file>.part`, and the next call continues it where the server allows;
    only a file that is complete and opens as NetCDF is moved into place.

    Raises:
        EarthSSLError: If the server cannot be reached, or sends something else.
    """
    if not refresh and file.is_file() and _recorded(file) == sha256(file):
        return file
    part = file.with_name(file.name + ".part")
    try:
        with disk_full_is_clear(part):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                _download(url, part, timeout)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 416:  # "range not satisfiable": what is there is no beginning of the file
                    raise
                part.unlink(missing_ok=True)
                _download(url, part, timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise EarthSSLError(
            f"cannot download {url} ({reason}); check the network, or fetch that file by other means and open it "
            f"with the source files: path: {file.name}"
        ) from None
    try:
        check_whole(part)
        with xr.open_dataset(part, engine="netcdf4", decode_timedelta=False):
            pass
    except (EarthSSLError, OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise EarthSSLError(f"{url}: expected a NetCDF file, got something else ({error}); check the URL") from None
    write_text(_record(file), f"{sha256(part)}  {file.name}\n")
    os.replace(part, file)
    _stamp(part).unlink(missing_ok=True)
    return file


def _download(url: str, part: Path, timeout: float) -> None:
    """Write what the URL holds to `part`, going on from what is there already."""
    stamp = json.loads(_stamp(part).read_text()) if _stamp(part).is_file() and part.is_file() else {}
    headers = {"User-Agent": "earthssl"}
    done = part.stat().st_size if stamp.get("url") == url and stamp.get("version") else 0
    if done:
        # without If-Range, a file that was replaced meanwhile would be glued to the old half
        headers |= {"Range": f"bytes={done}-", "If-Range": stamp["version"]}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
        if answer.status != 206:
            done = 0
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if version.startswith("W/"):  # a weak tag does not promise equal bytes
            version = ""
        write_text(_stamp(part), json.dumps({"url": url, "version": version}))
        left = answer.headers.get("Content-Length")
        total = done + int(left) if left else None
        with open(part, "r+b" if done else "wb") as handle, transfer_bar() as bar:
            handle.seek(done)
            task = bar.add_task(f"download {part.name.removesuffix('.part')}", total=total, completed=done)
            while block := answer.read(BLOCK):
                handle.write(block)
                bar.advance(task, len(block))
            got = handle.tell()
            handle.truncate()
            os.fsync(handle.fileno())
    if total is not None and got != total:
        raise OSError(f"the connection broke off after {got} of {total} bytes; the same command goes on from there")


def _stamp(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _record(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _recorded(file: Path) -> str:
    """Return the SHA-256 that was written down when the file was fetched, or ""."""
    record = _record(file)
    text = record.read_text(encoding="utf-8").split() if record.is_file() else []
    return text[0] if text else ""
