"""WeatherBench 2: ERA5 at coarse resolutions, 6-hourly since 1959, read from public cloud storage."""

from __future__ import annotations

import http.client
import importlib.util
import urllib.error
import urllib.request
from typing import Any

import xarray as xr

from ..common.errors import EarthSSLError
from .canonical import canonicalise
from .local_files import matched, open_zarr

BUCKETS = "https://storage.googleapis.com"
URL = f"{BUCKETS}/weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"
LICENCE = "Copernicus licence (CC BY 4.0): contains modified Copernicus Climate Change Service information"
CITATION = "Rasp et al. (2024), doi:10.1029/2023MS004019; Hersbach et al. (2020), doi:10.1002/qj.3803"
VARIABLES = ("t2m", "u10", "v10", "msl", "z500", "t850")
PACKAGES = {"gs": ("gcsfs", "earthssl[gcs]"), "gcs": ("gcsfs", "earthssl[gcs]"), "s3": ("s3fs", "s3fs")}
ANONYMOUS = {"gs": {"token": "anon"}, "gcs": {"token": "anon"}, "s3": {"anon": True}}


def open_weatherbench2(*, url: str = URL, timeout: float = 20.0, **options: Any) -> xr.Dataset:
    """Return ERA5 from a WeatherBench 2 store as a canonical dataset, lazily: nothing but what is used is read.

    Beware: sea surface temperature is NaN throughout in several coarse stores (the 64 × 32 one among them);
    asking for it is an error there.

    Args:
        url: Zarr store: https://…, gs://… (needs the extra gcs), or a local folder.
        timeout: Seconds without an answer after which the store counts as out of reach.
        **options: Fields of `Selection`: variables (default t2m, u10, v10, msl, z500, t850), levels, time,
            every, region, coarsen.

    Raises:
        EarthSSLError: If the store cannot be reached, or whatever `canonicalise` refuses.
    """
    ds = open_store(url, timeout)
    attrs = {"source": "ERA5 by WeatherBench 2", "licence": LICENCE, "citation": CITATION, "url": url}
    return canonicalise(
        ds,
        where=url,
        attrs=attrs,
        assume_units=True,
        eager_bytes=0,
        exhaustive="://" not in url,
        **{"variables": VARIABLES, **options},
    )


def open_store(url: str, timeout: float) -> xr.Dataset:
    """Return a Zarr store by its URL, anonymously, nothing read but its metadata.

    Raises:
        EarthSSLError: If it cannot be reached in time, is not there, or needs a package that is not installed.
    """
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if not scheme:
        return open_zarr(str(matched(url)[0]), url, consolidated=False)
    if scheme in PACKAGES:
        package, install = PACKAGES[scheme]
        if importlib.util.find_spec(package) is None:
            https = f", or give the same store as {BUCKETS}/{url.split('://', 1)[1]}" if package == "gcsfs" else ""
            raise EarthSSLError(f"{url}: {scheme}:// needs the package {package}: pip install {install}{https}")
        return open_zarr(url, url, consolidated=None, storage_options=ANONYMOUS[scheme])
    if scheme not in ("http", "https"):
        raise EarthSSLError(f"{url}: expected https://, gs://, s3:// or a local folder, got '{scheme}://'")
    _check_reachable(url, timeout)
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=max(timeout, 60))
    return open_zarr(url, url, consolidated=True, storage_options={"client_kwargs": {"timeout": limits}})


def _check_reachable(url: str, timeout: float) -> None:
    """Ask for the store's metadata once, so that a missing network is told at once and in one line."""
    for name in (".zmetadata", "zarr.json"):
        request = urllib.request.Request(f"{url.rstrip('/')}/{name}", headers={"User-Agent": "earthssl"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                answer.read(1)
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in (403, 404):
                raise EarthSSLError(f"{url}: the server refuses ({error.code} {error.reason}); try later") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise EarthSSLError(
                f"{url}: cannot be reached ({reason}); check the network, or copy the store and give its folder "
                "with the option url"
            ) from None
    raise EarthSSLError(f"{url}: expected a Zarr store with consolidated metadata, found none there; check the URL")
