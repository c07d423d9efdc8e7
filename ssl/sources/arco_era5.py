"""ARCO-ERA5: hourly ERA5 at 0.25° on 37 levels, read from public cloud storage."""

from __future__ import annotations

from typing import Any

import xarray as xr

from .canonical import canonicalise
from .weatherbench2 import BUCKETS, LICENCE, VARIABLES, open_store

URL = f"{BUCKETS}/gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3"
CITATION = "Carver and Merose (2023), ARCO-ERA5; Hersbach et al. (2020), doi:10.1002/qj.3803"


def open_arco_era5(*, url: str = URL, timeout: float = 20.0, **options: Any) -> xr.Dataset:
    """Return ARCO-ERA5 as a canonical dataset, lazily: nothing but what is used is read.

    One hour of one field is 4 MB to download: choose times with `time` and `every`, and let `coarsen`
    average the 721 × 1440 cells (the last pole row is then left over, as 721 has no small divisor).

    Args:
        url: Zarr store: https://…, gs://… (needs the extra gcs), or a local folder.
        timeout: Seconds without an answer after which the store counts as out of reach.
        **options: Fields of `Selection`: variables (default t2m, u10, v10, msl, z500, t850), levels, time,
            every, region, coarsen.

    Raises:
        EarthSSLError: If the store cannot be reached, or whatever `canonicalise` refuses.
    """
    ds = open_store(url, timeout)
    first, last = (ds.attrs.get(f"valid_time_{edge}") for edge in ("start", "stop"))
    if first and last:  # the time axis is laid out far beyond the data, the rest of it is fill
        ds = ds.sel(time=slice(str(first), str(last)))
    attrs = {"source": "ARCO-ERA5", "licence": LICENCE, "citation": CITATION, "url": url}
    return canonicalise(
        ds,
        where=url,
        attrs=attrs,
        assume_units=True,
        eager_bytes=0,
        exhaustive="://" not in url,
        **{"variables": VARIABLES, **options},
    )
