"""pack: the same store compressed, many steps a file: to be sent, or kept where many machines fetch it from."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec, BloscShuffle

from ..common.errors import EarthSSLError
from ..common.files import check_disk, disk_full_is_clear, refuse_filled, write_text
from ..common.progress import track
from .chunks import MANIFEST
from .encoding import CF, fill_value
from .store import Store

LEVEL = 5


def pack(path: str | Path, out: str | Path) -> Path:
    """Write a store anew, losslessly compressed (Blosc: bits shuffled, zstd), and return its folder.

    A step is a chunk, so that others can read single steps; the steps of a chunk of the plain store are one file, a
    shard. Manifest and fingerprint stay. Training reads such a store through the local cache, see `chunk_cache`.

    Args:
        path: A finished store.
        out: Folder of the new one; must be new or empty.

    Raises:
        EarthSSLError: If there is no such store, a chunk is missing, or the output folder is filled.
    """
    store, out = Store(path), Path(out)
    refuse_filled(out, "the packed store")
    check_disk(
        out.parent, store.step_bytes * len(store.times), "the packed store (at most)", "or choose another folder"
    )
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not (partial / "zarr.json").is_file():
        raise EarthSSLError(f"{partial} is in the way of the unfinished work and was not made by it; remove it")
    plain: Any = zarr.open_group(store.path, mode="r")
    with disk_full_is_clear(partial), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata, see `writing.create`
        group = zarr.create_group(partial, zarr_format=3, overwrite=True)
        steps = len(store.times)
        for name in ("time", "lat", "lon", "climatology", "scale"):
            rows = steps if name == "time" else None
            dims = plain[name].metadata.dimension_names
            made: Any = group.create_array(name, data=plain[name][:rows], dimension_names=dims)
            made.attrs.update(dict(plain[name].attrs))
        fields: Any = group.create_array(
            "fields",
            shape=store.shape,
            chunks=(1, *store.shape[1:]),
            shards=(store.chunk_steps, *store.shape[1:]),
            dtype=store.dtype,
            compressors=BloscCodec(cname="zstd", clevel=LEVEL, shuffle=BloscShuffle.bitshuffle),
            fill_value=fill_value(store.dtype),
            dimension_names=("time", "variable", "lat", "lon"),
            config={"write_empty_chunks": True},
        )
        fields.attrs.update(dict(plain["fields"].attrs) | (CF if store.dtype == "int16" else {}))
        for number in track(range(-(-steps // store.chunk_steps)), "pack"):
            first = number * store.chunk_steps
            for a, b, values in store.pieces(first, min(first + store.chunk_steps, steps)):
                fields[a:b] = values
        zarr.consolidate_metadata(partial)
        write_text(partial / MANIFEST, (store.path / MANIFEST).read_text(encoding="utf-8"))
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    shutil.rmtree(partial, ignore_errors=True)
    return out
